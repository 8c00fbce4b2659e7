"""Simulated time: greenlets that sleep, woken one after another."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet

from liveness.clock import Clock


class Hub:
    """Runs greenlets in order of the moments at which they want to go on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._count = itertools.count()
        self._heap: list[tuple[float, int, Any]] = []
        self._main: greenlet | None = None

    def spawn(self, work: Callable[[], Any], at: float) -> None:
        """Begin ``work()`` at that moment."""
        self._push(at, greenlet(work))

    def sleep_until(self, moment: float) -> None:
        """Return at that moment. Only in what was spawned."""
        self._push(moment, getcurrent())
        assert self._main is not None
        self._main.switch()

    def sleep(self, seconds: float) -> None:
        """Return so many seconds later."""
        self.sleep_until(self.now + seconds)

    def run(self, until: float, tell: Callable[[float], None]) -> None:
        """Let everything happen that happens before that moment; ``tell`` is called
        about once a simulated second."""
        self._main = getcurrent()
        told = self.now
        while self._heap and self._heap[0][0] < until:
            self.now, _, sleeper = heapq.heappop(self._heap)
            self.events += 1
            sleeper.parent = self._main
            sleeper.switch()
            if self.now - told >= 1.0:
                told = self.now
                tell(told)
        self.now = until

    def _push(self, moment: float, sleeper: Any) -> None:
        heapq.heappush(self._heap, (max(moment, self.now), next(self._count), sleeper))


class SimulatedClock(Clock):
    """One host's clock, which began at some other moment than its neighbours'."""

    def __init__(self, hub: Hub, offset: float) -> None:
        self._hub = hub
        self._offset = offset

    def monotonic(self) -> float:
        return self._hub.now + self._offset
