"""Claiming what was found: the one place with ``FOR UPDATE``.

Find without locks, lock by primary key, look again, write by key. What was found is
presented as found: every change of a row changes its token, so a claim hits only a
row that nobody has touched since it was read. Where the server cannot bound how long
a paused client keeps its row locks (MySQL), or has none (SQLite), the same claim is
one compare-and-set statement.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as db_exc

from liveness.clock import Clock
from liveness.db import tables
from liveness.db.connection import NO_WAIT, transaction
from liveness.db.engines import Engines
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


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One way to take rows that were found: which of them, what is written, and what
    the values are afterwards but for their tokens. ``orphans``: only of owners that
    are not alive. ``name`` is the statement's."""

    name: Hashable
    values: dict[str, Any]
    where: tuple[Any, ...]
    after: Callable[[Deadline, str], dict[str, Any]]
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


def _claimed(value: Deadline, me: str) -> dict[str, Any]:
    return {
        "owner_id": me,
        "state": DeadlineState.CLAIMED,
        "epoch": value.epoch + 1,
        "attempts": value.attempts + 1,
    }


def _adopted(value: Deadline, me: str) -> dict[str, Any]:
    return {
        "owner_id": me,
        "epoch": value.epoch + 1,
        "attempts": 0,
        "due_at": value.expires_at,
    }


def _as_it_was(value: Deadline, me: str) -> dict[str, Any]:
    return {}


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
        # Building a statement costs more than running it; there are few.
        self._statements: dict[Hashable, Any] = {}
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
        if not _has_bounded_locks(connection.dialect):
            after = self._change(connection, change, found, values, token=token)
            won = {value.id for value in after}
            self._tell(None, change, [v for v in found if v.id in won], after, values)
            return after
        token = token or new_token()
        after = []
        with transaction(connection):
            lock = self._statement(connection, change, _lock)
            locked = set(connection.execute(lock, values | numbers_of(found)).scalars())
            taken = [value for value in found if value.id in locked]
            if change.orphans:  # look again: a failover may have lost a fence
                owners = {value.owner_id for value in taken if value.owner_id}
                dead = self._engines.not_alive(connection, owners)
                taken = [v for v in taken if v.owner_id is None or v.owner_id in dead]
            if taken:
                write = self._statement(connection, change, _write_locked)
                ids = [value.id for value in taken]
                connection.execute(write, values | {"written": token, "ids": ids})
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
        statement = self._statement(connection, change, how)
        sent = values | numbers_of(found) | {"written": token}
        changed = connection.execute(statement, sent).rowcount
        taken = list(found) if changed else []
        if 0 < changed < len(found):
            written = self._statement(connection, change, _written)
            won = set(connection.execute(written, sent).scalars())
            taken = [value for value in found if value.id in won]
        return _as_taken(taken, change, values, token)

    def _statement(
        self,
        connection: sa.Connection,
        change: Change,
        build: Callable[[sa.Connection, Change, Any], Any],
    ) -> Any:
        name = (build, change.name, connection.dialect.name)
        if name not in self._statements:
            if len(self._statements) > 64:  # a grace for each reload of the options
                self._statements.clear()
            write = sa.update(D).values(
                token=written_token(sa.bindparam("written", type_=sa.BigInteger)),
                updated_at=self._now(),
                **change.values,
            )
            self._statements[name] = build(connection, change, write)
        return self._statements[name]


# --- their statements ---------------------------------------------------------


def _lock(connection: sa.Connection, change: Change, write: Any) -> Any:
    lock = sa.select(D.c.id).where(unchanged(connection), *change.where)
    return lock.with_for_update(skip_locked=True)


def _write_locked(connection: sa.Connection, change: Change, write: Any) -> Any:
    return write.where(among(connection, D.c.id, "ids"))


def _compare_and_set(connection: sa.Connection, change: Change, write: Any) -> Any:
    orphaned = (_no_owner_alive(),) if change.orphans else ()
    return write.where(unchanged(connection), *change.where, *orphaned)


def _compare_and_set_now(connection: sa.Connection, change: Change, write: Any) -> Any:
    if connection.dialect.name == "postgresql":
        return write.where(D.c.id.in_(_lock(connection, change, write)))
    return _compare_and_set(connection, change, write).execution_options(**NO_WAIT)


def _written(connection: sa.Connection, change: Change, write: Any) -> Any:
    token = written_token(sa.bindparam("written", type_=sa.BigInteger))
    return sa.select(D.c.id).where(among(connection, D.c.id, "ids"), D.c.token == token)


def _no_owner_alive() -> Any:
    alive = sa.exists().where(E.c.id == D.c.owner_id, E.c.state.in_(ALIVE))
    return sa.not_(alive)


def _as_taken(
    values: Sequence[Deadline], change: Change, sent: dict[str, Any], token: int
) -> list[Deadline]:
    """The values of rows after ``change``, which were read as ``values`` and have not
    changed in between."""
    after, me = change.after, sent.get("me", "")
    return [
        value._replace(token=token_of(token, value.id), **after(value, me))
        for value in values
    ]


def _has_bounded_locks(dialect: Any) -> bool:
    """SKIP LOCKED, and a server that ends the transaction of a paused client."""
    if dialect.name == "postgresql":
        return True
    version = dialect.server_version_info
    return bool(getattr(dialect, "is_mariadb", False)) and version >= (10, 6)
