"""The schema: bring it up to date, say what it is, compare it with the tables in code.

Releases agree on a schema by its major number: the minor only ever adds.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from liveness import exceptions
from liveness.db import tables
from liveness.db.connection import (
    Database,
    is_database_error,
    one_line,
    translate_errors,
)

if TYPE_CHECKING:
    from alembic.config import Config

# Alembic is loaded where it is used: an engine that finds the schema as it should be
# does without, and without the 11 MiB that it takes.

LOG = logging.getLogger(__name__)

LOCK = "liveness_db_sync"
LOCK_SECONDS = 60
UNKNOWN = "is not one of this release"

_ALEMBIC = threading.Lock()
"""Alembic keeps what it works on in globals."""


def needed() -> str:
    """The revision that this release writes for, such as ``1.0``."""
    return tables.REVISION


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
            if _parts(before) < _parts(needed()):
                raise exceptions.DatabaseError(
                    url=str(database),
                    reason=f"it is at schema {before}, which this release cannot bring"
                    " up to date; do it with the release before",
                )
            return before  # a later minor: all that this release needs is there
        if database.backend == "sqlite":
            # Readers and the beat go on while somebody writes; kept in the file.
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            connection.commit()
        with _ALEMBIC, _alone(connection):
            _run(connection, revision)
        return before


def version(url: str) -> str:
    """The revision of the database at ``url``, or "" when it has no liveness tables.

    :raises DatabaseError: when it cannot be asked.
    """
    with _connected(url, make=False) as (_, connection):
        return "" if connection is None else _current(connection)


def differences(url: str) -> list[str]:
    """How the tables of the database differ from those in code, one line each.

    :raises DatabaseError: when it cannot be asked, or has no tables of this release.
    """
    with _connected(url, make=False) as (database, connection):
        if connection is None:
            raise exceptions.SchemaMissing(url=str(database))
        found = _current(connection)
        require(str(database), found)
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": tables.VERSION_TABLE,
                "include_name": _is_ours,
                "compare_type": True,
            },
        )
        diffs = [_described(d) for d in compare_metadata(context, tables.metadata)]
        if found != needed():  # a later minor has more than we know, and may
            diffs = [text for text in diffs if not text.endswith(UNKNOWN)]
        return diffs + list(_unlike_ours(connection))


def require_current(database: Database, pool: sa.Engine, rights: bool = True) -> None:
    """Return when the schema is one that this release can work on; with ``rights``,
    as a user who may change the tables.

    :raises SchemaMissing: :raises SchemaTooOld: :raises SchemaTooNew:
    :raises DatabaseError: when the database cannot be asked.
    """
    if _is_absent(database):
        raise exceptions.SchemaMissing(url=str(database))
    with _explained(database), pool.connect() as connection:
        require(str(database), _current(connection))
        if rights:
            _require_rights(connection)
            for sequence in _sequences_denied(connection):
                raise exceptions.DatabaseError(
                    url=str(database),
                    reason=f"permission denied for sequence {sequence}",
                )


def _require_rights(connection: sa.Connection) -> None:
    """Fail now, as an engine would later, when its user may not change the tables.
    Changes nothing."""
    for table in tables.metadata.sorted_tables:
        nothing = sa.select(table).where(sa.false())
        connection.execute(sa.insert(table).from_select(list(table.c.keys()), nothing))
        if table is not tables.event:  # which is only added to, and purged
            connection.execute(sa.update(table).where(sa.false()).values(token=0))
        connection.execute(sa.delete(table).where(sa.false()))


def _sequences_denied(connection: sa.Connection) -> list[str]:
    """Those of PostgreSQL's sequences of row ids that the user may not draw from: an
    insert of no rows does not draw."""
    if connection.dialect.name != "postgresql":
        return []
    serial = sa.func.pg_get_serial_sequence
    drawn = [serial(t.name, "id") for t in (tables.deadline, tables.event)]
    allowed = [sa.func.has_sequence_privilege(name, "USAGE") for name in drawn]
    names, may = (connection.execute(sa.select(*of)).one() for of in (drawn, allowed))
    return [name for name, good in zip(names, may, strict=True) if not good]


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
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(_config())
    return {revision.revision for revision in script.walk_revisions()}


def _config() -> Config:
    from alembic.config import Config

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
    from alembic import command

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
def _connected(url: str, make: bool = True) -> Iterator[tuple[Database, Any]]:
    """A connection with transactions, and without a timeout on statements: changing a
    large table takes its time. None when an SQLite file is not there and ``make`` is
    false: looking at it must not make it."""
    database = Database(url, timeout=10)
    if not make and _is_absent(database):
        yield database, None
        return
    with _explained(database), database.pool(1).connect():
        pass  # a server that does not answer is found out here, with a timeout
    database.close()
    engine = sa.create_engine(
        database.url, poolclass=sa.NullPool, connect_args=_connect_args(database)
    )
    translate_errors(engine)
    if database.backend == "sqlite":
        sa.event.listen(engine, "connect", _without_implicit_transactions)
    with _explained(database), engine.connect() as connection:
        yield database, connection


def _is_absent(database: Database) -> bool:
    """True for an SQLite file that does not exist, in a directory that does."""
    name = database.url.database or ""
    if database.backend != "sqlite" or name.startswith("file:"):
        return False
    path = Path(name)
    return not path.exists() and path.parent.is_dir()


def _without_implicit_transactions(dbapi_connection: Any, record: Any) -> None:
    # sqlite3 would open none for DDL, and commit ours before it.
    dbapi_connection.isolation_level = None


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
        # A driver's own refusal of the URL (a wrong option, host or path) counts too.
        if not (is_database_error(error) or isinstance(error, (TypeError, ValueError))):
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
        connection.execute(sa.text(f"SET lock_timeout = '{LOCK_SECONDS}s'"))
        connection.execute(
            sa.text("SELECT pg_advisory_lock(hashtext(:name))"), {"name": LOCK}
        )
    connection.commit()
    if name == "sqlite":
        # All of it is one transaction; a second sync waits for its end.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
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
    """One of alembic's differences (what it would do about it) in words."""
    if isinstance(diff, list):
        return "; ".join(_described(part) for part in diff)
    verb, *what = diff
    if verb.startswith("modify_"):
        _, table, column, _, found, wanted = what
        aspect = verb.removeprefix("modify_")
        return f"column {table}.{column}: {aspect} is {found}, not {wanted}"
    thing = what[-1]
    owner = ""
    if len(what) == 3:  # a column, with the schema and table that it is in
        owner = f"{what[1]}."
    elif getattr(thing, "table", None) is not None:
        owner = f"{thing.table.name}."
    action, _, sort = verb.partition("_")
    problem = "is missing" if action == "add" else UNKNOWN
    return f"{sort} {owner}{thing.name} {problem}"


def _unlike_ours(connection: sa.Connection) -> Iterator[str]:
    """What alembic does not compare: on MySQL, how text is compared and whether a time
    keeps its microseconds."""
    if connection.dialect.name != "mysql":
        return
    columns = sa.text(
        "SELECT table_name, column_name, collation_name, datetime_precision"
        " FROM information_schema.columns WHERE table_schema = DATABASE()"
        " AND table_name IN :ours ORDER BY table_name, ordinal_position"
    ).bindparams(sa.bindparam("ours", expanding=True))
    ours = {"ours": sorted(tables.metadata.tables)}
    for table, column, collation, precision in connection.execute(columns, ours):
        if collation not in (None, "utf8mb4_bin"):
            yield f"column {table}.{column}: collation is {collation}, not utf8mb4_bin"
        if precision not in (None, 6):
            yield f"column {table}.{column}: keeps no microseconds"
