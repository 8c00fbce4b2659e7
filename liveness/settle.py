"""Outcomes on their way to the database.

An outcome stays here until its write is known to have counted or to be stale, however
often the database fails. Each carries the token it will write from the start, so that
a write sent again after a lost answer recognises itself.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import sqlalchemy as sa

from liveness import log
from liveness.db.connection import is_about_values, one_line
from liveness.db.deadlines import Deadlines
from liveness.db.rows import new_token
from liveness.handlers import Handlers
from liveness.model import (
    Deadline,
    DeadlineState,
    Done,
    Outcome,
    Park,
    Rearm,
    Release,
    Retry,
    Unstarted,
)

LOG = log.get(__name__)

Settled: TypeAlias = tuple[Deadline, Outcome]

Last: TypeAlias = Callable[[sa.Connection, Sequence[Deadline], bool], set[int] | None]
"""As :meth:`liveness.db.deadlines.Deadlines.complete`; None when it did nothing."""

FAILURES = 3
"""Tries after which an outcome that the database refuses is parked."""


@dataclasses.dataclass(slots=True)
class Settlement:
    """What one statement writes: many ``Done`` of one owner, or one other outcome.
    ``sent``: an earlier try's answer was lost."""

    settled: list[Settled]
    token: int = 0
    sent: bool = False
    failures: int = 0

    @property
    def done(self) -> bool:
        """Whether its outcomes are ``Done``."""
        return isinstance(self.settled[0][1], Done)


class Settler:
    """Writes outcomes, many ``Done`` at a time."""

    def __init__(
        self,
        deadlines: Deadlines,
        handlers: Handlers,
        batch_size: int,
        let_go: Callable[[Iterable[Deadline]], None],
        again: Callable[[Deadline, float], None],
        came_round: Callable[[], None],
    ) -> None:
        """``let_go(values)`` is told of what is settled, ``again(value, seconds)`` of
        the new value of one that is due again then; ``came_round`` of progress."""
        self.batch_size = batch_size
        self._deadlines = deadlines
        self._handlers = handlers
        self._let_go = let_go
        self._again = again
        self._came_round = came_round
        self._lock = threading.Lock()
        self._pending: list[Settlement] = []
        self._open: Settlement | None = None  # Done, not sent yet: more may join it
        self.on_settled: Callable[[Sequence[Settled]], None] = lambda settled: None

    def add(self, outcomes: Iterable[Settled]) -> None:
        """Afterwards the outcomes will be written by the next :meth:`settle`."""
        outcomes = list(outcomes)
        done = [pair for pair in outcomes if type(pair[1]) is Done]
        with self._lock:
            if len(done) < len(outcomes):
                self._pending += [
                    Settlement([pair], new_token())
                    for pair in outcomes
                    if type(pair[1]) is not Done
                ]
            for owner in {value.owner_id for value, _ in done}:
                self._join([pair for pair in done if pair[0].owner_id == owner])

    def _join(self, done: list[Settled]) -> None:
        """Put ``done``, of one owner, into statements of not more than a batch."""
        last, size = self._open, self.batch_size
        if last is not None and last.settled[0][0].owner_id == done[0][0].owner_id:
            room = max(size - len(last.settled), 0)
            last.settled += done[:room]
            done = done[room:]
        for start in range(0, len(done), size):
            self._open = Settlement(done[start : start + size])
            self._pending.append(self._open)

    @property
    def pending(self) -> int:
        """Number of outcomes not yet known to be written."""
        with self._lock:
            return sum(len(one.settled) for one in self._pending)

    def settle(self, connection: sa.Connection, last: Last | None = None) -> int:
        """Write everything pending; return how many were. On an error the rest stays.
        ``last`` may complete the last, if they are done, in place of the store.

        :raises Exception: the database's error, after which nothing is lost.
        """
        settled = 0
        while one := self._next():
            try:
                self._settle(connection, one, last)
            except Exception as error:
                self._refused(one, error)
                raise
            settled += len(one.settled)
            self._came_round()
        return settled

    def _next(self) -> Settlement | None:
        """The oldest, which nothing joins any more."""
        with self._lock:
            one = self._pending[0] if self._pending else None
            if one is self._open:
                self._open = None
            return one

    def _refused(self, one: Settlement, error: Exception) -> None:
        """An outcome that can never be written must not hold up the others for ever:
        it goes to the end of the line, and after some tries is parked."""
        if not is_about_values(error):
            return
        one.failures += 1
        kept = [one]
        if one.failures >= FAILURES:
            park = Park(f"its outcome cannot be written: {one_line(error)}")
            kept = [
                Settlement([(value, park)], new_token()) for value, _ in one.settled
            ]
        with self._lock:
            self._pending = [s for s in self._pending if s is not one] + kept

    def _settle(
        self, connection: sa.Connection, one: Settlement, last: Last | None
    ) -> None:
        again, one.sent = one.sent, True
        stale = None
        if one.done:
            values = [value for value, _ in one.settled]
            if last is not None and len(self._pending) == 1:
                stale = last(connection, values, again)
            if stale is None:
                stale = self._deadlines.complete(connection, values, again=again)
        else:
            ((value, outcome),) = one.settled
            counted = self._write(connection, value, outcome, one.token)
            stale = set() if counted else {value.id}
        self._forget(one, stale)

    def _write(
        self, connection: sa.Connection, value: Deadline, outcome: Outcome, token: int
    ) -> bool:
        """Write any outcome but Done. False: stale."""
        outcome = self._or_park(value, outcome)
        write = self._deadlines
        match outcome:
            case Rearm(due_in):
                counted = write.rearm(connection, value, token, due_in)
                after = value._replace(token=token, attempts=0)
                return counted and self._due_again(after, due_in)
            case Retry(reason, due_in):
                if due_in is None:
                    due_in = self._handlers.backoff(value.kind, value.attempts)
                LOG.info(
                    "%s is tried again in %.1f s: %s",
                    value,
                    due_in,
                    reason,
                    event="retried",
                )
                counted = write.retry(connection, value, token, due_in, reason)
                after = value._replace(token=token)
                return counted and self._due_again(after, due_in)
            case Release(reason):
                LOG.info(
                    "%s is given back to other engines: %s",
                    value,
                    reason,
                    event="released",
                )
                attempts = value.attempts - isinstance(outcome, Unstarted)
                return write.release(connection, value, token, reason, attempts)
            case Park(reason):
                LOG.error(
                    "%s is parked for the operator: %s", value, reason, event="parked"
                )
                return write.park(connection, value, token, reason)
        raise AssertionError(outcome)

    def _due_again(self, value: Deadline, due_in: float) -> bool:
        armed = value._replace(state=DeadlineState.ARMED, expired=False)
        self._again(armed, due_in)
        return True

    def _or_park(self, value: Deadline, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Retry) and value.attempts >= value.max_attempts:
            return Park(f"gave up after attempt {value.attempts}: {outcome.reason}")
        return outcome

    def _forget(self, one: Settlement, stale: set[int]) -> None:
        with self._lock:
            self._pending = [other for other in self._pending if other is not one]
        self._let_go([value for value, _ in one.settled])
        settled = one.settled
        if stale:
            settled = [pair for pair in settled if pair[0].id not in stale]
        for value, outcome in one.settled if stale else ():
            if value.id in stale:
                LOG.warning(
                    "%s was taken over while it was handled here; its outcome (%s) does"
                    " not count.",
                    value,
                    type(outcome).__name__,
                    event="stale",
                )
        if not one.done:
            settled = [(v, self._or_park(v, outcome)) for v, outcome in settled]
        if settled:
            self.on_settled(settled)
