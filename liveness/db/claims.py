"""Claiming what was found: the one place with ``FOR UPDATE``.

Find without locks, lock by primary key, look again, write by key. What was found is
presented as found: every change of a row changes its token, so a claim hits only a
row that nobody has touched since it was read. Where the server cannot bound how long
a paused client keeps its row locks (MySQL), or has none (SQLite), the same claim is
one compare-and-set statement.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
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
    reason_text,
    token_of,
    unchanged,
    written_token,
)
from liveness.model import ALIVE, Deadline, DeadlineState

D = tables.deadline
E = tables.engine


class Claims:
    """Claims deadlines; each call is given a connection and the claiming engine."""

    def __init__(self, clock: Clock, engines: Engines) -> None:
        self._now = clock.database_now
        self._engines = engines

    def claim_own(
        self, connection: sa.Connection, me: str, found: Sequence[Deadline]
    ) -> list[Deadline]:
        """Claim due deadlines of ``me``, in one statement where that can pass by a row
        that a host's transaction has locked."""
        where = (
            looked_at(D.c.owner_id) == me,
            looked_at(D.c.state) == DeadlineState.ARMED,
            D.c.due_at <= self._now(),
        )
        try:
            return self._change(connection, found, where, _claimed(me), wait=False)
        except db_exc.DBDeadlock:  # MariaDB's lock timeout; nothing was changed
            return self._take(connection, found, where, _claimed(me), orphans=False)

    def claim_overdue(
        self,
        connection: sa.Connection,
        me: str,
        found: Sequence[Deadline],
        grace: float,
    ) -> list[Deadline]:
        """Claim armed deadlines that have been due for ``grace`` seconds."""
        where = self._overdue(grace)
        return self._take(connection, found, where, _claimed(me), orphans=False)

    def claim_orphans(
        self, connection: sa.Connection, me: str, found: Sequence[Deadline]
    ) -> list[Deadline]:
        """Claim deadlines that nobody alive owns."""
        return self._take(connection, found, (), _claimed(me), orphans=True)

    def adopt_orphans(
        self,
        connection: sa.Connection,
        me: str,
        found: Sequence[Deadline],
        token: int | None = None,
    ) -> list[Deadline]:
        """Own, but do not run, armed deadlines that nobody alive owns: due when they
        were promised, attempts at zero."""
        where = (looked_at(D.c.state) == DeadlineState.ARMED,)
        change = _adopted(me)
        return self._take(connection, found, where, change, orphans=True, token=token)

    def adopt_lost(
        self, connection: sa.Connection, me: str, found: Sequence[Deadline]
    ) -> list[Deadline]:
        """Hold claimed rows of ``me`` whose claim's answer was lost; they have not
        run, so the attempt is not counted twice."""
        where = (
            looked_at(D.c.owner_id) == me,
            looked_at(D.c.state) == DeadlineState.CLAIMED,
        )
        return self._change(connection, found, where, {})

    def park(
        self,
        connection: sa.Connection,
        found: Deadline,
        reason: str,
        grace: float | None = None,
    ) -> bool:
        """Park a row that cannot be handled and that nobody alive owns; with ``grace``,
        one that has been due for so long, whoever owns it."""
        change = {
            "state": DeadlineState.PARKED,
            "owner_id": None,
            "last_error": reason_text(reason),
        }
        where = () if grace is None else self._overdue(grace)
        orphans = grace is None
        return bool(self._take(connection, [found], where, change, orphans=orphans))

    def _overdue(self, grace: float) -> tuple[Any, Any]:
        armed = looked_at(D.c.state) == DeadlineState.ARMED
        return armed, D.c.due_at <= self._now(-grace)

    # --- two ways to change what was found --------------------------------------

    def _take(
        self,
        connection: sa.Connection,
        found: Sequence[Deadline],
        where: tuple[Any, ...],
        change: dict[str, Any],
        orphans: bool,
        token: int | None = None,
    ) -> list[Deadline]:
        """Lock what nobody else has locked, look again, write."""
        if not found:
            return []
        token = token or new_token()
        if not _has_bounded_locks(connection.dialect):
            if orphans:
                where = (*where, _no_owner_alive())
            return self._change(connection, found, where, change, token=token)
        with transaction(connection):
            lock = (
                sa.select(D.c.id)
                .where(unchanged(connection, found), *where)
                .with_for_update(skip_locked=True)
            )
            ids = set(connection.execute(lock).scalars())
            taken = [value for value in found if value.id in ids]
            if orphans:  # look again: a failover may have lost a fence
                owners = {value.owner_id for value in taken if value.owner_id}
                dead = self._engines.not_alive(connection, owners)
                taken = [v for v in taken if v.owner_id is None or v.owner_id in dead]
            if taken:
                locked = among(connection, D.c.id, [value.id for value in taken])
                connection.execute(self._update(token, change).where(locked))
        return [_as_taken(value, token, change) for value in taken]

    def _change(
        self,
        connection: sa.Connection,
        found: Sequence[Deadline],
        where: tuple[Any, ...],
        change: dict[str, Any],
        wait: bool = True,
        token: int | None = None,
    ) -> list[Deadline]:
        """Compare and set in one statement; ``wait`` for locks of others or not."""
        if not found:
            return []
        token = token or new_token()
        same = sa.and_(unchanged(connection, found), *where)
        if not wait and connection.dialect.name == "postgresql":
            free = sa.select(D.c.id).where(same).with_for_update(skip_locked=True)
            same = D.c.id.in_(free)
        statement = self._update(token, change).where(same)
        if not wait:
            statement = statement.execution_options(**NO_WAIT)
        changed = connection.execute(statement).rowcount
        taken = list(found) if changed else []
        if 0 < changed < len(found):
            written = among(connection, D.c.id, [value.id for value in found])
            mine = sa.select(D.c.id).where(written, D.c.token == written_token(token))
            won = set(connection.execute(mine).scalars())
            taken = [value for value in found if value.id in won]
        return [_as_taken(value, token, change) for value in taken]

    def _update(self, token: int, change: dict[str, Any]) -> Any:
        written = written_token(token)
        return sa.update(D).values(token=written, updated_at=self._now(), **change)


def _no_owner_alive() -> Any:
    alive = sa.exists().where(E.c.id == D.c.owner_id, E.c.state.in_(ALIVE))
    return sa.not_(alive)


def _claimed(me: str) -> dict[str, Any]:
    return {
        "owner_id": me,
        "state": DeadlineState.CLAIMED,
        "epoch": D.c.epoch + 1,
        "attempts": D.c.attempts + 1,
    }


def _adopted(me: str) -> dict[str, Any]:
    return {
        "owner_id": me,
        "epoch": D.c.epoch + 1,
        "attempts": 0,
        "due_at": D.c.expires_at,
    }


def _as_taken(value: Deadline, token: int, change: dict[str, Any]) -> Deadline:
    """The value of the row after ``change``, which was read as ``value`` and has not
    changed in between."""
    after: dict[str, Any] = {"token": token_of(token, value.id)}
    for name, new in change.items():
        if isinstance(new, sa.Column):
            after[name] = getattr(value, new.name)
        elif isinstance(new, sa.ColumnElement):
            after[name] = getattr(value, name) + 1
        else:
            after[name] = new
    return dataclasses.replace(value, **after)


def _has_bounded_locks(dialect: Any) -> bool:
    """SKIP LOCKED, and a server that ends the transaction of a paused client."""
    if dialect.name == "postgresql":
        return True
    version = dialect.server_version_info
    return bool(getattr(dialect, "is_mariadb", False)) and version >= (10, 6)
