"""Claimed deadlines in flight: which values this engine holds, running or waiting.

A hold is spent exactly once: by the handler's return, or by its timeout. Whatever a
handler returns after its hold was spent is ignored; in the database its token is dead.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from liveness import exceptions, log
from liveness.clock import Clock
from liveness.handlers import DONE, Handlers, answer
from liveness.model import Deadline, Outcome, Park, Release, Retry, Unstarted
from liveness.pool import Pool
from liveness.trust import Trust

LOG = log.get(__name__)

QUICK = 0.0002
"""Seconds that handlers take, on average, while one thread is enough for all."""

STALLED = 0.005
"""Seconds in which no handler is called although some wait: then that thread hangs."""

LET_IN = 0.000_01
"""Seconds for which the loop stands still when it has handed over what was claimed the
moment it was due: the handler's thread has the interpreter at once, and not when the
loop has come round."""

ALL_HANG = "every handler thread of its engine hangs"


@dataclasses.dataclass(slots=True)
class Hold:
    """One claimed value in this engine's hands. ``outcome``: what it was spent for."""

    value: Deadline
    limit: float
    started: float | None = None
    outcome: Outcome = DONE
    spent: bool = False
    late: bool = False


@dataclasses.dataclass(slots=True, eq=False)
class Packed:
    """A batch in this engine's hands whose values nobody has asked for yet; ``taken``
    is told of them when they are made."""

    values: Sequence[Deadline]
    taken: Callable[[Sequence[Deadline]], None]


