"""Lists for people: statements that only look.

A list is read in windows by primary key, each in a statement of its own: a table of a
million rows is neither held in memory, nor locked, nor read in one go. So a long list
is no picture of one moment.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as db_exc

from liveness import exceptions
from liveness.clock import Clock
from liveness.db import migration, tables
from liveness.db.connection import Database, one_line
from liveness.db.engines import engine_of
from liveness.db.stepping import values_of
from liveness.model import ALIVE, DeadlineState, Engine

D = tables.deadline
E = tables.engine

WINDOW = 2000
"""Rows looked at in one statement."""

COUNTED = 10_000
"""Rows that are counted at most."""

NOBODY, MISSING = "nobody", "missing"
"""What a deadline's owner is when it has none, or when there is no row of it."""

ARMED = DeadlineState.ARMED

_LISTED = [c for c in D.columns if c.name != "payload"]


@contextlib.contextmanager
def opened(url: str, timeout: float) -> Iterator[sa.Connection]:
    """A connection to the database at ``url``, whose schema is one of this release.

    :raises DatabaseError: in one line, for whatever the database refuses, in the block
        too.
    """
    database = Database(url, timeout)
    try:
        pool = database.pool(1)
        migration.require_current(database, pool, rights=False)
        with pool.connect() as connection:
            yield connection
    except (db_exc.DBError, sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
        raise exceptions.DatabaseError(
            url=str(database), reason=one_line(error)
        ) from error
    finally:
        database.close()


@dataclasses.dataclass(frozen=True, slots=True)
class ShownEngine:
    """An engine, and when it was read by the database's clock."""

    engine: Engine
    now: datetime

    @property
    def lease_left(self) -> float | None:
        """Seconds until the lease that the row shows is over, negative since; None for
        a dead one. For display: nobody is fenced for it."""
        if not self.engine.alive:
            return None
        end = self.engine.beat_at + timedelta(seconds=self.engine.ttl)
        return (end - self.now).total_seconds()


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """A deadline's row but for its payload, and what it was when it was read."""

    id: int
    kind: str
    key: str
    owner_id: str | None
    token: int
    arm_token: int
    epoch: int
    state: str
    due_at: datetime
    expires_at: datetime
    attempts: int
    max_attempts: int
    last_error: str | None
    created_at: datetime
    updated_at: datetime
    owner_state: str
    owner_host: str | None
    owner_pid: int | None
    owner_ended_at: datetime | None
    now: datetime

    @property
    def late(self) -> float:
        """Seconds since it was due; negative before."""
        return (self.now - self.due_at).total_seconds()

    @property
    def expired(self) -> bool:
        """The promise has passed."""
        return self.expires_at <= self.now

    @property
    def orphaned(self) -> bool:
        """Nobody alive owns it, and somebody should."""
        return self.state != DeadlineState.PARKED and self.owner_state not in ALIVE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which deadlines: all of what is given holds. ``late``: armed, and due for at
    least so many seconds. ``orphaned``: ``dead`` engines count as if they were fenced.
    """

    states: Sequence[str] = ()
    kinds: Sequence[str] = ()
    owner: str | None = None
    owners: Sequence[str] | None = None
    prefix: str = ""
    late: float | None = None
    orphaned: bool = False
    dead: Sequence[str] = ()


class Report:
    """What there is, through a connection that each call is given."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.database_now

    def engines(
        self,
        connection: sa.Connection,
        states: Sequence[str] = (),
        host: str | None = None,
    ) -> Iterator[ShownEngine]:
        """Every engine in those states and on that host, by id."""
        last = ""
        while True:
            page = sa.select(E, self._now().label("now")).where(E.c.id > last)
            rows = connection.execute(page.order_by(E.c.id).limit(WINDOW)).all()
            for row in rows:
                shown = ShownEngine(engine_of(row), row.now)
                right = not states or shown.engine.state in states
                if right and host in (None, shown.engine.host):
                    yield shown
            if len(rows) < WINDOW:
                return
            last = rows[-1].id

    def engines_like(
        self, connection: sa.Connection, prefix: str, limit: int = 2
    ) -> list[ShownEngine]:
        """At most ``limit`` engines whose ids begin so; the one that is so, alone."""
        like = sa.func.substr(E.c.id, 1, len(prefix)) == prefix
        page = sa.select(E, self._now().label("now")).where(like)
        rows = connection.execute(page.order_by(E.c.id).limit(limit)).all()
        found = [ShownEngine(engine_of(row), row.now) for row in rows]
        exact = [shown for shown in found if shown.engine.id == prefix]
        return exact or found

    def owned(self, connection: sa.Connection, engine_id: str) -> dict[str, int]:
        """Number of deadlines of an engine by state, of at most :data:`COUNTED`."""
        some = sa.select(D.c.state).where(D.c.owner_id == engine_id).limit(COUNTED)
        part = some.subquery()
        count = sa.select(part.c.state, sa.func.count()).group_by(part.c.state)
        return {row[0]: row[1] for row in connection.execute(count)}

    def deadlines(
        self,
        connection: sa.Connection,
        wanted: Filter | None = None,
        windows: int | None = None,
    ) -> Iterator[Listed]:
        """The deadlines that ``wanted`` asks for, by row id; of the first ``windows``
        of the table, or of all of it."""
        after: sa.BindParameter[int] = sa.bindparam("after")
        upto: sa.BindParameter[int] = sa.bindparam("upto")
        window = sa.select(D.c.id).where(D.c.id > after).order_by(D.c.id).limit(WINDOW)
        end = sa.select(sa.func.max(window.subquery().c.id))
        page = (
            self._listed(wanted or Filter())
            .where(D.c.id > after, D.c.id <= upto)
            .order_by(D.c.id)
        )
        last = -1
        while (to := connection.execute(end, {"after": last}).scalar()) is not None:
            for row in connection.execute(page, {"after": last, "upto": to}).all():
                yield _listed_of(row)
            last = to
            if windows is not None:
                windows -= 1
                if not windows:
                    return

    def some(
        self, connection: sa.Connection, wanted: Filter, limit: int
    ) -> list[Listed]:
        """At most ``limit`` of the deadlines that ``wanted`` asks for, any of them; an
        index finds them by owner, or by state and due time."""
        found = connection.execute(self._listed(wanted).limit(limit))
        return [_listed_of(row) for row in found]

    def count(
        self, connection: sa.Connection, wanted: Filter, limit: int = COUNTED
    ) -> int:
        """How many :meth:`some` would find, of at most ``limit``."""
        some = sa.select(D.c.id).where(*self._conditions(wanted)).limit(limit)
        count = sa.select(sa.func.count()).select_from(some.subquery())
        number: int = connection.execute(count).scalar_one()
        return number

    def longest_due(self, connection: sa.Connection) -> float | None:
        """Seconds since the armed deadline was due that is due for longest; None when
        none is due."""
        first = sa.select(sa.func.min(D.c.due_at)).where(D.c.state == ARMED)
        row = connection.execute(
            sa.select(first.scalar_subquery().label("due"), self._now().label("now"))
        ).one()
        late = None if row.due is None else (row.now - row.due).total_seconds()
        return late if late is not None and late >= 0 else None

    def by_kind(
        self, connection: sa.Connection, state: str, limit: int = COUNTED
    ) -> dict[str, int]:
        """Number of deadlines in that state by kind, of at most ``limit`` in all."""
        some = sa.select(D.c.kind).where(D.c.state == state).limit(limit).subquery()
        count = sa.select(some.c.kind, sa.func.count()).group_by(some.c.kind)
        return {row[0]: row[1] for row in connection.execute(count)}

    def kinds(self, connection: sa.Connection, limit: int) -> list[str]:
        """The kinds that there are, at most ``limit``, one step through the index for
        each."""
        kinds = values_of(connection.dialect.name, D.c.kind)
        found = sa.select(kinds.c.value).where(kinds.c.value.is_not(None)).limit(limit)
        return list(connection.execute(found).scalars())

    def ended_within(
        self, connection: sa.Connection, seconds: float, limit: int
    ) -> list[Engine]:
        """Engines that ended in the last so many seconds, at most ``limit``."""
        late = E.c.ended_at >= self._now(-seconds)
        rows = connection.execute(sa.select(E).where(late).limit(limit))
        return [engine_of(row) for row in rows]

    def ended_before(
        self, connection: sa.Connection, seconds: float, limit: int
    ) -> list[Engine]:
        """Engines that ended longer than so many seconds ago and own nothing, at most
        ``limit``."""
        owns = sa.exists().where(D.c.owner_id == E.c.id)
        old = sa.select(E).where(E.c.ended_at < self._now(-seconds), sa.not_(owns))
        return [engine_of(row) for row in connection.execute(old.limit(limit))]

    def deadline(
        self, connection: sa.Connection, kind: str, key: str
    ) -> tuple[Listed, str | None] | None:
        """One deadline and its payload as JSON, or None."""
        statement = self._listed(Filter()).add_columns(D.c.payload)
        row = connection.execute(
            statement.where(D.c.kind == kind, D.c.key == key)
        ).one_or_none()
        return None if row is None else (_listed_of(row), row.payload)

    def now(self, connection: sa.Connection) -> datetime:
        """The database's UTC."""
        moment: datetime = connection.execute(sa.select(self._now())).scalar_one()
        return moment

    def _listed(self, wanted: Filter) -> sa.Select[Any]:
        owner = (
            E.c.state.label("engine_state"),
            E.c.host.label("owner_host"),
            E.c.pid.label("owner_pid"),
            E.c.ended_at.label("owner_ended_at"),
        )
        columns = sa.select(*_LISTED, *owner, self._now().label("now"))
        statement = columns.select_from(D.outerjoin(E, E.c.id == D.c.owner_id))
        return statement.where(*self._conditions(wanted))

    def _conditions(self, wanted: Filter) -> Iterator[Any]:
        if wanted.states:
            yield D.c.state.in_(wanted.states)
        if wanted.kinds:
            yield D.c.kind.in_(wanted.kinds)
        if wanted.owner == NOBODY:
            yield D.c.owner_id.is_(None)
        elif wanted.owner is not None:
            yield D.c.owner_id == wanted.owner
        if wanted.owners is not None:
            yield D.c.owner_id.in_(wanted.owners)
        if wanted.prefix:
            length = len(wanted.prefix)
            yield sa.func.substr(D.c.key, 1, length) == wanted.prefix
        if wanted.late is not None:
            yield D.c.state == DeadlineState.ARMED
            yield D.c.due_at <= self._now(-wanted.late)
        if wanted.orphaned:
            yield D.c.state != DeadlineState.PARKED
            gone = sa.or_(E.c.id.is_(None), E.c.state.not_in(ALIVE))
            yield sa.or_(gone, D.c.owner_id.in_(wanted.dead)) if wanted.dead else gone


def _listed_of(row: Any) -> Listed:
    state = row.engine_state
    if state is None:
        state = NOBODY if row.owner_id is None else MISSING
    fields = {column.name: getattr(row, column.name) for column in _LISTED}
    return Listed(
        **fields,
        owner_state=state,
        owner_host=row.owner_host,
        owner_pid=row.owner_pid,
        owner_ended_at=row.owner_ended_at,
        now=row.now,
    )
