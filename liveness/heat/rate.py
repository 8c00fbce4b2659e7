"""How fast the fleet may retrigger: all together, and for each project.

Each engine takes its share of the limits: one of as many as its sweep has last seen
alive. In a steady fleet the shares are the limits. When an engine dies the others'
shares are too small until it is fenced; when one joins, they are too large until the
others' next sweep, by what the new one takes.
"""

from __future__ import annotations

import bisect
import random
import threading
import time
from collections.abc import Callable


class Limiter:
    """Gives out moments, no denser than its share of the rates. Thread-safe."""

    def __init__(
        self,
        rate: float,
        rate_of_each: float,
        engines: Callable[[], int] = lambda: 1,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``rate``: of all, in a second; ``rate_of_each``: of each project; both in the
        fleet, of which ``engines()`` are alive."""
        self._rate = rate
        self._rate_of_each = rate_of_each
        self._engines = engines
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()
        self._taken: list[float] = []  # in order; those that still matter
        self._last_of: dict[str, float] = {}

    def seconds(self, project: str) -> float:
        """Take the next moment for ``project``; return the seconds until then, 0 when
        it is now."""
        share = max(self._engines(), 1)
        gap, gap_of_each = share / self._rate, share / self._rate_of_each
        with self._lock:
            now = self._monotonic()
            self._forget(now, gap, gap_of_each)
            last = self._last_of.get(project, now - gap_of_each)
            at = self._free(max(now, last + gap_of_each), gap)
            bisect.insort(self._taken, at)
            self._last_of[project] = at
        return at - now

    def wait(self, project: str) -> None:
        """Return at the next moment for ``project``, and a little later: others who
        wait elsewhere must not march in step."""
        seconds = self.seconds(project)
        if seconds > 0:
            self._sleep(seconds + random.uniform(0.0, 1 / self._rate_of_each))

    def _free(self, at: float, gap: float) -> float:
        """The first moment from ``at`` on that is ``gap`` from all that are taken: a
        project that waits for its own turn holds up no other."""
        for taken in self._taken:
            if taken >= at + gap:
                break
            at = max(at, taken + gap)
        return at

    def _forget(self, now: float, gap: float, gap_of_each: float) -> None:
        """What is past by more than a gap has no say any more."""
        del self._taken[: bisect.bisect_left(self._taken, now - gap)]
        old = now - gap_of_each
        self._last_of = {p: t for p, t in self._last_of.items() if t > old}
