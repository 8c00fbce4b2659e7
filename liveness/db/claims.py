"""Claiming what was found: the one place with ``FOR UPDATE``.

Find without locks, lock by primary key, look again, write by key. What was found is
presented as found: every change of a row changes its token, so a claim hits only a
row that nobody has touched since it was read. Where the server cannot bound how long
a paused client keeps its row locks (MySQL), or has none (SQLite), the same claim is
one compare-and-set statement.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as db_exc

from liveness.clock import Clock
from liveness.db import completion, tables
from liveness.db.completion import Completion
from liveness.db.connection import NO_WAIT, has_bounded_locks, transaction
from liveness.db.engines import Engines
from liveness.db.prepared import Prepared, Statements
from liveness.db.rows import (
    among,
    looked_at,
    new_token,
    numbers_of,
    reason_text,
    token_of,
    unchanged,
    written_token,
)
from liveness.model import ALIVE, Deadline, DeadlineState

D = tables.deadline
E = tables.engine


ARMED = looked_at(D.c.state) == DeadlineState.ARMED
MINE = looked_at(D.c.owner_id) == sa.bindparam("me")


Build = Callable[[sa.Connection, "Change", Any, bool], Any]
"""Makes a statement of a change: of its write, for one row or for many."""


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One way to take rows that were found: which of them, what is written, and what
    a value is afterwards (``after``, of the engine's id and the new token).
    ``orphans``: only of owners that are not alive. ``name`` is the statement's."""

    name: Hashable
    values: dict[str, Any]
    where: tuple[Any, ...]
    after: Callable[[Deadline, str, int], Deadline]
    orphans: bool = False


CLAIMED = {
    "owner_id": sa.bindparam("me"),
    "state": DeadlineState.CLAIMED,
    "epoch": D.c.epoch + 1,
    "attempts": D.c.attempts + 1,
}

ADOPTED = {
    "owner_id": sa.bindparam("me"),
    "epoch": D.c.epoch + 1,
    "attempts": 0,
    "due_at": D.c.expires_at,
}

PARKED: dict[str, Any] = {
    "owner_id": None,
    "state": DeadlineState.PARKED,
    "last_error": sa.bindparam("why"),
}


def _taken(
    value: Deadline,
    me: str,
    token: int,
    state: DeadlineState | str,
    due_at: datetime,
    attempts: int,
) -> Deadline:
    # All in their order: _replace() costs three times as much, for each claim.
    return Deadline(
        value.id,
        value.kind,
        value.key,
        me,
        token,
        value.arm_token,
        value.epoch + 1,
        state,
        due_at,
        value.expires_at,
        attempts,
        value.max_attempts,
        value.payload,
        value.last_error,
        value.orphaned,
        value.expired,
        value.due,
        value.problem,
    )


def _claimed(value: Deadline, me: str, token: int) -> Deadline:
    state, attempts = DeadlineState.CLAIMED, value.attempts + 1
    return _taken(value, me, token, state, value.due_at, attempts)


def _adopted(value: Deadline, me: str, token: int) -> Deadline:
    return _taken(value, me, token, value.state, value.expires_at, 0)


def _as_it_was(value: Deadline, me: str, token: int) -> Deadline:
    return value._replace(token=token)


CLAIM_ORPHANS = Change("orphans", CLAIMED, (), _claimed, orphans=True)
ADOPT_ORPHANS = Change("adopt", ADOPTED, (ARMED,), _adopted, orphans=True)
HOLD_LOST = Change(
    "lost", {}, (MINE, looked_at(D.c.state) == DeadlineState.CLAIMED), _as_it_was
)
PARK_ORPHAN = Change("park", PARKED, (), _as_it_was, orphans=True)


