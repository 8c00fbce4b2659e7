"""The INSERT of a deadline: what is sent, and the value that comes of it.

The value is made of what was sent; only what the database made up is asked for. To read
the whole row back costs a driver more than to send it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from liveness.clock import Clock, UtcDateTime
from liveness.db import tables
from liveness.db.prepared import Prepared, Statements, rows_of_json
from liveness.db.rows import load_payload
from liveness.model import Deadline, DeadlineState

D = tables.deadline


class NewDeadline(NamedTuple):
    """A deadline to be armed. ``due`` is seconds from now or a UTC moment."""

    kind: str
    key: str
    owner_id: str
    due: float | datetime
    max_attempts: int
    payload: str | None
    token: int


class Arming:
    """Inserts deadlines."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.database_now
        # Of the many that are the same: a program has few timeouts.
        self._due = functools.lru_cache(128)(clock.database_now)
        self._statements = Statements()

    def one(self, connection: sa.Connection, new: NewDeadline) -> Deadline | None:
        """Insert one; its value, or None where the database does not give it (the key
        lives, or there is no RETURNING)."""
        dialect = connection.dialect
        sent: dict[str, Any] = {
            "new_kind": new.kind,
            "new_key": new.key,
            "new_owner": new.owner_id,
            "new_token": new.token,
            "new_most": new.max_attempts,
            "new_payload": new.payload,
        }
        moments: dict[str, Any] = {}
        given = isinstance(new.due, datetime)
        if isinstance(new.due, datetime):
            sent["new_due"] = new.due
        else:
            moments["due"] = self._due(new.due)
        statement = self._statements.get(
            given, dialect, lambda: self._insert_one(dialect, moments)
        )
        if not dialect.insert_returning:
            statement.execute(connection, sent, moments)
            return None
        for row_id, due_at in statement.rows(connection, sent, moments):
            return value_of(new, row_id, due_at)
        return None

    def lives(self, connection: sa.Connection, new: NewDeadline) -> bool:
        """True when there is a row of that kind and key, as far as can be seen."""
        dialect = connection.dialect
        statement = self._statements.get("lives", dialect, lambda: _look(dialect))
        return bool(statement.rows(connection, {"a": new.kind, "b": new.key}))

    def many(
        self, connection: sa.Connection, news: Sequence[NewDeadline]
    ) -> list[Deadline]:
        """Insert all of ``news`` in one statement. Values come back in the order given.

        :raises IntegrityError: (or oslo.db's) a key lives; none was inserted.
        """
        now = self._time(connection)
        due_at = {due: _moment(due, now) for due in {new.due for new in news}}
        if connection.dialect.name == "mysql":
            found = _in_one_text(connection, news, due_at, now)
        else:
            found = self._as_json(connection, news, due_at, now)
        if connection.dialect.insert_returning:
            rows: Sequence[Any] = found.all()
            ids = {token: row_id for row_id, token in rows}
        else:
            ids = _ids(connection, news)
        return [value_of(new, ids[new.token], due_at[new.due]) for new in news]

    def _time(self, connection: sa.Connection) -> datetime:
        now = self._now().label("now")
        statement = self._statements.get(
            "now",
            connection.dialect,
            lambda: Prepared(sa.select(now), connection.dialect, [now]),
        )
        ((time,),) = statement.rows(connection, {})
        moment: datetime = time
        return moment

    def _as_json(
        self,
        connection: sa.Connection,
        news: Sequence[NewDeadline],
        due_at: Mapping[float | datetime, datetime],
        now: datetime,
    ) -> sa.CursorResult[Any]:
        dialect = connection.dialect
        texts = {due: _text(moment) for due, moment in due_at.items()}
        rows: list[Any] = [
            (
                n.kind,
                n.key,
                n.owner_id,
                n.token,
                texts[n.due],
                n.max_attempts,
                n.payload,
            )
            for n in news
        ]
        if dialect.name == "postgresql":
            rows = [dict(zip(GIVEN, row, strict=True)) for row in rows]
        statement = self._statements.get(
            "many", dialect, lambda: _insert_from_json(dialect)
        )
        return statement.execute(connection, {"rows": json.dumps(rows), "now": now})

    def _insert_one(self, dialect: sa.Dialect, moments: dict[str, Any]) -> Prepared:
        token = sa.bindparam("new_token", type_=sa.BigInteger)
        due = moments.get("due", sa.bindparam("new_due", type_=UtcDateTime))
        statement = _insertion(dialect).values(
            kind=sa.bindparam("new_kind"),
            key=sa.bindparam("new_key"),
            owner_id=sa.bindparam("new_owner"),
            token=token,
            arm_token=token,
            due_at=due,
            expires_at=due,
            max_attempts=sa.bindparam("new_most"),
            payload=sa.bindparam("new_payload"),
            created_at=self._now(),
            updated_at=self._now(),
            **ALIKE,
        )
        columns = [D.c.id, D.c.due_at]
        if dialect.insert_returning:
            statement = statement.returning(*columns)
        return Prepared(statement, dialect, columns, moments)


