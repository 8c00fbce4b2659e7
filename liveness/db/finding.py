"""What there is to do for one engine: found in one statement, without locks."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Hashable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from liveness.clock import Clock
from liveness.db import tables
from liveness.db.rows import COLUMNS, deadline_of, looked_at
from liveness.model import Deadline, DeadlineState

D = tables.deadline

OWNER, DUE_AT = COLUMNS.index(D.c.owner_id), COLUMNS.index(D.c.due_at)

BY_DUE = (D.c.due_at, D.c.id)

BY_OWNER = (D.c.owner_id, *BY_DUE)
"""For rows without one. They have no other order, but by due time alone PostgreSQL may
go through all that are armed, in search of those without an owner."""

UNORDERED: tuple[Any, ...] = ()
"""For orphans of several engines: sorting all of them for each page would cost more
than the page."""


class Why(enum.StrEnum):
    """Why a row was found."""

    OWN = "own"  # mine, armed, due before the next sweep
    HELD = "held"  # mine and claimed: do I know?
    ORPHAN = "orphan"  # its owner is dead, missing, or released it
    OVERDUE = "overdue"  # due, and its owner's head start is over


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """What one engine looks for. Times are seconds, ``limit`` is rows of each sort but
    its own that are armed: of those, ``own_limit``.

    ``fresh_only``: nothing that was claimed before. ``foreign_due``: what others own
    and is overdue, too. ``held``: own claims, in case an answer was lost.
    """

    horizon: float
    grace: float
    kinds: tuple[str, ...]
    unknown_grace: float
    limit: int
    own_limit: int
    fresh_only: bool = False
    foreign_due: bool = True
    held: bool = True


class Place(NamedTuple):
    """Where a row stands among the armed ones of its owner."""

    due_at: datetime
    id: int


FIRST = Place(datetime(1000, 1, 1, tzinfo=UTC), 0)
"""Before the first (the earliest time of MySQL)."""


class Since(NamedTuple):
    """From which due times on to look for what is one's own, and for what is overdue
    (see :mod:`liveness.marks`)."""

    own: datetime
    overdue: datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What was found, each sort in order of due time. ``overdue_from``: since when the
    first is overdue, whoever owns it; None for none."""

    own: list[Deadline]
    held: list[Deadline]
    orphans: list[Deadline]
    overdue: list[Deadline]
    overdue_from: datetime | None = None

    @property
    def rows(self) -> int:
        """How many, of all sorts."""
        sorts = (self.own, self.held, self.orphans, self.overdue)
        return sum(map(len, sorts))


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What a ``finder`` is asked for: everything of that ``scope``, but what was due
    before ``since``; orphans are those of the ``dead`` engines and those without an
    owner, from the ``offset``-th on."""

    scope: Scope
    dead: tuple[str, ...]
    offset: int
    since: Since | None
    finder: Finder = dataclasses.field(compare=False, repr=False)

    @property
    def name(self) -> Hashable:
        """Questions of one name differ in their :attr:`values` only."""
        return self.scope, bool(self.dead), self.since is not None

    @property
    def values(self) -> dict[str, Any]:
        """The parameters of its :attr:`parts`."""
        values: dict[str, Any] = {"me": self.finder.me, "skipped": self.offset}
        if self.dead:
            values["dead"] = self.dead
        if self.since is not None:
            values |= {"own_since": self.since.own, "since": self.since.overdue}
        return values

    def parts(self, dialect: str) -> list[Any]:
        """The SELECTs that find it, sort by sort."""
        since = self.since is not None
        return self.finder.parts(self.scope, bool(self.dead), since, dialect)


class Finder:
    """Finds deadlines for one engine."""

    def __init__(self, clock: Clock, me: str) -> None:
        self._now = clock.database_now
        self.me = me
        # Building a statement costs more than running it; there are few variants.
        self._statements: dict[Hashable, Any] = {}
        self._pages: dict[tuple[Scope, str], Any] = {}

    def find(self, connection: sa.Connection, question: Question) -> Found:
        """What is asked for."""
        name = (question.name, connection.dialect.name)
        statement = self._statements.get(name)
        if statement is None:
            if len(self._statements) > 16:
                self._statements.clear()
            statement = sa.union_all(*question.parts(name[1]))
            self._statements[name] = statement
        rows = connection.execute(statement, question.values).all()
        return found_of(rows, self.me)

    def question(
        self,
        scope: Scope,
        dead: Iterable[str] = (),
        offset: int = 0,
        since: Since | None = None,
    ) -> Question:
        """What :meth:`find` is asked, or a statement that asks for more."""
        return Question(scope, tuple(sorted(dead)), offset, since, self)

    def orphans_of(
        self,
        connection: sa.Connection,
        scope: Scope,
        owner: str,
        after: Place,
        limit: int,
    ) -> list[Deadline]:
        """The armed deadlines of one dead engine that come after that place, at most
        ``limit``, in the order of their places."""
        name = (scope, connection.dialect.name)
        if (page := self._pages.get(name)) is None:
            if len(self._pages) > 16:
                self._pages.clear()
            where = (*_armed_beyond(name[1]), *self._wanted(scope))
            most = sa.bindparam("most", type_=sa.Integer)
            part = self._part(Why.ORPHAN, scope, *where, order=_places(name[1]))
            page = self._pages[name] = _by_owner(part.limit(most))
        values = {**_values(owner, after), "most": limit}
        return [_value_of(row) for row in connection.execute(page, values).all()]

    def count_armed(self, connection: sa.Connection, owner: str, most: int) -> int:
        """How many armed deadlines ``owner`` has, counted up to ``most``."""
        some = _armed_of(connection, sa.literal(1)).limit(most).subquery()
        counted = sa.select(sa.func.count()).select_from(some)
        return connection.execute(counted, _values(owner)).scalar_one()

    def place_after(
        self, connection: sa.Connection, owner: str, skipped: int
    ) -> Place | None:
        """Where the ``skipped`` first armed deadlines of ``owner`` end; None if there
        are fewer."""
        if skipped == 0:
            return FIRST
        rows = _armed_of(connection, *BY_DUE).offset(skipped - 1).limit(1)
        row = connection.execute(rows, _values(owner)).one_or_none()
        return None if row is None else Place(*row)

    def parts(self, scope: Scope, dead: bool, since: bool, dialect: str) -> list[Any]:
        """See :meth:`Question.parts`."""
        own_since = [_since("own_since")] if since else []
        overdue_since = [_since("since")] if since else []
        armed = D.c.state == DeadlineState.ARMED
        unsettled = looked_at(D.c.state).in_(
            (DeadlineState.ARMED, DeadlineState.CLAIMED)
        )
        mine = D.c.owner_id == sa.bindparam("me")
        nobodys = D.c.owner_id.is_(None)
        nobodys_order = BY_OWNER if dialect == "postgresql" else BY_DUE
        fresh, wanted = list(self._fresh(scope)), list(self._wanted(scope))
        soon = D.c.due_at <= self._now(scope.horizon)
        late = D.c.due_at <= self._now(-scope.grace)
        skipped = sa.bindparam("skipped", type_=sa.Integer)
        parts = [
            self._part(Why.OWN, scope, mine, armed, soon, *fresh, *own_since).limit(
                scope.own_limit
            ),
            self._part(
                Why.ORPHAN, scope, nobodys, armed, *wanted, order=nobodys_order
            ).offset(skipped),
        ]
        if scope.held:
            claimed = D.c.state == DeadlineState.CLAIMED
            parts.append(self._part(Why.HELD, scope, mine, claimed))
            # Nobody writes such a row; but one that is there is looked at.
            where = (nobodys, claimed, *wanted)
            parts.append(self._part(Why.ORPHAN, scope, *where, order=nobodys_order))
        if dead:
            theirs = D.c.owner_id.in_(sa.bindparam("dead", expanding=True))
            part = self._part(
                Why.ORPHAN, scope, theirs, unsettled, *wanted, order=UNORDERED
            )
            parts.append(_by_owner(part.offset(skipped)))
        if scope.foreign_due:
            known = D.c.kind.in_(scope.kinds)
            where = (armed, late, known, *fresh, *overdue_since)
            parts.append(self._part(Why.OVERDUE, scope, *where))
        return [in_union(part, dialect) for part in parts]

    def _part(
        self, why: Why, scope: Scope, *where: Any, order: tuple[Any, ...] = BY_DUE
    ) -> Any:
        """One sort of work."""
        label = sa.literal_column(f"'{why}'", sa.String).label("why")
        expired = (D.c.expires_at <= self._now()).label("expired")
        due = (D.c.due_at <= self._now()).label("due")
        part = sa.select(*COLUMNS, label, expired, due).where(*where)
        return part.order_by(*order).limit(scope.limit)

    def _wanted(self, scope: Scope) -> Iterable[Any]:
        """Kinds with a handler here; others once nobody took them in time. (A kind
        that a living owner knows is no business of an engine that does not.)"""
        known = D.c.kind.in_(scope.kinds)
        yield sa.or_(known, D.c.due_at <= self._now(-scope.unknown_grace))
        yield from self._fresh(scope)

    def _fresh(self, scope: Scope) -> Iterable[Any]:
        """One that was claimed before may kill its engine: one of them at a time."""
        if scope.fresh_only:
            yield D.c.attempts == 0


def _since(name: str) -> sa.ColumnElement[bool]:
    moment = sa.bindparam(name, type_=D.c.due_at.type)
    after: sa.ColumnElement[bool] = D.c.due_at >= moment
    return after


def in_union(part: Any, dialect: str) -> Any:
    """``part``, which has an order and a limit of its own, as one of a UNION. SQLite
    takes it as a subquery only, which elsewhere is one more temporary table."""
    return sa.select(part.subquery()) if dialect == "sqlite" else part


def found_of(rows: Iterable[Any], me: str) -> Found:
    """What the rows of a question's parts say to ``me``."""
    found: dict[str, list[Deadline]] = {why: [] for why in Why}
    overdue_from: datetime | None = None
    for row in rows:
        if row[-3] == Why.OVERDUE:
            overdue_from = min(row[DUE_AT], overdue_from or row[DUE_AT])
            # Own ones and nobody's are found already. They are left out here: the
            # search for a page would read on past every one of them.
            if row[OWNER] in (None, me):
                continue
        found[row[-3]].append(_value_of(row))
    return Found(
        own=found[Why.OWN],
        held=found[Why.HELD],
        orphans=found[Why.ORPHAN],
        overdue=found[Why.OVERDUE],
        overdue_from=overdue_from,
    )


