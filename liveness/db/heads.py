"""Claims from the head of a line: what has been due longest, of one engine or of
nobody, found and claimed in one go. For a backlog.

The server takes the rows by the index that has their order, passes by those that others
have locked, and says what it took: nothing is read that somebody else takes before it
is claimed, and with one commit the last batch is settled and the next one claimed.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from oslo_db import exception as db_exc

from liveness.clock import Clock
from liveness.db import completion, tables
from liveness.db.completion import Completion
from liveness.db.connection import has_bounded_locks, transaction
from liveness.db.events import EventLog, alike
from liveness.db.finding import BY_DUE, BY_OWNER, FIRST
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


MARKED = 50
"""So many claims in a row begin at a mark, and then one at the first, where rows may
have come meanwhile that have been due longer."""


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


class Heads:
    """Claims from the head of a line. Only deadlines that were never claimed before and
    are not at their last attempt: others must be chosen (see
    :mod:`liveness.admission`)."""

    def __init__(self, clock: Clock, log: EventLog) -> None:
        self._now = clock.database_now
        self._log = log
        self._statements = Statements()
        self._completion = Completion()
        self._marks: dict[Line, tuple[datetime, int]] = {}  # and how many began there

    @staticmethod
    def serve(dialect: sa.Dialect, line: Line) -> bool:
        """Whether there is such a claim. On MySQL, whose server does not end the
        transaction of a paused client, there is none; on MariaDB own deadlines, which
        nobody else takes, are claimed faster by their keys."""
        if dialect.name == "mysql" and line is Line.OWN:
            return False
        return dialect.name == "sqlite" or has_bounded_locks(dialect)

    def claim(
        self,
        connection: sa.Connection,
        ask: Ask,
        done: Sequence[Deadline] = (),
        again: bool = False,
    ) -> tuple[set[int], list[Deadline]]:
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
    ) -> tuple[set[int], list[Deadline]]:
        if connection.dialect.name == "postgresql":
            return self._in_one(connection, ask, done, again)
        with transaction(connection):
            stale = self._completion.run(connection, done, again) if done else set()
            taken = self._taken(connection, ask)
            if taken and ask.event is not None:
                ids = [value.id for value in taken]
                self._log.add_alike(connection, ask.event, ids)
        return stale, taken

    # --- PostgreSQL: one statement ----------------------------------------------

    def _in_one(
        self,
        connection: sa.Connection,
        ask: Ask,
        done: Sequence[Deadline],
        again: bool,
    ) -> tuple[set[int], list[Deadline]]:
        token = new_token()
        sent: dict[str, Any] = {"me": ask.me, "written": token, "most": ask.limit}
        if done:
            sent |= completion.parameters(done)
        if ask.event is not None:
            sent |= alike(ask.event)
        statement = self._statement(connection, ask, self._chained, bool(done))
        rows = statement.fetched(connection, sent)
        taken = _values(statement, rows if rows[0][0] is not None else [], ask, token)
        if not done:
            return set(), taken
        return completion.stale(connection, done, rows[0][-1], again), taken

    def _chained(self, connection: sa.Connection, ask: Ask, done: bool) -> Any:
        found = self._head(connection, ask, D.c.id).cte("found")
        read = [*READ, self._expired()]
        if ask.event is not None:
            read.append(D.c.attempts)  # for the event
        claim = self._write(ask).where(D.c.id == found.c.id).returning(*read)
        taken = claim.cte("taken")
        gone: Any = sa.null()
        if done:
            gone = completion.deletion(connection).returning(D.c.id).cte("gone")
            gone = sa.select(sa.func.count()).select_from(gone).scalar_subquery()
        one = sa.select(gone.label("gone")).subquery("one")
        rows = sa.select(*taken.c, one.c.gone)
        rows = rows.select_from(one.outerjoin(taken, sa.true()))
        if ask.event is not None:
            rows = rows.add_cte(self._log.copied(taken).cte("told"))
        return rows

    # --- elsewhere: a transaction -----------------------------------------------

    def _taken(self, connection: sa.Connection, ask: Ask) -> list[Deadline]:
        if connection.dialect.name == "sqlite":
            return self._returned(connection, ask)
        mark, times = self._marks.pop(ask.line, (FIRST.due_at, 0))
        taken = self._locked(connection, ask, mark)
        missing = ask.limit - len(taken)
        if missing and times:
            # Rows may have come before the mark meanwhile.
            rest = dataclasses.replace(ask, limit=missing)
            taken += self._locked(connection, rest, FIRST.due_at)
        elif not missing and times < MARKED:
            self._marks[ask.line] = taken[0].due_at, times + 1
        return taken

    def _returned(self, connection: sa.Connection, ask: Ask) -> list[Deadline]:
        token = new_token()
        sent = {"me": ask.me, "written": token, "most": ask.limit}
        statement = self._statement(connection, ask, self._returning)
        return _values(statement, statement.fetched(connection, sent), ask, token)

    def _returning(self, connection: sa.Connection, ask: Ask, done: bool) -> Any:
        head = self._head(connection, ask, D.c.id)
        claim = self._write(ask).where(D.c.id.in_(head))
        return claim.returning(*READ, self._expired())

    def _locked(
        self, connection: sa.Connection, ask: Ask, mark: datetime
    ) -> list[Deadline]:
        """InnoDB leaves entries of the index behind for what went; a search that
        begins at the ``mark`` does not step over them again."""
        token = new_token()
        lock = self._statement(connection, ask, self._locking)
        sent: dict[str, Any] = {"most": ask.limit, "mark": mark}
        if ask.line is Line.OWN:
            sent["me"] = ask.me
        taken = _values(lock, lock.fetched(connection, sent), ask, token, counted=0)
        if taken:
            write = self._statement(connection, ask, self._writing)
            ids = [value.id for value in taken]
            write.execute(connection, {"me": ask.me, "written": token, "ids": ids})
        return taken

    def _locking(self, connection: sa.Connection, ask: Ask, done: bool) -> Any:
        after = D.c.due_at >= sa.bindparam("mark", type_=D.c.due_at.type)
        head = self._head(connection, ask, *READ, self._expired()).where(after)
        return head.with_hint(D, "FORCE INDEX (ix_liveness_deadline_owner)", "mysql")

    def _writing(self, connection: sa.Connection, ask: Ask, done: bool) -> Any:
        return self._write(ask).where(among(connection, D.c.id, "ids"))

    # --- their parts --------------------------------------------------------------

    def _head(self, connection: sa.Connection, ask: Ask, *columns: Any) -> Any:
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
        build: Callable[[sa.Connection, Ask, bool], Any],
        done: bool = False,
    ) -> Prepared:
        def make() -> Prepared:
            statement = build(connection, ask, done)
            columns = [*READ] if statement.is_select or build == self._returning else []
            return Prepared(statement, connection.dialect, columns)

        name = (build.__name__, done, ask.shape)
        return self._statements.get(name, connection.dialect, make)


def _values(
    statement: Prepared,
    rows: Sequence[Sequence[Any]],
    ask: Ask,
    token: int,
    counted: int = 1,
) -> list[Deadline]:
    """As they are after the claim; ``counted``: 1 where the ``rows`` were read after
    it, which counts the epoch."""
    (_, time), (_, again) = statement.readers
    new, me, orphaned = Deadline._make, ask.me, ask.line is Line.NOBODYS
    more, claimed = 1 - counted, DeadlineState.CLAIMED
    values = []
    for row in rows:
        row_id, kind, key, arm, epoch, due, promise, most, payload, error, expired = (
            row[:11]
        )
        due = expires = time(due)
        problem = None
        if promise is not None:
            expires = again(promise)
        if payload is not None:
            payload, problem = load_payload(payload)
        facts = (row_id, kind, key, me, token + row_id, arm, epoch + more, claimed, due)
        rest = (expires, 1, most, payload, error, orphaned or not expired)
        values.append(new((*facts, *rest, bool(expired), True, problem)))
    return values
