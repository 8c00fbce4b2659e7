"""Claims from the head of a line: what has been due longest, of one engine or of
nobody, found and claimed in one go. For a backlog.

The server takes the rows by the index that has their order, passes by those that others
have locked, and says what it took: nothing is read that somebody else takes before it
is claimed, and with one commit the last batch is settled and the next one claimed.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, overload

import sqlalchemy as sa
from oslo_db import exception as db_exc

from liveness.clock import Clock
from liveness.db import completion, tables
from liveness.db.completion import Completion
from liveness.db.connection import has_bounded_locks, transaction
from liveness.db.events import EventLog, alike
from liveness.db.finding import BY_DUE, BY_OWNER
from liveness.db.prepared import Prepared, Statements
from liveness.db.rows import (
    EPOCH_LIMIT,
    among,
    load_payload,
    new_token,
    written_token,
)
from liveness.events import Event
from liveness.model import Deadline, DeadlineState

D = tables.deadline

READ = [
    D.c.id,
    D.c.kind,
    D.c.key,
    D.c.arm_token,
    D.c.epoch,
    D.c.due_at,
    sa.func.nullif(D.c.expires_at, D.c.due_at, type_=D.c.expires_at.type).label(
        "expires_at"
    ),
    D.c.max_attempts,
    D.c.payload,
    D.c.last_error,
]
"""What the claim itself does not say; of the promise, what differs from the due time.
(A time is dear to read.)"""

DUE_AT = READ.index(D.c.due_at)

MARKED = 50
"""So many claims in a row begin at a mark, and then one at the first, where rows may
have come meanwhile that have been due longer."""

Mark = tuple[datetime | None, int]
"""A due time, and how many claims in a row have begun at one."""

NO_MARK: Mark = (None, 0)

MANY = 300
"""Own deadlines that are claimed at once, from which on MariaDB reading them for their
keys costs more than the search that locks them."""


class Line(enum.Enum):
    """Whose deadlines. Of nobody's only those whose promise has passed."""

    OWN = enum.auto()
    NOBODYS = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """What to claim: at most ``limit`` rows; of nobody's, of these ``kinds``. ``event``
    goes into the history for each, with the claim."""

    me: str
    line: Line
    kinds: tuple[str, ...]
    limit: int
    event: Event | None = None

    @property
    def shape(self) -> tuple[Any, ...]:
        """What its statements depend on."""
        return self.line, self.kinds, self.event is not None


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """Which of its forms a statement has. ``ends``: how it names what it completes;
    None: nothing. ``marked``: it begins at a mark."""

    ends: completion.Naming | None = None
    marked: bool = False


PLAIN = Form()


class Taken(Sequence[Deadline]):
    """What was claimed, as it is after the claim. The values are made when somebody
    looks at them; ``ids`` are at hand."""

    def __init__(
        self,
        rows: Sequence[Sequence[Any]],
        make: Callable[[Sequence[Sequence[Any]]], list[Deadline]],
    ) -> None:
        """``rows`` begin with their ids."""
        self.ids: list[int] = [row[0] for row in rows]
        self._rows, self._make = rows, make
        self._made: list[Deadline] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, place: int) -> Deadline: ...
    @overload
    def __getitem__(self, place: slice) -> list[Deadline]: ...
    def __getitem__(self, place: int | slice) -> Deadline | list[Deadline]:
        if self._made is None:
            self._made = self._make(self._rows)
        return self._made[place]

    def __iter__(self) -> Iterator[Deadline]:
        return iter(self[:])