class Claims:
    """Claims deadlines; each call is given a connection and the claiming engine."""

    def __init__(self, clock: Clock, engines: Engines) -> None:
        self._now = clock.database_now
        self._engines = engines
        self._own = Change("own", CLAIMED, (MINE, *self._late(0.0)), _claimed)
        self._statements = Statements()
        self._completion = Completion()
        self.on_taken: Callable[..., None] = lambda *args: None
        """Told of what others had: (connection in whose transaction, or None; how;
        before; after; reason)."""

    def claim_own(
        self, connection: sa.Connection, me: str, found: Sequence[Deadline]
    ) -> list[Deadline]:
        """Claim due deadlines of ``me``, in one statement where that can pass by a row
        that a host's transaction has locked."""
        try:
            return self._change(connection, self._own, found, {"me": me}, wait=False)
        except db_exc.DBDeadlock:  # MariaDB's lock timeout; nothing was changed
            return self._take(connection, self._own, found, {"me": me})

    def chain(
        self,
        connection: sa.Connection,
        me: str,
        done: Sequence[Deadline],
        again: bool,
        found: Sequence[Deadline],
    ) -> tuple[set[int], list[Deadline]]:
        """Complete what is ``done`` (see :meth:`Deadlines.complete`) and claim due
        deadlines of ``me``, with one commit for both: the ids of those that were
        stale, and what was claimed. An error leaves both unknown."""
        try:
            if connection.dialect.name == "postgresql":
                return self._chain_in_one(connection, me, done, again, found)
            with transaction(connection):
                stale = self._completion.run(connection, done, again)
                values = {"me": me}
                taken = self._change(connection, self._own, found, values, wait=False)
            return stale, taken
        except db_exc.DBDeadlock:  # nothing was changed
            stale = self._completion.run(connection, done, again)
            return stale, self.claim_own(connection, me, found)

    def claim_overdue(
        self,
        connection: sa.Connection,
        me: str,
        found: Sequence[Deadline],
        grace: float,
    ) -> list[Deadline]:
        """Claim armed deadlines that have been due for ``grace`` seconds."""
        change = Change(("overdue", grace), CLAIMED, self._late(grace), _claimed)
        return self._take(connection, change, found, {"me": me})

    def claim_orphans(
        self, connection: sa.Connection, me: str, found: Sequence[Deadline]
    ) -> list[Deadline]:
        """Claim deadlines that nobody alive owns."""
        return self._take(connection, CLAIM_ORPHANS, found, {"me": me})

    def adopt_orphans(
        self,
        connection: sa.Connection,
        me: str,
        found: Sequence[Deadline],
        token: int | None = None,
    ) -> list[Deadline]:
        """Own, but do not run, armed deadlines that nobody alive owns: due when they
        were promised, attempts at zero."""
        return self._take(connection, ADOPT_ORPHANS, found, {"me": me}, token)

    def adopt_lost(
        self, connection: sa.Connection, me: str, found: Sequence[Deadline]
    ) -> list[Deadline]:
        """Hold claimed rows of ``me`` whose claim's answer was lost; they have not
        run, so the attempt is not counted twice."""
        return self._change(connection, HOLD_LOST, found, {"me": me})

    def park(
        self,
        connection: sa.Connection,
        found: Deadline,
        reason: str,
        grace: float | None = None,
    ) -> bool:
        """Park a row that cannot be handled and that nobody alive owns; with ``grace``,
        one that has been due for so long, whoever owns it."""
        change = PARK_ORPHAN
        if grace is not None:
            late, name = self._late(grace), ("park", grace)
            change = Change(name, PARKED, late, _as_it_was)
        values = {"why": reason_text(reason)}
        return bool(self._take(connection, change, [found], values))

    def _late(self, grace: float) -> tuple[Any, Any]:
        return ARMED, D.c.due_at <= self._now(-grace)

    # --- two ways to change what was found --------------------------------------

    def _take(
        self,
        connection: sa.Connection,
        change: Change,
        found: Sequence[Deadline],
        values: dict[str, Any],
        token: int | None = None,
    ) -> list[Deadline]:
        """Lock what nobody else has locked, look again, write."""
        if not found:
            return []
        if not has_bounded_locks(connection.dialect):
            after = self._change(connection, change, found, values, token=token)
            won = {value.id for value in after}
            self._tell(None, change, [v for v in found if v.id in won], after, values)
            return after
        token = token or new_token()
        after = []
        with transaction(connection):
            lock = self._statement(connection, change, _lock, len(found) == 1)
            numbers = values | numbers_of(found)
            locked = set(lock.execute(connection, numbers).scalars())
            taken = [value for value in found if value.id in locked]
            if change.orphans:  # look again: a failover may have lost a fence
                owners = {value.owner_id for value in taken if value.owner_id}
                dead = self._engines.not_alive(connection, owners)
                taken = [v for v in taken if v.owner_id is None or v.owner_id in dead]
            if taken:
                write = self._statement(connection, change, _write_locked)
                ids = [value.id for value in taken]
                write.execute(connection, values | {"written": token, "ids": ids})
                after = _as_taken(taken, change, values, token)
                self._tell(connection, change, taken, after, values)
        return after

    def _tell(
        self,
        connection: sa.Connection | None,
        change: Change,
        before: Sequence[Deadline],
        after: Sequence[Deadline],
        values: dict[str, Any],
    ) -> None:
        name = change.name
        how = name[0] if isinstance(name, tuple) else name
        if after and how != "own":
            self.on_taken(connection, how, before, after, values.get("why"))

    def _change(
        self,
        connection: sa.Connection,
        change: Change,
        found: Sequence[Deadline],
        values: dict[str, Any],
        wait: bool = True,
        token: int | None = None,
    ) -> list[Deadline]:
        """Compare and set in one statement; ``wait`` for locks of others or not."""
        if not found:
            return []
        token = token or new_token()
        how = _compare_and_set if wait else _compare_and_set_now
        statement = self._statement(connection, change, how, len(found) == 1)
        sent = values | numbers_of(found) | {"written": token}
        changed = statement.execute(connection, sent).rowcount
        return self._changed(connection, change, found, values, token, changed)

    def _changed(
        self,
        connection: sa.Connection,
        change: Change,
        found: Sequence[Deadline],
        values: dict[str, Any],
        token: int,
        changed: int,
    ) -> list[Deadline]:
        """Those of ``found`` that were changed, as they are now: so many rows were."""
        taken = list(found) if changed else []
        if 0 < changed < len(found):
            written = self._statement(connection, change, _written)
            asked = {"written": token, "ids": [value.id for value in found]}
            won = set(written.execute(connection, asked).scalars())
            taken = [value for value in found if value.id in won]
        return _as_taken(taken, change, values, token)

    def _chain_in_one(
        self,
        connection: sa.Connection,
        me: str,
        done: Sequence[Deadline],
        again: bool,
        found: Sequence[Deadline],
    ) -> tuple[set[int], list[Deadline]]:
        change, token, values = self._own, new_token(), {"me": me}
        naming = completion.naming_of(done)
        ended = completion.parameters(done, naming)
        build = functools.partial(_chained, ends=naming)
        name, one = (_chained, naming), len(found) == 1
        statement = self._statement(connection, change, build, one, name)
        sent = values | numbers_of(found) | ended | {"written": token}
        row: Any = statement.execute(connection, sent).one()
        gone, changed = row
        stale = completion.stale(connection, done, gone, again)
        taken = self._changed(connection, change, found, values, token, changed)
        return stale, taken

    def _statement(
        self,
        connection: sa.Connection,
        change: Change,
        build: Build,
        one: bool = False,
        name: Hashable = None,
    ) -> Prepared:
        """``one``: of one row. ``name``: of ``build``, if that is made anew."""

        def make() -> Prepared:
            write = sa.update(D).values(
                token=written_token(sa.bindparam("written", type_=sa.BigInteger)),
                updated_at=self._now(),
                **change.values,
            )
            statement = build(connection, change, write, one)
            return Prepared(statement, connection.dialect)

        key = (name or build, change.name, one)
        return self._statements.get(key, connection.dialect, make)


