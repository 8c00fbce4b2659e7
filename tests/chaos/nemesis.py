"""The nemesis: which faults, and when, is a function of the seed; then it does them."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from tests.chaos import history
from tests.chaos.faults import DATABASE, Action, Fault, Kind

PACE = 0.8
"""Seconds between two faults, on average."""

REST = 1.2
"""Leases without a fault of the database after one: engines have to get so far that
the next one matters."""


def schedule(
    seed: int,
    seconds: float,
    slots: int,
    kinds: Mapping[str, Kind],
    ttl: float,
    pace: float = PACE,
) -> list[Fault]:
    """The faults of a run, by time. The same arguments give the same faults."""
    rng = random.Random(f"chaos {seed}")
    names = sorted(name for name, kind in kinds.items() if kind.weight > 0)
    weights = [kinds[name].weight for name in names]
    busy: dict[tuple[str, int | None], float] = {}
    faults: list[Fault] = []
    at = 1.0
    while names and (at := at + rng.expovariate(1 / pace)) < seconds:
        name = rng.choices(names, weights)[0]
        kind = kinds[name]
        slot = rng.choice(kind.slots or range(slots))
        lasts = round(rng.uniform(kind.shortest, kind.longest) * ttl, 3)
        lasts = min(lasts, seconds - at)
        where = (kind.about, None if kind.about == DATABASE else slot)
        if busy.get(where, 0.0) > at:
            continue  # one thing at a time happens to one thing
        rest = REST * ttl if kind.about == DATABASE else 0.3
        busy[where] = at + lasts + rest
        faults.append(Fault(len(faults), round(at, 3), name, where[1], lasts))
    return faults


class Nemesis:
    """Does a schedule; each fault in a thread of its own."""

    def __init__(
        self,
        seed: int,
        kinds: Mapping[str, Kind],
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._seed = seed
        self._kinds = kinds
        self._tell = tell
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        # A restart may take longer than it was given.
        self._one_at_a_time = threading.Lock()

    def run(self, faults: list[Fault], seconds: float) -> None:
        """Returns after so many seconds, when all is healed that it began."""
        begun = time.monotonic()
        for fault in faults:
            if self._over.wait(max(begun + fault.at - time.monotonic(), 0.0)):
                break
            thread = threading.Thread(target=self._do, args=(fault,), daemon=True)
            self._threads.append(thread)
            self._tell(f"{fault.at:6.1f} s  {fault}")
            thread.start()
        self._over.wait(max(begun + seconds - time.monotonic(), 0.0))
        self.stop()

    def stop(self) -> None:
        """Heal everything now."""
        self._over.set()
        for thread in self._threads:
            thread.join(120)

    def _do(self, fault: Fault) -> None:
        alone: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if self._kinds[fault.kind].about == DATABASE:
            alone = self._one_at_a_time
        with alone:
            self._do_now(fault)

    def _do_now(self, fault: Fault) -> None:
        rng = random.Random(f"{self._seed} fault {fault.number}")
        action = self._kinds[fault.kind].make(fault, rng)
        self._note("begins", fault)
        try:
            if self._try("begin", fault, action):
                self.done[fault.kind] += 1
                self._over.wait(fault.seconds)
        finally:
            self._try("heal", fault, action)
            self._note("is over", fault)

    def _try(self, step: str, fault: Fault, action: Action) -> bool:
        try:
            getattr(action, step)()
        except Exception as error:
            self.failed[fault.kind] += 1
            self._note(f"{step} failed", fault, error=f"{error!r:.300}")
            return False
        return True

    def _note(self, what: str, fault: Fault, **facts: Any) -> None:
        with contextlib.suppress(AssertionError):  # nobody keeps a history
            history.note(
                "fault",
                does=what,
                kind=fault.kind,
                slot=fault.slot,
                number=fault.number,
                seconds=fault.seconds,
                **facts,
            )