ALIKE = {
    "epoch": sa.literal_column("1", sa.BigInteger),
    "state": sa.literal_column(f"'{DeadlineState.ARMED}'", sa.String),
    "attempts": sa.literal_column("0", sa.Integer),
}
"""What all new rows have."""


def _look(dialect: sa.Dialect) -> Prepared:
    named = (D.c.kind == sa.bindparam("a"), D.c.key == sa.bindparam("b"))
    return Prepared(sa.select(D.c.id).where(*named), dialect)


def _insertion(dialect: sa.Dialect) -> Any:
    """An INSERT that a living key does not change."""
    # On PostgreSQL an error would end the caller's transaction.
    if dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql  # 2 MiB that others need not have

        return postgresql.insert(D).on_conflict_do_nothing()
    return sa.insert(D)


def value_of(new: NewDeadline, row_id: int, due_at: datetime) -> Deadline:
    """The value of the row that ``new`` became."""
    payload = None if new.payload is None else load_payload(new.payload)[0]
    kind, key, owner_id, _, most, _, token = new
    # In the order of the fields, which costs a third of what it does by their names.
    fields = (row_id, kind, key, owner_id, token, token, 1, DeadlineState.ARMED)
    rest = (due_at, due_at, 0, most, payload, None, False, False, False, None)
    return Deadline._make(fields + rest)


WRITTEN = [name for name in D.columns.keys() if name not in ("id", "last_error")]

GIVEN = ("kind", "key", "owner_id", "token", "due_at", "max_attempts", "payload")
"""What new rows have of their own."""


def _insert_from_json(dialect: sa.Dialect) -> Prepared:
    rows = rows_of_json(dialect.name, [D.c[name] for name in GIVEN])
    values: dict[str, Any] = dict(zip(GIVEN, rows, strict=True)) | ALIKE
    now = sa.bindparam("now", type_=UtcDateTime)
    values |= {"arm_token": values["token"], "expires_at": values["due_at"]}
    values |= {"created_at": now, "updated_at": now}
    statement = sa.insert(D).from_select(
        list(values), sa.select(*values.values()), include_defaults=False
    )
    columns = [D.c.id, D.c.token]
    if dialect.insert_returning:
        return Prepared(statement.returning(*columns), dialect, columns)
    return Prepared(statement, dialect)


def _in_one_text(
    connection: sa.Connection,
    news: Sequence[NewDeadline],
    due_at: Mapping[float | datetime, datetime],
    now: datetime,
) -> sa.CursorResult[Any]:
    """As MySQL and MariaDB take it best. Only what somebody wrote is a parameter: the
    drivers quote each of them in Python."""
    dialect = connection.dialect
    names = ", ".join(map(dialect.identifier_preparer.quote, WRITTEN))
    mark = "?" if dialect.paramstyle == "qmark" else "%s"
    stamp = f"'{_text(now)}'"
    dues = {due: f"'{_text(moment)}'" for due, moment in due_at.items()}
    rows, texts = [], []
    for new in news:
        texts += [new.kind, new.key, new.owner_id]
        payload = "NULL"
        if new.payload is not None:
            payload = mark
            texts.append(new.payload)
        token, due = int(new.token), dues[new.due]
        rows.append(
            f"({mark}, {mark}, {mark}, {token}, {token}, 1, 'armed', {due}, {due},"
            f" 0, {int(new.max_attempts)}, {payload}, {stamp}, {stamp})"
        )
    text = f"INSERT INTO {D.name} ({names}) VALUES {','.join(rows)}"  # noqa: S608
    if dialect.insert_returning:
        text += " RETURNING id, token"
    return connection.exec_driver_sql(text, tuple(texts))


def _ids(connection: sa.Connection, news: Sequence[NewDeadline]) -> dict[int, int]:
    ids = {}
    for kind in {new.kind for new in news}:
        keys = [new.key for new in news if new.kind == kind]
        statement = sa.select(D.c.token, D.c.id).where(
            D.c.kind == kind, D.c.key.in_(keys)
        )
        ids.update({row.token: row.id for row in connection.execute(statement)})
    return ids


def _moment(due: float | datetime, now: datetime) -> datetime:
    return due if isinstance(due, datetime) else now + timedelta(seconds=due)


def _text(moment: datetime) -> str:
    """As every database reads a moment, and SQLite keeps it."""
    utc = moment.astimezone(UTC).replace(tzinfo=None)
    return utc.isoformat(" ", "microseconds")
