"""What an owner writes: arm, extend, and how a deadline ends.

Every write by id presents token and owner, changes the token, and looks at the row
count. Each may be sent again after its answer was lost: the new token, or the row's
absence, tells whether the first one counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as db_exc

from liveness import exceptions
from liveness.clock import Clock
from liveness.db import tables
from liveness.db.arming import Arming, NewDeadline
from liveness.db.completion import Completion
from liveness.db.connection import transaction
from liveness.db.prepared import Prepared, Statements
from liveness.db.rows import (
    COLUMNS,
    among,
    deadline_of,
    held,
    looked_at,
    new_token,
    reason_text,
    written_token,
)
from liveness.model import Deadline, DeadlineState

D = tables.deadline

ROWS = 1000
"""Most rows of an INSERT."""

BYTES = 4 << 20
"""Most bytes of payload in it: servers and drivers take no statement of any length."""

TAKEN = (db_exc.DBDuplicateEntry, sa.exc.IntegrityError)


class Deadlines:
    """The deadline table, as its owners see it."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.database_now
        self._statements = Statements()
        self._completion = Completion()
        self._arming = Arming(clock)

    def arm(
        self, connection: sa.Connection, new: NewDeadline, hosted: bool = False
    ) -> Deadline:
        """Insert one deadline. The caller's transaction, if any, stays usable (but not
        under PostgreSQL's REPEATABLE READ, when the key was armed after its snapshot).
        ``hosted``: there is one.

        :raises AlreadyArmed: when the key lives; nothing was changed.
        """
        if hosted:
            self._look_first(connection, new)
        value = None
        with suppress(*TAKEN):
            value = self._arming.one(connection, new)
        return value or self._armed_before(connection, [new])[0]

    def arm_many(
        self,
        connection: sa.Connection,
        news: Sequence[NewDeadline],
        hosted: bool = False,
    ) -> list[Deadline]:
        """Insert all of ``news`` or none, in statements of many rows. Values come back
        in the order given. ``hosted``: within a transaction of the caller's.

        :raises AlreadyArmed: for the first whose key lives; nothing was changed.
        """
        batches = list(_batches(news))
        # A statement that gives out the ids is a transaction by itself. Else they are
        # read after it, when another engine may have handled what was committed.
        alone = len(batches) == 1 and connection.dialect.insert_returning
        if hosted:
            whole: Any = connection.begin_nested()
        else:
            whole = nullcontext() if alone else transaction(connection)
        values = []
        try:
            with whole:
                for batch in batches:
                    values += self._arming.many(connection, batch)
        except TAKEN:
            return self._armed_before(connection, news)
        return values

    def armed(
        self, connection: sa.Connection, news: Sequence[NewDeadline]
    ) -> list[Deadline] | None:
        """The values of ``news`` as an earlier try armed them; None when a row of
        theirs is not there. Changes nothing."""
        values = []
        for new in news:
            row = self.find(connection, new.kind, new.key)
            if row is None or row.arm_token != new.token:
                return None
            values.append(_as_given_out(new, row))
        return values

    def extend(
        self,
        connection: sa.Connection,
        deadline: Deadline,
        due: float | datetime,
        token: int,
    ) -> Deadline:
        """Give an armed deadline a new due time, which is its new promise.

        :raises StaleDeadline: when ``deadline`` is not the newest value.
        """
        when = self._moment(due)
        statement = (
            sa.update(D)
            .where(held(deadline), looked_at(D.c.state) == DeadlineState.ARMED)
            .values(token=token, due_at=when, expires_at=when, updated_at=self._now())
        )
        connection.execute(statement)
        found = self._get(connection, deadline.id)
        if found is None or found.token != token:
            raise exceptions.StaleDeadline(
                kind=deadline.kind, key=deadline.key, token=deadline.token
            )
        return found

    def complete(
        self,
        connection: sa.Connection,
        deadlines: Sequence[Deadline],
        again: bool = False,
    ) -> set[int]:
        """Delete the rows of ``deadlines``, all of one owner. Return the ids of those
        that were stale: nothing was changed for them.

        A row that is gone counts as done, except on the first try for a single one
        (``again`` says that an earlier try's answer was lost).
        """
        return self._completion.run(connection, deadlines, again)

    def move(
        self,
        connection: sa.Connection,
        deadline: Deadline,
        token: int,
        **values: Any,
    ) -> bool:
        """Change the row of ``deadline`` and its token. False: it was stale."""
        statement = (
            sa.update(D)
            .where(held(deadline))
            .values(token=token, updated_at=self._now(), **values)
        )
        if connection.execute(statement).rowcount == 1:
            return True
        found = connection.execute(sa.select(D.c.token).where(D.c.id == deadline.id))
        return found.scalar_one_or_none() == token

    def rearm(
        self, connection: sa.Connection, deadline: Deadline, token: int, due_in: float
    ) -> bool:
        """A new promise, attempts at zero, same owner. False: stale."""
        when = self._now(due_in)
        return self.move(
            connection,
            deadline,
            token,
            state=DeadlineState.ARMED,
            due_at=when,
            expires_at=when,
            attempts=0,
            last_error=None,
        )

    def retry(
        self,
        connection: sa.Connection,
        deadline: Deadline,
        token: int,
        due_in: float,
        reason: str,
    ) -> bool:
        """Later, same owner, same promise; the attempt stays counted. False: stale."""
        return self.move(
            connection,
            deadline,
            token,
            state=DeadlineState.ARMED,
            due_at=self._now(due_in),
            last_error=reason_text(reason),
        )

    def release(
        self,
        connection: sa.Connection,
        deadline: Deadline,
        token: int,
        reason: str,
        attempts: int | None = None,
    ) -> bool:
        """No owner, to be looked at by anyone at once; ``attempts`` from then on, or as
        counted. False: stale."""
        return self.move(
            connection,
            deadline,
            token,
            state=DeadlineState.ARMED,
            owner_id=None,
            attempts=deadline.attempts if attempts is None else attempts,
            last_error=reason_text(reason) or deadline.last_error,
        )

    def park(
        self, connection: sa.Connection, deadline: Deadline, token: int, reason: str
    ) -> bool:
        """Kept for the operator, owned by nobody, never looked at. False: stale."""
        return self.move(
            connection,
            deadline,
            token,
            state=DeadlineState.PARKED,
            owner_id=None,
            last_error=reason_text(reason),
        )

    def hand_back(self, connection: sa.Connection, engine_id: str, limit: int) -> int:
        """Release up to ``limit`` rows of ``engine_id``, armed or claimed, whoever
        holds values of them. Return how many: fewer than ``limit`` means all.

        Only for an engine that has spent every value it held."""
        ids = list(
            connection.execute(
                sa.select(D.c.id)
                .where(
                    D.c.owner_id == engine_id,
                    D.c.state.in_((DeadlineState.ARMED, DeadlineState.CLAIMED)),
                )
                .limit(limit)
            ).scalars()
        )
        if ids:
            token = sa.literal(new_token(), sa.BigInteger)
            write = (
                sa.update(D)
                .where(among(connection, D.c.id, "ids"))
                .where(looked_at(D.c.owner_id) == engine_id)
                .values(
                    owner_id=None,
                    state=DeadlineState.ARMED,
                    token=written_token(token),
                    updated_at=self._now(),
                )
            )
            connection.execute(write, {"ids": ids})
        return len(ids)

    def unpark(self, connection: sa.Connection, deadline: Deadline, token: int) -> bool:
        """Give a parked row back to the engines, due now, attempts at zero. False: it
        is not parked, or has changed since it was read."""
        statement = (
            sa.update(D)
            .where(D.c.id == deadline.id, D.c.token == deadline.token)
            .where(D.c.state == DeadlineState.PARKED)
            .values(
                state=DeadlineState.ARMED,
                token=token,
                attempts=0,
                due_at=self._now(),
                updated_at=self._now(),
            )
        )
        changed = connection.execute(statement).rowcount == 1
        return changed or deadline.token == token  # an earlier try, its answer lost

    def parked(self, connection: sa.Connection, limit: int) -> list[Deadline]:
        """Parked rows, at most ``limit``, by due time."""
        statement = sa.select(*COLUMNS).where(D.c.state == DeadlineState.PARKED)
        ordered = statement.order_by(D.c.due_at, D.c.id).limit(limit)
        return [deadline_of(row) for row in connection.execute(ordered)]

    def find(self, connection: sa.Connection, kind: str, key: str) -> Deadline | None:
        """The deadline of that kind and key, or None."""

        def make() -> Prepared:
            named = (D.c.kind == sa.bindparam("a"), D.c.key == sa.bindparam("b"))
            return Prepared(
                sa.select(*COLUMNS).where(*named), connection.dialect, COLUMNS
            )

        statement = self._statements.get("find", connection.dialect, make)
        rows = statement.rows(connection, {"a": kind, "b": key})
        return deadline_of(rows[0]) if rows else None

    def counts(self, connection: sa.Connection) -> dict[tuple[str, str], int]:
        """Number of rows by (kind, state). Reads the whole table."""
        statement = sa.select(D.c.kind, D.c.state, sa.func.count()).group_by(
            D.c.kind, D.c.state
        )
        return {(row[0], row[1]): row[2] for row in connection.execute(statement)}

    def _get(self, connection: sa.Connection, row_id: int) -> Deadline | None:
        row = connection.execute(
            sa.select(*COLUMNS).where(D.c.id == row_id)
        ).one_or_none()
        return None if row is None else deadline_of(row)

    def _moment(self, due: float | datetime) -> Any:
        return due if isinstance(due, datetime) else self._now(due)

    def _look_first(self, connection: sa.Connection, new: NewDeadline) -> None:
        """A duplicate key leaves a lock on its row until the caller's transaction ends,
        in the way of the row's owner, on MySQL and MariaDB."""
        if connection.dialect.name == "mysql" and self._arming.lives(connection, new):
            found = self.find(connection, new.kind, new.key)
            if found is not None:
                raise _already_armed(new, found)

    def _armed_before(
        self, connection: sa.Connection, news: Sequence[NewDeadline]
    ) -> list[Deadline]:
        """The values of ``news`` as armed, when an earlier try, its answer lost, wrote
        them all; whatever became of the rows since is for others to tell."""
        rows = [self.find(connection, new.kind, new.key) for new in news]
        seen: set[tuple[str, str]] = set()
        for new, row in zip(news, rows, strict=True):
            name = (new.kind, new.key)
            if name in seen or (row is not None and row.arm_token != new.token):
                raise _already_armed(new, row)
            seen.add(name)
        values = []
        for new, row in zip(news, rows, strict=True):
            if row is None:
                raise _already_armed(new, row)
            values.append(_as_given_out(new, row))
        return values


def _batches(news: Sequence[NewDeadline]) -> Iterator[list[NewDeadline]]:
    """``news``, as many at a time as a statement takes."""
    batch: list[NewDeadline] = []
    size = 0
    for new in news:
        length = len(new.payload or "")
        if batch and (len(batch) >= ROWS or size + length > BYTES):
            yield batch
            batch, size = [], 0
        batch.append(new)
        size += length
    if batch:
        yield batch


def _as_given_out(new: NewDeadline, row: Deadline) -> Deadline:
    """The value that arming gives out: not the token of a claim made since."""
    if row.token == new.token:
        return row
    return row._replace(
        owner_id=new.owner_id,
        token=new.token,
        epoch=1,
        state=DeadlineState.ARMED,
        attempts=0,
    )


def _already_armed(new: NewDeadline, found: Deadline | None) -> exceptions.AlreadyArmed:
    # None: the caller's snapshot is older than the row that is in the way.
    return exceptions.AlreadyArmed(
        kind=new.kind,
        key=new.key,
        owner_id=found.owner_id if found else "unknown",
        state=found.state if found else "just armed",
    )
