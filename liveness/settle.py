"""Outcomes on their way to the database.

An outcome stays here until its write is known to have counted or to be stale, however
often the database fails. Each carries the token it will write from the start, so that
a write sent again after a lost answer recognises itself.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterable

import sqlalchemy as sa

from liveness.db.deadlines import Deadlines
from liveness.db.rows import new_token
from liveness.handlers import Handlers
from liveness.model import Deadline, Done, Outcome, Park, Rearm, Release, Retry

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True)
class Settlement:
    """One outcome to be written. ``sent``: an earlier try's answer was lost."""

    value: Deadline
    outcome: Outcome
    token: int = dataclasses.field(default_factory=new_token)
    sent: bool = False


class Settler:
    """Writes outcomes, many ``Done`` at a time."""

    def __init__(
        self,
        deadlines: Deadlines,
        handlers: Handlers,
        batch_size: int,
        let_go: Callable[[Deadline], None],
    ) -> None:
        self.batch_size = batch_size
        self._deadlines = deadlines
        self._handlers = handlers
        self._let_go = let_go
        self._lock = threading.Lock()
        self._pending: list[Settlement] = []

    def add(self, outcomes: Iterable[tuple[Deadline, Outcome]]) -> None:
        """Afterwards the outcomes will be written by the next :meth:`settle`."""
        settlements = [Settlement(value, outcome) for value, outcome in outcomes]
        with self._lock:
            self._pending += settlements

    @property
    def pending(self) -> int:
        """Number of outcomes not yet known to be written."""
        return len(self._pending)

    def settle(self, connection: sa.Connection) -> int:
        """Write everything pending; return how many were. On an error the rest stays.

        :raises Exception: the database's error, after which nothing is lost.
        """
        settled = 0
        while batch := self._next_batch():
            again = batch[0].sent
            for settlement in batch:
                settlement.sent = True
            if isinstance(batch[0].outcome, Done):
                stale = self._deadlines.complete(
                    connection, [s.value for s in batch], again=again
                )
            else:
                counted = self._write(connection, batch[0])
                stale = set() if counted else {batch[0].value.id}
            self._forget(batch, stale)
            settled += len(batch)
        return settled

    def _next_batch(self) -> list[Settlement]:
        """The oldest outcome, with others that go in the same statement."""
        with self._lock:
            if not self._pending:
                return []
            first = self._pending[0]
            if not isinstance(first.outcome, Done):
                return [first]
            same = (
                s
                for s in self._pending
                if isinstance(s.outcome, Done)
                and s.sent == first.sent
                and s.value.owner_id == first.value.owner_id
            )
            return [s for s, _ in zip(same, range(self.batch_size), strict=False)]

    def _write(self, connection: sa.Connection, settlement: Settlement) -> bool:
        """Write any outcome but Done. False: stale."""
        value, token = settlement.value, settlement.token
        outcome = self._or_park(value, settlement.outcome)
        write = self._deadlines
        match outcome:
            case Rearm(due_in):
                return write.rearm(connection, value, token, due_in)
            case Retry(reason, due_in):
                if due_in is None:
                    due_in = self._handlers.backoff(value.kind, value.attempts)
                LOG.info("%s is tried again in %.1f s: %s", value, due_in, reason)
                return write.retry(connection, value, token, due_in, reason)
            case Release(reason):
                LOG.info("%s is given back to other engines: %s", value, reason)
                return write.release(connection, value, token, reason)
            case Park(reason):
                LOG.error("%s is parked for the operator: %s", value, reason)
                return write.park(connection, value, token, reason)
        raise AssertionError(outcome)

    def _or_park(self, value: Deadline, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Retry) and value.attempts >= value.max_attempts:
            return Park(f"gave up after attempt {value.attempts}: {outcome.reason}")
        return outcome

    def _forget(self, batch: list[Settlement], stale: set[int]) -> None:
        gone = {id(settlement) for settlement in batch}
        with self._lock:
            self._pending = [s for s in self._pending if id(s) not in gone]
        for settlement in batch:
            self._let_go(settlement.value)
            if settlement.value.id in stale:
                LOG.warning(
                    "%s was taken over while it was handled here; its outcome (%s) does"
                    " not count.",
                    settlement.value,
                    type(settlement.outcome).__name__,
                )
