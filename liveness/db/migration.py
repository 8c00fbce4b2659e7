"""The schema: bring it up to date, say what it is, compare it with the tables in code.

Releases agree on a schema by its major number: the minor only ever adds.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from oslo_db.sqlalchemy import exc_filters

from liveness import exceptions
from liveness.db import tables
from liveness.db.connection import Database, is_database_error, one_line

LOG = logging.getLogger(__name__)

LOCK = "liveness_db_sync"
LOCK_SECONDS = 60


def needed() -> str:
    """The revision that this release writes for, such as ``1.0``."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def sync(url: str, revision: str = "head") -> str:
    """Bring the schema of the database at ``url`` to ``revision``; return what it was
    before ("" for none). Two at once do no harm: the second waits.

    :raises DatabaseError: in one line, when the database does not let us.
    :raises SchemaTooNew: when it is at a revision that this release does not know.
    """
    with _connected(url) as (database, connection):
        before = _current(connection)
        if before and _parts(before)[0] > _parts(needed())[0]:
            raise exceptions.SchemaTooNew(
                url=str(database), found=before, needed=needed()
            )
        if before and before not in _known():
            return before  # a later minor: all that this release needs is there
        if database.backend == "sqlite":
            # Readers and the beat go on while somebody writes; kept in the file.
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            connection.commit()
        with _alone(connection):
            _run(connection, revision)
        return before


def version(url: str) -> str:
    """The revision of the database at ``url``, or "" when it has no liveness tables.

    :raises DatabaseError: when it cannot be asked.
    """
    with _connected(url) as (_, connection):
        return _current(connection)


def differences(url: str) -> list[str]:
    """How the tables of the database differ from those in code, one line each.

    :raises DatabaseError: when it cannot be asked, or has no tables of this release.
    """
    with _connected(url) as (database, connection):
        require(str(database), _current(connection))
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": tables.VERSION_TABLE,
                "include_name": _is_ours,
                "compare_type": True,
            },
        )
        diffs = compare_metadata(context, tables.metadata)
        return [_described(diff) for diff in diffs]


def require_current(database: Database, pool: sa.Engine) -> None:
    """Return when the schema is one that this release can work on.

    :raises SchemaMissing: :raises SchemaTooOld: :raises SchemaTooNew:
    :raises DatabaseError: when the database cannot be asked.
    """
    with _explained(database), pool.connect() as connection:
        require(str(database), _current(connection))


def require(url: str, found: str) -> None:
    """Return when revision ``found`` is one that this release can work on; else raise
    as :func:`require_current`."""
    if not found:
        raise exceptions.SchemaMissing(url=url)
    ours, theirs = _parts(needed()), _parts(found)
    if theirs[0] > ours[0]:
        raise exceptions.SchemaTooNew(url=url, found=found, needed=needed())
    if theirs < ours:
        raise exceptions.SchemaTooOld(url=url, found=found, needed=needed())


def _current(connection: sa.Connection) -> str:
    if not sa.inspect(connection).has_table(tables.VERSION_TABLE):
        return ""
    table = sa.table(tables.VERSION_TABLE, sa.column("version_num"))
    return connection.execute(sa.select(table.c.version_num)).scalar() or ""


def _parts(revision: str) -> tuple[int, int]:
    major, _, minor = revision.partition(".")
    if not (major.isdigit() and minor.isdigit()):
        return (1 << 30, 0)  # whoever wrote that is not a release we know
    return int(major), int(minor)


def _known() -> set[str]:
    script = ScriptDirectory.from_config(_config())
    return {revision.revision for revision in script.walk_revisions()}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_location()).replace("%", "%%"))
    return config


def _location() -> Path:
    """Where the migrations are: in the package when installed, else beside it."""
    spec = importlib.util.find_spec("liveness.migrations")
    if spec is not None and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0])
    return Path(__file__).parents[2] / "migrations"


def _run(connection: sa.Connection, revision: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    if revision == "head" or revision in _known() and _is_up(connection, revision):
        command.upgrade(config, revision)
    else:
        command.downgrade(config, revision)
    connection.commit()


def _is_up(connection: sa.Connection, revision: str) -> bool:
    current = _current(connection)
    return not current or _parts(current) <= _parts(revision)


@contextlib.contextmanager
def _connected(url: str) -> Iterator[tuple[Database, sa.Connection]]:
    """A connection with transactions, and without a timeout on statements: changing a
    large table takes its time."""
    database = Database(url, timeout=10)
    engine = sa.create_engine(
        database.url, poolclass=sa.NullPool, connect_args=_connect_args(database)
    )
    exc_filters.register_engine(engine)
    with _explained(database), engine.connect() as connection:
        yield database, connection


def _connect_args(database: Database) -> dict[str, Any]:
    if database.backend == "sqlite":
        return {"timeout": 30}
    return {"connect_timeout": 10}


@contextlib.contextmanager
def _explained(database: Database) -> Iterator[None]:
    """Errors of the database as one line that names it, without its password."""
    try:
        yield
    except Exception as error:
        if not is_database_error(error):
            raise
        raise exceptions.DatabaseError(
            url=str(database), reason=one_line(error)
        ) from None


@contextlib.contextmanager
def _alone(connection: sa.Connection) -> Iterator[None]:
    """Keep other syncs of the same database out for the block."""
    name = connection.dialect.name
    if name == "mysql":
        got = connection.scalar(
            sa.text("SELECT GET_LOCK(CONCAT(DATABASE(), :name), :seconds)"),
            {"name": LOCK, "seconds": LOCK_SECONDS},
        )
        if got != 1:
            raise OSError("another 'db sync' is still running; try again later")
    elif name == "postgresql":
        connection.execute(
            sa.text("SELECT pg_advisory_lock(hashtext(:name))"), {"name": LOCK}
        )
    connection.commit()
    try:
        yield
    finally:
        if name == "mysql":
            connection.execute(
                sa.text("SELECT RELEASE_LOCK(CONCAT(DATABASE(), :name))"),
                {"name": LOCK},
            )
        elif name == "postgresql":
            connection.rollback()
            connection.execute(
                sa.text("SELECT pg_advisory_unlock(hashtext(:name))"), {"name": LOCK}
            )


def _is_ours(name: str | None, kind: str, parents: Any) -> bool:
    """The host program's own tables in the same database are none of our business."""
    return kind != "table" or name in tables.metadata.tables


def _described(diff: Any) -> str:
    if isinstance(diff, list):
        return "; ".join(_described(part) for part in diff)
    return " ".join(str(getattr(part, "name", part)) for part in diff if part)
