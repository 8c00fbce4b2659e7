"""Who of a large fleet sweeps often: not everybody, and never always the same ones.

A hint, as the agenda is. Whoever sweeps does all of a sweep, and who is dead is decided
as ever; this decides only how long an engine rests until its next sweep. No engine is
chosen by another: each draws for itself.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import datetime

from liveness.clock import Clock
from liveness.conf import Settings
from liveness.detector import WINDOW
from liveness.model import Engine

SHARE = 0.1
"""Of a large fleet, on duty at least: ten of those that observe an engine, on average.
(None of them: one chance in 40,000. Then :meth:`Duty.look` finds somebody.)"""

SHIFT = 4.0
"""Leases until an engine draws again."""

ON, OFF = 2.5, 13.0
"""Sweep intervals between two sweeps of one that is on duty, and of one that is not;
in a large fleet."""

UNBROKEN, ONCE = 1 / 6, 0.9
"""Of a lease, between the same at most, give or take a tenth: an observation has no gap
of a quarter, and each engine sweeps once in its own."""

SILENT = 1 / 3
"""Of its lease, without a beat by the database's clock: worth being looked at often."""


class Duty:
    """Whether one engine is on duty. Used by the loop's thread; others may read
    :attr:`interval`."""

    def __init__(self, clock: Clock, settings: Settings) -> None:
        self.settings = settings
        self.on = True
        self._clock = clock
        self._large = False
        self._until = float("-inf")
        self._shortest = float("inf")

    @property
    def interval(self) -> float:
        """Seconds between two sweeps."""
        sweep, lease = self.settings.sweep_interval, self.settings.ttl
        if not self._large:
            return sweep
        if not self.on:
            return min(OFF * sweep, ONCE * lease)
        return max(sweep, min(ON * sweep, UNBROKEN * min(lease, self._shortest)))

    def begin(self, fleet: int) -> None:
        """A sweep begins, in a ``fleet`` of so many. Only here an engine goes off duty:
        this sweep then reads ahead as far as the next one is away."""
        self._large = fleet > WINDOW
        now = self._clock.monotonic()
        if not self._large:
            self.on, self._until = True, now
        elif now >= self._until:
            self.on = random.random() < max(WINDOW / fleet, SHARE)
            leases = SHIFT * random.uniform(0.8, 1.2)
            self._until = now + leases * self.settings.ttl

    def look(self, engines: Iterable[Engine], now: datetime) -> None:
        """Somebody silent needs observers until it beats or is fenced, whoever was on
        duty so far: an engine that sees one is on duty, whatever it drew.

        ``now`` is the database's time. Where its clock is wrong, too many are on duty,
        or none but those that drew it.
        """
        living = [engine for engine in engines if engine.alive]
        if len(living) <= WINDOW:
            self._large, self.on = False, True
        self._shortest = min((e.ttl for e in living), default=float("inf"))
        if any((now - e.beat_at).total_seconds() > SILENT * e.ttl for e in living):
            self.on = True
