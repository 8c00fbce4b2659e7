"""How fast an engine may retrigger: all together, and for each project."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable


class Limiter:
    """Gives out moments, no denser than its rates. Thread-safe."""

    def __init__(
        self,
        rate: float,
        rate_of_each: float,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``rate``: of all, in a second; ``rate_of_each``: of each project."""
        self._gap = 1 / rate
        self._gap_of_each = 1 / rate_of_each
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next = float("-inf")
        self._next_of: dict[str, float] = {}

    def seconds(self, project: str) -> float:
        """Take the next moment for ``project``; return the seconds until then, 0 when
        it is now."""
        with self._lock:
            now = self._monotonic()
            at = max(now, self._next, self._next_of.get(project, now))
            self._next = max(now, self._next) + self._gap
            self._next_of = {p: t for p, t in self._next_of.items() if t > now}
            self._next_of[project] = at + self._gap_of_each
        return at - now

    def wait(self, project: str) -> None:
        """Return at the next moment for ``project``, and a little later: others who
        wait elsewhere must not march in step."""
        seconds = self.seconds(project)
        if seconds > 0:
            self._sleep(seconds + random.uniform(0.0, self._gap_of_each))