def _value_of(row: Any) -> Deadline:
    *_, why, expired, due = row  # by number: there may be a thousand
    orphaned = why == Why.ORPHAN or not expired
    return deadline_of(row, orphaned, bool(expired), bool(due))


def _armed_of(connection: sa.Connection, *columns: Any) -> Any:
    """Read from the index alone."""
    dialect = connection.dialect.name
    rows = sa.select(*columns).select_from(D).where(*_armed_beyond(dialect))
    return _by_owner(rows.order_by(*_places(dialect)))


def _by_owner(rows: Any) -> Any:
    """MariaDB may think that another index, or none, has fewer rows."""
    return rows.with_hint(D, "FORCE INDEX (ix_liveness_deadline_owner)", "mysql")


def _values(owner: str, after: Place = FIRST) -> dict[str, Any]:
    """The parameters of :func:`_armed_beyond`."""
    return {"owner": owner, "due": after.due_at, "id": after.id}


def _armed_beyond(dialect: str) -> tuple[Any, ...]:
    """Armed deadlines of one owner in places after one that is given; as each planner
    sees a range of the owner's index in it, for many may be due at the same time.

    Most rows may be that owner's by what PostgreSQL knows: the index without owners
    then seems as good to it, and it goes through those of all. The order of
    :func:`_places` only this one has."""
    owner, armed = sa.bindparam("owner", type_=D.c.owner_id.type), DeadlineState.ARMED
    due = sa.bindparam("due", type_=D.c.due_at.type)
    row_id = sa.bindparam("id", type_=D.c.id.type)
    if dialect == "postgresql":
        whose = sa.literal(armed.value, D.c.state.type)
        head = sa.tuple_(D.c.owner_id, D.c.state)
        place = sa.tuple_(D.c.owner_id, D.c.state, *BY_DUE)
        after = place > sa.tuple_(owner, whose, due, row_id)
        return after, head <= sa.tuple_(owner, whose)
    beyond = sa.tuple_(*BY_DUE) > sa.tuple_(due, row_id)
    if dialect == "mysql":
        same = sa.and_(D.c.due_at == due, D.c.id > row_id)
        beyond = sa.or_(D.c.due_at > due, same)
    return D.c.owner_id == owner, D.c.state == armed, beyond


def _places(dialect: str) -> tuple[Any, ...]:
    return (D.c.owner_id, D.c.state, *BY_DUE) if dialect == "postgresql" else BY_DUE
