"""The lease: how long an engine may trust itself, on its own monotonic clock.

An engine that cannot renew stops trusting itself before anyone may fence it. The
lease is counted from *before* the last successful beat was sent: the database saw
that beat no earlier, so no observer can start counting earlier.
"""

from __future__ import annotations

import threading
from collections import deque

from liveness import exceptions
from liveness.clock import Clock

BEATS_KEPT = 2 * 3600.0
"""Seconds for which own beats are remembered: well over the longest ttl there is."""


class Trust:
    """One engine's lease. Any thread may ask; only the heart renews."""

    def __init__(self, clock: Clock, engine_id: str) -> None:
        self.engine_id = engine_id
        self._clock = clock
        self._lock = threading.Lock()
        self._renewed = float("-inf")
        self._length = 0.0
        self._until = float("-inf")  # one number, to be read without the lock
        self._over: str | None = None
        self._dropped = False
        # (sent, answered) of committed beats, for the judgement of others.
        self._beats: deque[tuple[float, float]] = deque()

    def renew(self, sent: float, answered: float, seconds: float) -> None:
        """A beat sent at ``sent`` was committed: trusted ``seconds`` from then on."""
        with self._lock:
            self._renewed, self._length = sent, seconds
            self._until = sent + seconds
            self._beats.append((sent, answered))
            while self._beats[0][1] < answered - BEATS_KEPT:
                self._beats.popleft()

    def check_not_stopped(self) -> None:
        """Return unless the engine has stopped. :raises NotRunning: when it has."""
        if self._dropped:
            raise exceptions.NotRunning(engine_id=self.engine_id, reason="it stopped")

    def beats_since(self, moment: float) -> list[tuple[float, float]]:
        """Committed beats (sent, answered) from the last one before ``moment`` on."""
        with self._lock:
            beats = list(self._beats)
        first = len(beats)
        while first > 0 and (first == len(beats) or beats[first][1] > moment):
            first -= 1
        return beats[first:]

    def inherit(self, beats: list[tuple[float, float]]) -> None:
        """Count a predecessor's committed beats as this engine's, for its judgement of
        others; they give it no trust of its own."""
        with self._lock:
            self._beats.extendleft(reversed(beats))

    def shorten(self, seconds: float) -> None:
        """From now on the lease is at most ``seconds``, the running one included."""
        with self._lock:
            self._length = min(self._length, seconds)
            self._until = self._renewed + self._length

    def end(self, reason: str) -> bool:
        """The engine was fenced, for good. True the first time."""
        with self._lock:
            first, self._over = self._over is None, self._over or reason
            return first

    def drop(self) -> None:
        """The engine stops by itself; it trusts itself no more."""
        self._dropped = True

    @property
    def fenced(self) -> bool:
        """True once :meth:`end` was called."""
        return self._over is not None

    @property
    def now(self) -> float:
        """The monotonic clock that the lease is measured on."""
        return self._clock.monotonic()

    @property
    def left(self) -> float:
        """Seconds until the lease lapses; negative since when it has."""
        return self._until - self._clock.monotonic()

    @property
    def good(self) -> bool:
        """True while the engine may act."""
        return self.good_at(self._clock.monotonic())

    def good_at(self, now: float) -> bool:
        """The same ``now``, on the monotonic clock, for who has just looked at it."""
        return self._until > now and not (self._over or self._dropped)

    def check(self) -> None:
        """Return if the engine may act now.

        :raises Fenced: when it was fenced. :raises Suspended: when its lease lapsed.
        """
        self.check_not_fenced()
        self.check_not_stopped()
        if self.left <= 0:
            since = self._clock.monotonic() - self._renewed
            raise exceptions.Suspended(engine_id=self.engine_id, seconds=since)

    def check_not_fenced(self) -> None:
        """Return unless the engine is known to be fenced: enough for a write that its
        token guards anyway.

        :raises Fenced: when it was.
        """
        if self._over is not None:
            raise exceptions.Fenced(engine_id=self.engine_id, reason=self._over)

    def steady_since(self, gap: float) -> float:
        """Since when this engine's own beats were committed, until now, with never
        more than ``gap`` seconds between two of them; infinity when that is broken now.

        Reads can work while writes stall; an observer that could not have beaten
        itself must not conclude anything from another's silence.
        """
        later = self._clock.monotonic()
        since = float("inf")
        with self._lock:
            beats = list(self._beats)
        for sent, answered in reversed(beats):
            if later - sent > gap:
                break
            since = later = answered
        return since
