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
    """One outcome to be written. ``sent``: an earlier try's answer was lost."""

    value: Deadline
    outcome: Outcome
    token: int
    sent: bool = False
    failures: int = 0


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
        self.on_settled: Callable[[Sequence[Settled]], None] = lambda settled: None

    def add(self, outcomes: Iterable[tuple[Deadline, Outcome]]) -> None:
        """Afterwards the outcomes will be written by the next :meth:`settle`."""
        settlements = [
            Settlement(value, outcome, 0 if isinstance(outcome, Done) else new_token())
            for value, outcome in outcomes
        ]
        with self._lock:
            self._pending += settlements

    @property
    def pending(self) -> int:
        """Number of outcomes not yet known to be written."""
        return len(self._pending)

    def settle(self, connection: sa.Connection, last: Last | None = None) -> int:
        """Write everything pending; return how many were. On an error the rest stays.
        ``last`` may complete the last, if they are done, in place of the store.

        :raises Exception: the database's error, after which nothing is lost.
        """
        settled = 0
        while batch := self._next_batch():
            try:
                self._settle(connection, batch, last)
            except Exception as error:
                self._refused(batch, error)
                raise
            settled += len(batch)
            self._came_round()
        return settled

    def _refused(self, batch: list[Settlement], error: Exception) -> None:
        """An outcome that can never be written must not hold up the others for ever:
        it goes to the end of the line, and after some tries is parked."""
        if not is_about_values(error):
            return
        with self._lock:
            for settlement in batch:
                settlement.failures += 1
                if settlement.failures >= FAILURES:
                    reason = f"its outcome cannot be written: {one_line(error)}"
                    settlement.outcome = Park(reason)
            refused = {id(settlement) for settlement in batch}
            kept = [s for s in self._pending if id(s) not in refused]
            self._pending = kept + batch

    def _settle(
        self, connection: sa.Connection, batch: list[Settlement], last: Last | None
    ) -> None:
        again = batch[0].sent
        for settlement in batch:
            settlement.sent = True
        if isinstance(batch[0].outcome, Done):
            values = [settlement.value for settlement in batch]
            stale = None
            if last is not None and len(batch) == self.pending:
                stale = last(connection, values, again)
            if stale is None:
                stale = self._deadlines.complete(connection, values, again=again)
        else:
            counted = self._write(connection, batch[0])
            stale = set() if counted else {batch[0].value.id}
        self._forget(batch, stale)

    def _next_batch(self) -> list[Settlement]:
        """The oldest outcome, with others that go in the same statement."""
        with self._lock:
            if not self._pending:
                return []
            first = self._pending[0]
            if not isinstance(first.outcome, Done):
                return [first]
            sent, owner = first.sent, first.value.owner_id
            same = [
                s
                for s in self._pending
                if isinstance(s.outcome, Done)
                and s.sent == sent
                and s.value.owner_id == owner
            ]
            return same[: self.batch_size]

    def _write(self, connection: sa.Connection, settlement: Settlement) -> bool:
        """Write any outcome but Done. False: stale."""
        value, token = settlement.value, settlement.token
        outcome = self._or_park(value, settlement.outcome)
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

    def _forget(self, batch: list[Settlement], stale: set[int]) -> None:
        with self._lock:
            if len(batch) == len(self._pending):
                self._pending = []
            else:
                gone = {id(settlement) for settlement in batch}
                self._pending = [s for s in self._pending if id(s) not in gone]
        self._let_go([settlement.value for settlement in batch])
        counted = [s for s in batch if s.value.id not in stale] if stale else batch
        for settlement in batch if stale else ():
            if settlement.value.id in stale:
                LOG.warning(
                    "%s was taken over while it was handled here; its outcome (%s) does"
                    " not count.",
                    settlement.value,
                    type(settlement.outcome).__name__,
                    event="stale",
                )
        settled: list[Settled] = [(s.value, s.outcome) for s in counted]
        if len(settled) == 1:  # more are all done
            settled = [(v, self._or_park(v, outcome)) for v, outcome in settled]
        if settled:
            self.on_settled(settled)
