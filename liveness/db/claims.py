"""Claiming what was found: the one place with ``FOR UPDATE``.

Find without locks, lock by primary key, look again, write by key. What was found is
presented as found: every change of a row changes its token, so a claim hits only a
row that nobody has touched since it was read. Where the server cannot bound how long
a paused client keeps its row locks (MySQL), or has none (SQLite), the same claim is
one compare-and-set statement.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from liveness.clock import Clock
from liveness.db import tables
from liveness.db.connection import transaction
from liveness.db.engines import Engines
from liveness.db.rows import new_token
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
        """Claim due deadlines of ``me``; others cannot want them yet, so no lock."""
        where = (
            D.c.owner_id == me,
            D.c.state == DeadlineState.ARMED,
            D.c.due_at <= self._now(),
        )
        return self._compare_and_set(connection, found, where, _claimed(me))

    def claim_overdue(
        self,
        connection: sa.Connection,
        me: str,
        found: Sequence[Deadline],
        grace: float,
    ) -> list[Deadline]:
        """Claim armed deadlines that have been due for ``grace`` seconds."""
        where = (
            D.c.state == DeadlineState.ARMED,
            D.c.due_at <= self._now(-grace),
        )
        return self._take(connection, found, where, _claimed(me), orphans=False)

    def claim_orphans(
        self, connection: sa.Connection, me: str, found: Sequence[Deadline]
    ) -> list[Deadline]:
        """Claim deadlines that nobody alive owns."""
        return self._take(connection, found, (), _claimed(me), orphans=True)

    def adopt_orphans(
        self, connection: sa.Connection, me: str, found: Sequence[Deadline]
    ) -> list[Deadline]:
        """Own, but do not run, armed deadlines that nobody alive owns: same due time,
        attempts at zero."""
        where = (D.c.state == DeadlineState.ARMED,)
        return self._take(connection, found, where, _adopted(me), orphans=True)

    def park_found(
        self,
        connection: sa.Connection,
        me: str,
        found: Deadline,
        reason: str,
        grace: float,
    ) -> bool:
        """Park a row that cannot be handled, under the rules of a claim."""
        change = {
            "state": DeadlineState.PARKED,
            "owner_id": None,
            "epoch": D.c.epoch + 1,
            "last_error": reason,
        }
        due = sa.and_(D.c.state == DeadlineState.ARMED, D.c.due_at <= self._now(-grace))
        where = (sa.or_(due, D.c.owner_id == me, _no_owner_alive()),)
        return bool(self._compare_and_set(connection, [found], where, change))

    def adopt_lost(
        self, connection: sa.Connection, me: str, found: Sequence[Deadline]
    ) -> list[Deadline]:
        """Hold claimed rows of ``me`` whose claim's answer was lost; they have not
        run, so the attempt is not counted twice."""
        where = (D.c.owner_id == me, D.c.state == DeadlineState.CLAIMED)
        return self._compare_and_set(connection, found, where, {})

    def _take(
        self,
        connection: sa.Connection,
        found: Sequence[Deadline],
        where: Iterable[Any],
        change: dict[str, Any],
        orphans: bool,
    ) -> list[Deadline]:
        if not found:
            return []
        if not _has_bounded_locks(connection.dialect):
            if orphans:
                where = (*where, _no_owner_alive())
            return self._compare_and_set(connection, found, where, change)
        token = new_token()
        with transaction(connection):
            lock = (
                sa.select(D.c.id)
                .where(*_unchanged(found), *where)
                .with_for_update(skip_locked=True)
            )
            locked = set(connection.execute(lock).scalars())
            taken = [value for value in found if value.id in locked]
            if orphans:  # look again: a failover may have lost a fence
                owners = {value.owner_id for value in taken if value.owner_id}
                dead = self._engines.not_alive(connection, owners)
                taken = [v for v in taken if v.owner_id is None or v.owner_id in dead]
            if taken:
                self._write(connection, [v.id for v in taken], token, change)
        return [_as_taken(value, token, change) for value in taken]

    def _write(
        self,
        connection: sa.Connection,
        ids: Collection[int],
        token: int,
        change: dict[str, Any],
    ) -> None:
        connection.execute(
            sa.update(D)
            .where(D.c.id.in_(ids))
            .values(token=token, updated_at=self._now(), **change)
        )

    def _compare_and_set(
        self,
        connection: sa.Connection,
        found: Sequence[Deadline],
        where: Iterable[Any],
        change: dict[str, Any],
    ) -> list[Deadline]:
        if not found:
            return []
        token = new_token()
        statement = (
            sa.update(D)
            .where(*_unchanged(found), *where)
            .values(token=token, updated_at=self._now(), **change)
        )
        changed = connection.execute(statement).rowcount
        taken = list(found)
        if 0 < changed < len(found):
            ids = [value.id for value in found]
            mine = sa.select(D.c.id).where(D.c.id.in_(ids), D.c.token == token)
            won = set(connection.execute(mine).scalars())
            taken = [value for value in found if value.id in won]
        if not changed:
            return []
        return [_as_taken(value, token, change) for value in taken]


def _unchanged(found: Sequence[Deadline]) -> tuple[Any, Any]:
    """WHERE that only rows pass that are as they were found: tokens are random, and
    a claim's rows never get a token back that one of them had before."""
    return (
        D.c.id.in_([value.id for value in found]),
        D.c.token.in_(sorted({value.token for value in found})),
    )


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
    return {"owner_id": me, "epoch": D.c.epoch + 1, "attempts": 0}


def _as_taken(value: Deadline, token: int, change: dict[str, Any]) -> Deadline:
    """The value of the row after ``change``, which was read as ``value`` and has not
    changed in between."""
    after: dict[str, Any] = {"token": token}
    for name, new in change.items():
        counts_up = isinstance(new, sa.ColumnElement)
        after[name] = getattr(value, name) + 1 if counts_up else new
    return dataclasses.replace(value, **after)


def _has_bounded_locks(dialect: Any) -> bool:
    """SKIP LOCKED, and a server that ends the transaction of a paused client."""
    if dialect.name == "postgresql":
        return True
    version = dialect.server_version_info
    return bool(getattr(dialect, "is_mariadb", False)) and version >= (10, 6)