# --- their statements ---------------------------------------------------------


def _lock(connection: sa.Connection, change: Change, write: Any, one: bool) -> Any:
    lock = sa.select(D.c.id).where(unchanged(connection, one), *change.where)
    return lock.with_for_update(skip_locked=True)


def _write_locked(
    connection: sa.Connection, change: Change, write: Any, one: bool
) -> Any:
    return write.where(among(connection, D.c.id, "ids"))


def _compare_and_set(
    connection: sa.Connection, change: Change, write: Any, one: bool
) -> Any:
    orphaned = (_no_owner_alive(),) if change.orphans else ()
    return write.where(unchanged(connection, one), *change.where, *orphaned)


def _compare_and_set_now(
    connection: sa.Connection, change: Change, write: Any, one: bool
) -> Any:
    if connection.dialect.name == "postgresql":
        free = _lock(connection, change, write, one)
        return write.where(
            D.c.id == free.scalar_subquery() if one else D.c.id.in_(free)
        )
    now = _compare_and_set(connection, change, write, one)
    return now.execution_options(**NO_WAIT)


def _chained(
    connection: sa.Connection,
    change: Change,
    write: Any,
    one: bool,
    ends: completion.Naming,
) -> Any:
    gone = completion.deletion(connection, ends).returning(D.c.id).cte("gone")
    claim = _compare_and_set_now(connection, change, write, one)
    taken = claim.returning(D.c.id).cte("taken")
    counts = (sa.select(sa.func.count()).select_from(each) for each in (gone, taken))
    return sa.select(*(count.scalar_subquery() for count in counts))


def _written(connection: sa.Connection, change: Change, write: Any, one: bool) -> Any:
    token = written_token(sa.bindparam("written", type_=sa.BigInteger))
    return sa.select(D.c.id).where(among(connection, D.c.id, "ids"), D.c.token == token)


def _no_owner_alive() -> Any:
    alive = sa.or_(*(E.c.state == state for state in ALIVE))
    return sa.not_(sa.exists().where(E.c.id == D.c.owner_id, alive))


def _as_taken(
    values: Sequence[Deadline], change: Change, sent: dict[str, Any], token: int
) -> list[Deadline]:
    """The values of rows after ``change``, which were read as ``values`` and have not
    changed in between."""
    after, me = change.after, sent.get("me", "")
    return [after(value, me, token_of(token, value.id)) for value in values]
