"""The INSERT of a deadline: what is sent, and the value that comes of it.

The value is made of what was sent; only what the database made up is asked for. To read
the whole row back costs a driver more than to send it.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from liveness.clock import Clock, UtcDateTime
from liveness.db import tables
from liveness.db.prepared import Prepared, Statements
from liveness.db.rows import load_payload, new_token
from liveness.model import Deadline, DeadlineState

D = tables.deadline


@dataclasses.dataclass(frozen=True, slots=True)
class NewDeadline:
    """A deadline to be armed. ``due`` is seconds from now or a UTC moment."""

    kind: str
    key: str
    owner_id: str
    due: float | datetime
    max_attempts: int
    payload: str | None
    token: int = dataclasses.field(default_factory=new_token)


class Arming:
    """Inserts deadlines."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.database_now
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
            moments["due"] = self._now(new.due)
        statement = self._statements.get(
            given, dialect, lambda: self._insert_one(dialect, moments)
        )
        if not dialect.insert_returning:
            statement.execute(connection, sent, moments)
            return None
        for row_id, due_at in statement.rows(connection, sent, moments):
            return value_of(new, row_id, due_at)
        return None

    def _insert_one(self, dialect: sa.Dialect, moments: dict[str, Any]) -> Prepared:
        token = sa.bindparam("new_token", type_=sa.BigInteger)
        due = moments.get("due", sa.bindparam("new_due", type_=UtcDateTime))
        statement = insertion(dialect).values(
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


def insertion(dialect: sa.Dialect) -> Any:
    """An INSERT that a living key does not change."""
    # On PostgreSQL an error would end the caller's transaction.
    if dialect.name == "postgresql":
        return postgresql.insert(D).on_conflict_do_nothing()
    return sa.insert(D)


def value_of(new: NewDeadline, row_id: int, due_at: datetime) -> Deadline:
    """The value of the row that ``new`` became."""
    return Deadline(
        id=row_id,
        kind=new.kind,
        key=new.key,
        owner_id=new.owner_id,
        token=new.token,
        arm_token=new.token,
        epoch=1,
        state=DeadlineState.ARMED,
        due_at=due_at,
        expires_at=due_at,
        attempts=0,
        max_attempts=new.max_attempts,
        payload=load_payload(new.payload)[0],
        last_error=None,
    )