class Heads:
    """Claims from the head of a line. Only deadlines that were never claimed before and
    are not at their last attempt: others must be chosen (see
    :mod:`liveness.admission`)."""

    def __init__(self, clock: Clock, log: EventLog) -> None:
        self._now = clock.database_now
        self._log = log
        self._statements = Statements()
        self._completion = Completion()
        self._marks: dict[Line, Mark] = {}

    @staticmethod
    def serve(dialect: sa.Dialect, line: Line, limit: int) -> bool:
        """Whether there is such a claim, of ``limit`` rows. On MySQL, whose server does
        not end the transaction of a paused client, there is none; on MariaDB own
        deadlines, which nobody else takes, are claimed by their keys with a statement
        less: faster, unless they are many."""
        if dialect.name == "mysql" and line is Line.OWN and limit < MANY:
            return False
        return dialect.name == "sqlite" or has_bounded_locks(dialect)

    def claim(
        self,
        connection: sa.Connection,
        ask: Ask,
        done: Sequence[Deadline] = (),
        again: bool = False,
    ) -> tuple[set[int], Taken]:
        """Complete what is ``done`` (see :meth:`Deadlines.complete`) and claim, with
        one commit for both: the ids of those that were stale, and what was claimed. An
        error leaves both unknown."""
        try:
            return self._claim(connection, ask, done, again)
        except db_exc.DBDeadlock:  # nothing was changed
            if not done:
                raise
            stale = self._completion.run(connection, done, again)
            return stale, self._claim(connection, ask, (), False)[1]

    def _claim(
        self,
        connection: sa.Connection,
        ask: Ask,
        done: Sequence[Deadline],
        again: bool,
    ) -> tuple[set[int], Taken]:
        if connection.dialect.name == "postgresql":
            return self._in_one(connection, ask, done, again)
        with transaction(connection):
            stale = self._completion.run(connection, done, again) if done else set()
            taken = self._taken(connection, ask)
            if taken and ask.event is not None:
                self._log.add_alike(connection, ask.event, taken.ids)
        return stale, taken

    # --- PostgreSQL: one statement ----------------------------------------------

    def _in_one(
        self,
        connection: sa.Connection,
        ask: Ask,
        done: Sequence[Deadline],
        again: bool,
    ) -> tuple[set[int], Taken]:
        token, (mark, times) = new_token(), self._marks.pop(ask.line, NO_MARK)
        sent: dict[str, Any] = {"me": ask.me, "written": token, "most": ask.limit}
        sent |= alike(ask.event) if ask.event is not None else {}
        ends = completion.naming_of(done) if done else None
        ended = completion.parameters(done, ends) if ends else {}
        form = Form(ends, mark is not None)
        statement = self._statement(connection, ask, self._chained, form)
        begin = {"mark": mark} if mark else {}
        rows = statement.fetched(connection, sent | ended | begin)
        found = rows if rows[0][0] is not None else []
        if len(found) == ask.limit:
            self._mark(ask.line, statement, found[0], times)
        elif mark is not None:
            sent["most"] -= len(found)
            found = [*found, *self._before(connection, ask, sent)]
        taken = Taken(found, _maker(statement, ask, token))
        if not done:
            return set(), taken
        return completion.stale(connection, done, rows[0][-1], again), taken

    def _before(
        self, connection: sa.Connection, ask: Ask, sent: dict[str, Any]
    ) -> Sequence[tuple[Any, ...]]:
        """Rows may have come before the mark meanwhile. The others are claimed already,
        whatever becomes of this."""
        whole = self._statement(connection, ask, self._chained)
        try:
            rows = whole.fetched(connection, sent)
        except db_exc.DBDeadlock:  # nothing was changed; a sweep finds them
            return []
        return rows if rows[0][0] is not None else []

    def _chained(self, connection: sa.Connection, ask: Ask, form: Form) -> Any:
        found = self._head(connection, ask, form, D.c.id).cte("found")
        read = [*READ, self._expired()]
        if ask.event is not None:
            read.append(D.c.attempts)  # for the event
        claim = self._write(ask).where(D.c.id == found.c.id).returning(*read)
        taken = claim.cte("taken")
        gone: Any = sa.null()
        if form.ends is not None:
            deleted = completion.deletion(connection, form.ends)
            gone = deleted.returning(D.c.id).cte("gone")
            gone = sa.select(sa.func.count()).select_from(gone).scalar_subquery()
        one = sa.select(gone.label("gone")).subquery("one")
        rows = sa.select(*taken.c, one.c.gone)
        rows = rows.select_from(one.outerjoin(taken, sa.true()))
        if ask.event is not None:
            rows = rows.add_cte(self._log.copied(taken).cte("told"))
        return rows

    # --- elsewhere: a transaction -----------------------------------------------

    def _taken(self, connection: sa.Connection, ask: Ask) -> Taken:
        token = new_token()
        sent = {"me": ask.me, "written": token}
        if connection.dialect.name == "sqlite":
            statement = self._statement(connection, ask, self._returning)
            rows = statement.fetched(connection, sent | {"most": ask.limit})
            return Taken(rows, _maker(statement, ask, token))
        lock, rows = self._locked(connection, ask)
        taken = Taken(rows, _maker(lock, ask, token, counted=0))
        if taken:
            write = self._statement(connection, ask, self._writing)
            write.execute(connection, sent | {"ids": taken.ids})
        return taken

    def _returning(self, connection: sa.Connection, ask: Ask, form: Form) -> Any:
        head = self._head(connection, ask, form, D.c.id)
        claim = self._write(ask).where(D.c.id.in_(head))
        return claim.returning(*READ, self._expired())

    def _locked(
        self, connection: sa.Connection, ask: Ask
    ) -> tuple[Prepared, Sequence[tuple[Any, ...]]]:
        mark, times = self._marks.pop(ask.line, NO_MARK)
        form = Form(marked=mark is not None)
        lock = self._statement(connection, ask, self._locking, form)
        sent: dict[str, Any] = {"most": ask.limit}
        sent |= {"me": ask.me} if ask.line is Line.OWN else {}
        rows = lock.fetched(connection, sent | ({"mark": mark} if mark else {}))
        missing = ask.limit - len(rows)
        if missing and mark is not None:
            # Rows may have come before the mark meanwhile. (The own locks of this
            # transaction are not passed by: after those come what it has already.)
            whole = self._statement(connection, ask, self._locking)
            had = {row[0] for row in rows}
            more = whole.fetched(connection, sent | {"most": missing})
            rows = [*rows, *(row for row in more if row[0] not in had)]
        elif not missing:
            self._mark(ask.line, lock, rows[0], times)
        return lock, rows

    def _locking(self, connection: sa.Connection, ask: Ask, form: Form) -> Any:
        head = self._head(connection, ask, form, *READ, self._expired())
        return head.with_hint(D, "FORCE INDEX (ix_liveness_deadline_owner)", "mysql")

    def _writing(self, connection: sa.Connection, ask: Ask, form: Form) -> Any:
        return self._write(ask).where(among(connection, D.c.id, "ids"))

    # --- their parts --------------------------------------------------------------

    def _mark(
        self, line: Line, statement: Prepared, first: Sequence[Any], times: int
    ) -> None:
        """Begin the next claim at the ``first`` row of this one: the servers leave
        entries of the index behind for what went, as long as a snapshot may see it."""
        if times < MARKED:
            (_, time), _ = statement.readers
            self._marks[line] = time(first[DUE_AT]), times + 1

    def _head(
        self, connection: sa.Connection, ask: Ask, form: Form, *columns: Any
    ) -> Any:
        order: tuple[Any, ...] = BY_DUE
        if ask.line is Line.OWN:
            owner = D.c.owner_id == sa.bindparam("me")
        else:
            owner = D.c.owner_id.is_(None)
            if connection.dialect.name == "postgresql":
                order = BY_OWNER
        armed = D.c.state == DeadlineState.ARMED
        where = [owner, armed, D.c.due_at <= self._now()]
        where += [D.c.attempts == 0, D.c.max_attempts > 1, D.c.epoch < EPOCH_LIMIT]
        if ask.line is Line.NOBODYS:
            where.append(D.c.expires_at <= self._now())
            where.append(sa.or_(sa.false(), *(D.c.kind == kind for kind in ask.kinds)))
        if form.marked:
            where.append(D.c.due_at >= sa.bindparam("mark", type_=D.c.due_at.type))
        most = sa.bindparam("most", type_=sa.Integer)
        head = sa.select(*columns).where(*where).order_by(*order).limit(most)
        return head.with_for_update(skip_locked=True)

    def _write(self, ask: Ask) -> Any:
        return sa.update(D).values(
            owner_id=sa.bindparam("me"),
            state=DeadlineState.CLAIMED,
            epoch=D.c.epoch + 1,
            attempts=D.c.attempts + 1,
            token=written_token(sa.bindparam("written", type_=sa.BigInteger)),
            updated_at=self._now(),
        )

    def _expired(self) -> Any:
        return (D.c.expires_at <= self._now()).label("expired")

    def _statement(
        self,
        connection: sa.Connection,
        ask: Ask,
        build: Callable[[sa.Connection, Ask, Form], Any],
        form: Form = PLAIN,
    ) -> Prepared:
        def make() -> Prepared:
            statement = build(connection, ask, form)
            columns = [*READ] if statement.is_select or build == self._returning else []
            return Prepared(statement, connection.dialect, columns)

        name = (build.__name__, form, ask.shape)
        return self._statements.get(name, connection.dialect, make)


def _maker(
    statement: Prepared, ask: Ask, token: int, counted: int = 1
) -> Callable[[Sequence[Sequence[Any]]], list[Deadline]]:
    """What makes values as they are after the claim; ``counted``: 1 where the rows were
    read after it, which counts the epoch."""
    (_, time), (_, again) = statement.readers
    me, orphaned = ask.me, ask.line is Line.NOBODYS
    more, claimed = 1 - counted, DeadlineState.CLAIMED
    new = tuple.__new__  # as Deadline._make, which costs a third more

    def make(rows: Sequence[Sequence[Any]]) -> list[Deadline]:
        values = []
        for row in rows:
            row_id, kind, key, arm, epoch, due, promise, most, text, error, late = row[
                :11
            ]
            due = expires = time(due)
            payload = problem = None
            if promise is not None:
                expires = again(promise)
            if text is not None:
                payload, problem = load_payload(text)
            own = (row_id, kind, key, me, token + row_id, arm, epoch + more, claimed)
            rest = (due, expires, 1, most, payload, error, orphaned or not late)
            values.append(new(Deadline, (*own, *rest, bool(late), True, problem)))
        return values

    return make