class Runner:
    """Runs handlers for claimed deadlines and collects what they answer."""

    def __init__(
        self,
        handlers: Handlers,
        trust: Trust,
        clock: Clock,
        threads: int,
        batch_size: int,
        ring: Callable[[], None],
    ) -> None:
        self.batch_size = batch_size
        self._handlers = handlers
        self._trust = trust
        self._clock = clock
        self._ring = ring
        self._pool = Pool[Hold | Packed](
            threads, self._execute, lambda: self._mean < QUICK
        )
        self._lock = threading.Lock()
        self._packed: list[Packed] = []
        self._holds: dict[int, Hold] = {}
        self._collected: dict[int, Hold] = {}
        self._notable: dict[int, Deadline] = {}
        self.on_run: Callable[[list[int]], None] = lambda row_ids: None
        self.on_ran: Callable[[Deadline, float], None] = lambda value, seconds: None
        self.on_unreadable: Callable[[], None] = lambda: None
        """Told when what was claimed is not held, for it could not be read."""
        self._unstarted = self._begun = 0
        self._progress = 0, float("-inf")  # begun, and since when so many
        self._untrusted: list[Hold] = []
        self._hung = 0
        self._answers: list[Hold] = []
        self._mean = 0.1  # seconds a handler takes, a running mean

    def run(self, values: Iterable[Deadline], punctual: bool = False) -> None:
        """Hold the freshly claimed ``values`` and run their handlers. Those that are
        ``punctual``, claimed the moment they were due, do not wait for a backlog."""
        values = list(values)
        if not values:
            return
        self.on_run([value.id for value in values])
        with self._lock:
            holds = self._hold(values)
            self._unstarted += len(holds)
        self._pool.submit(holds, first=punctual)
        if punctual:
            time.sleep(LET_IN)

    def run_packed(
        self,
        values: Sequence[Deadline],
        row_ids: list[int],
        taken: Callable[[Sequence[Deadline]], None],
    ) -> None:
        """The same, of ``values`` that are made when somebody looks at them: by the
        thread that runs their handlers, while the loop goes on. ``taken`` is told of
        them then. None was claimed before, or is at its last attempt."""
        if not values:
            return
        self.on_run(row_ids)
        packed = Packed(values, taken)
        with self._lock:
            self._packed.append(packed)
            self._unstarted += len(values)
        self._pool.submit([packed])

    def _hold(self, values: Sequence[Deadline]) -> list[Hold]:
        kinds = {value.kind for value in values}
        limits = {kind: self._handlers.timeout(kind) for kind in kinds}
        holds = [Hold(value, limits[value.kind]) for value in values]
        self._holds.update([(hold.value.id, hold) for hold in holds])
        notable = [v for v in values if v.attempts > 1 or v.attempts >= v.max_attempts]
        for value in values if self._notable else ():
            self._notable.pop(value.id, None)  # of an older value
        self._notable.update((value.id, value) for value in notable)
        return holds

    def _unpack(self, packed: Packed) -> None:
        holds: list[Hold] = []
        with self._lock:
            if packed not in self._packed:
                return
            try:
                holds = self._hold(packed.values)
            except Exception:
                self._unstarted -= len(packed.values)
                LOG.exception("Claimed rows cannot be read.", event="bug")
            self._packed.remove(packed)
        if not holds:
            self.on_unreadable()
            return
        try:
            packed.taken(packed.values)
        except Exception:
            LOG.exception("Nobody was told of claimed rows.", event="bug")
        self._pool.submit(holds)  # not before those that are punctual

    def _unpack_all(self) -> None:
        for packed in list(self._packed):
            self._unpack(packed)

    def resume(self) -> None:
        """Run what could not start: the engine was suspended, or got no thread, or the
        only thread at work hangs."""
        self._pool.start_if_none()
        now = self._clock.monotonic()
        if self._unstarted <= 0 or self._begun != self._progress[0]:
            self._progress = self._begun, now
        elif now >= self.next_help:
            self._pool.help()
            self._progress = self._begun, float("inf")
        with self._lock:
            holds, self._untrusted = self._untrusted, []
            self._unstarted += len(holds)
        self._pool.submit(holds)

    @property
    def next_help(self) -> float:
        """When, on the monotonic clock, :meth:`resume` has to be called, in case that
        nothing has begun until then."""
        waits = self._unstarted > 0 and self._mean < QUICK
        return self._progress[1] + STALLED if waits else float("inf")

    @property
    def room(self) -> int:
        """How many more claims the threads finish in about a second, by their recent
        pace, so that none waits here while another engine is idle; at most a batch,
        none when all threads hang. Two are held at most while handlers are quick, one
        of which runs while the other is settled and the next claimed; else one less, so
        that of batches of one there is one."""
        with self._lock:
            working = self._pool.size - self._hung
            pace = int(working / max(self._mean, 1e-6)) if working else 0
            two = 2 * self.batch_size - (self._mean >= QUICK)
            most = min(max(pace, working), two)
            most -= len(self._holds) + sum(len(one.values) for one in self._packed)
            return max(0, min(most, self.batch_size))

    def held(self) -> list[Deadline]:
        """The values held, running or not."""
        self._unpack_all()
        with self._lock:
            holds = (*self._collected.values(), *self._holds.values())
            return [hold.value for hold in holds]

    def notable(self) -> list[Deadline]:
        """Those of the values held, and not collected yet, that were claimed before or
        are at their last attempt."""
        with self._lock:
            return list(self._notable.values()) if self._notable else []

    @property
    def working(self) -> bool:
        """True while anything is held that is not collected yet."""
        return bool(self._holds or self._packed)

    def has(self, row_id: int) -> bool:
        """True while the deadline with that row id is held, running or not."""
        self._unpack_all()
        return row_id in self._holds or row_id in self._collected

    @property
    def busy(self) -> bool:
        """True while anything is held."""
        return bool(self._holds or self._packed or self._collected)

    def check(self, value: Deadline) -> None:
        """Return while ``value`` is held and the engine trusts itself.

        :raises StaleDeadline: when it is held no more (its handler ran too long).
        :raises NotTrusted: when the engine is suspended, stopped or fenced.
        """
        self._trust.check()
        hold = self._holds.get(value.id)
        if hold is None or hold.spent or hold.value.token != value.token:
            raise exceptions.StaleDeadline(
                kind=value.kind, key=value.key, token=value.token
            )

    def collect(self) -> list[tuple[Deadline, Outcome]]:
        """What was answered since the last call. The values are spent, and still
        held until :meth:`let_go`."""
        with self._lock:
            answers, self._answers = self._answers, []
            holds, collected, notable = self._holds, self._collected, self._notable
            for hold in answers:
                row_id = hold.value.id
                collected[row_id] = hold
                if holds.get(row_id) is hold:
                    del holds[row_id]
                    notable.pop(row_id, None)
            return [(hold.value, hold.outcome) for hold in answers]

    @property
    def answered(self) -> bool:
        """True when it is worth to :meth:`collect`: a batch, or all there is."""
        whole = self._unstarted <= 0 or len(self._answers) >= self.batch_size
        return whole and bool(self._answers)

    def let_go(self, values: Iterable[Deadline]) -> None:
        """The outcomes of ``values`` are settled; they are held no more."""
        with self._lock:
            for value in values:
                hold = self._collected.get(value.id)
                if hold is not None and hold.value.token == value.token:
                    del self._collected[value.id]

    def spend_late(self) -> None:
        """Take the values of handlers that ran too long away from them: to be retried,
        or by other engines when every thread of this one hangs."""
        now = self._clock.monotonic()
        with self._lock:
            for hold in self._holds.values():
                if hold.spent or hold.started is None:
                    continue
                if now - hold.started >= hold.limit:
                    self._hung += 1
                    hold.late = True
                    reason = f"its handler did not return in {hold.limit:g} s"
                    self._spend(hold, Retry(reason))
                    LOG.error(
                        "%s: %s; what it still does is ignored.",
                        hold.value,
                        reason,
                        event="hung",
                    )
        if self._all_hang:
            self._give_all_back()

    @property
    def _all_hang(self) -> bool:
        return self._hung >= self._pool.size

    def _give_all_back(self) -> None:
        self._unpack_all()
        with self._lock:
            if not self._all_hang:
                return
            for hold in self._answers:
                if hold.late:
                    hold.outcome = Release(ALL_HANG)
            self._withdraw(ALL_HANG)

    def withdraw(self, reason: str) -> None:
        """Give back what no handler was called for yet; those attempts do not count."""
        self._unpack_all()
        with self._lock:
            self._withdraw(reason)

    def _withdraw(self, reason: str) -> None:
        self._unstarted = 0
        self._untrusted.clear()
        for hold in self._holds.values():
            if not hold.spent and hold.started is None:
                self._spend(hold, Unstarted(reason))

    def spend_all(self) -> None:
        """Take every value away from its handler (draining is over); nothing more is
        answered."""
        with self._lock:
            for hold in self._holds.values():
                hold.spent = True
            self._holds.clear()
            self._packed.clear()
            self._notable.clear()
            self._collected.clear()
            self._unstarted = 0
            self._answers.clear()
            self._untrusted.clear()
        self._pool.stop()

    @property
    def next_late(self) -> float:
        """When, on the monotonic clock, the next running handler is late."""
        with self._lock:
            return min(
                (
                    hold.started + hold.limit
                    for hold in self._holds.values()
                    if hold.started is not None and not hold.spent
                ),
                default=float("inf"),
            )

    def _execute(self, hold: Hold | Packed) -> None:
        if isinstance(hold, Packed):
            self._unpack(hold)
            return
        with self._lock:
            if hold.spent:
                return
            self._unstarted -= 1
            self._begun += 1
            started = self._clock.monotonic()
            if not self._trust.good_at(started):
                self._untrusted.append(hold)
                return
            hold.started = started
        outcome = self._outcome(hold.value)
        took = self._clock.monotonic() - started
        self.on_ran(hold.value, took)
        with self._lock:
            self._mean += (took - self._mean) / 8
            if hold.late:
                self._hung -= 1
            if hold.spent:
                LOG.warning(
                    "%s: its handler returned after %.1f s, too late to count.",
                    hold.value,
                    took,
                    event="late",
                )
                return
            self._spend(hold, outcome)
            ring = self.answered
        if ring:
            self._ring()

    def _spend(self, hold: Hold, outcome: Outcome) -> None:
        hold.spent, hold.outcome = True, outcome
        self._answers.append(hold)

    def _outcome(self, value: Deadline) -> Outcome:
        handler = self._handlers.get(value.kind)
        if handler is None:
            return Park(f"no handler for kind {value.kind!r} is installed")
        if value.problem:
            return Park(value.problem)
        try:
            return answer(handler, value)
        except exceptions.Reject as error:
            return Park(_words(error))
        except BaseException as error:  # SystemExit too: a handler is not the program
            LOG.warning("%s: its handler failed.", value, exc_info=True, event="failed")
            return Retry(f"{type(error).__name__}: {_words(error)}")


def _words(error: BaseException) -> str:
    try:
        if isinstance(error, exceptions.Reject):
            return str(error.facts.get("reason", error))
        return str(error)
    except Exception:
        return "(its text cannot be had)"
