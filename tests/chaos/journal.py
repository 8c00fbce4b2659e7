"""The database's own word: every change of a row, written down by triggers.

What engines say that they did is one half of a history. The other half is what was
committed, in whose name, and when by the database's clock: each change of a deadline's
or an engine's row adds a row here, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from liveness.clock import UtcDateTime
from liveness.db import tables
from liveness.db.tables import ID

metadata = sa.MetaData()

FOLLOWED = {
    "deadline": (
        tables.deadline,
        "id kind key arm_token owner_id token state epoch attempts max_attempts due_at"
        " expires_at last_error".split(),
    ),
    "engine": (
        tables.engine,
        "id state beat_seq ttl token fenced_by fence_evidence".split(),
    ),
}


def _journal(name: str) -> sa.Table:
    table, names = FOLLOWED[name]
    columns = [
        sa.Column(f"{when}_{column}", table.c[column].type)
        for when in ("old", "new")
        for column in names
    ]
    return sa.Table(
        f"chaos_{name}",
        metadata,
        sa.Column("seq", ID, primary_key=True, autoincrement=True),
        sa.Column("at", UtcDateTime, nullable=False),
        *columns,
        sqlite_autoincrement=True,
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )


JOURNALS = {name: _journal(name) for name in FOLLOWED}

NOW = {
    "mysql": "UTC_TIMESTAMP(6)",
    "postgresql": "timezone('utc', statement_timestamp())",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'",
}

EVENTS = {"INSERT": ("new",), "UPDATE": ("old", "new"), "DELETE": ("old",)}


def install(engine: sa.Engine) -> None:
    """Afterwards every change of the two tables is followed."""
    metadata.create_all(engine)
    with engine.begin() as connection:
        for name in FOLLOWED:
            for statement in _triggers(connection.dialect.name, name):
                connection.exec_driver_sql(statement)


def _triggers(dialect: str, name: str) -> Iterator[str]:
    table, names = FOLLOWED[name]
    quote = "`" if dialect == "mysql" else '"'
    for event, sides in EVENTS.items():
        pairs = [(side, column) for side in sides for column in names]
        into = ", ".join(f"{side}_{column}" for side, column in pairs)
        values = ", ".join(f"{side}.{quote}{column}{quote}" for side, column in pairs)
        at = f"{quote}at{quote}"
        insert = (
            f"INSERT INTO chaos_{name} ({at}, {into}) VALUES ({NOW[dialect]}, {values})"
        )
        trigger = f"chaos_{name}_{event.lower()}"
        head = f"CREATE TRIGGER {trigger} AFTER {event} ON {table.name} FOR EACH ROW"
        if dialect == "mysql":
            yield f"{head} {insert}"
        elif dialect == "sqlite":
            yield f"{head} BEGIN {insert}; END"
        else:
            yield (
                f"CREATE FUNCTION {trigger}() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN {insert}; RETURN NULL; END $$"
            )
            yield f"{head} EXECUTE FUNCTION {trigger}()"


def dump(connection: sa.Connection) -> dict[str, Any]:
    """Everything that a judge wants of the database, as plain values: its rows, and
    the changes that led there, oldest first; times are seconds since 1970."""
    now = sa.select(_now(connection))
    found: dict[str, Any] = {"now": plain(connection.execute(now).scalar_one())}
    for name, (table, _) in FOLLOWED.items():
        found[f"{name}s"] = _rows(connection, sa.select(table))
        changes = JOURNALS[name]
        found[f"{name}_changes"] = _rows(
            connection, sa.select(changes).order_by(changes.c.seq)
        )
    return found


def _now(connection: sa.Connection) -> Any:
    return sa.literal_column(f"({NOW[connection.dialect.name]})", UtcDateTime())


def _rows(connection: sa.Connection, query: Any) -> list[dict[str, Any]]:
    return [
        {name: plain(value) for name, value in row._mapping.items()}
        for row in connection.execute(query)
    ]


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC).timestamp()
    return value
