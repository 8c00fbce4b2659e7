"""Which lines are long: worth claiming from their heads, batch by batch.

A hint, as the agenda is: a claim from the head of a line that is no longer one claims
what is there.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from liveness.clock import Clock
from liveness.db.heads import Line

REST = 10.0
"""Seconds for which nobody's deadlines are claimed page by page after a conflict: on
Galera, where engines do not see each other's locks, all would begin at one head, and
all but one in vain."""


class Backlog:
    """Lines known to be long. Used by the loop's thread.

    ``own_from``: from when, on the monotonic clock, more own deadlines are due than
    were read ahead. ``nobodys``: whether a page full of nobody's is due.
    """

    def __init__(
        self, clock: Clock, serve: Callable[[sa.Dialect, Line, int], bool]
    ) -> None:
        """``serve``: see :meth:`liveness.db.heads.Heads.serve`."""
        self._clock = clock
        self._serve = serve
        self.own_from = float("inf")
        self.nobodys = False
        self._resting_until = float("-inf")

    def may_open(self, line: Line, dialect: sa.Dialect, limit: int) -> bool:
        """Whether deadlines may be claimed from the head of that line, ``limit`` at a
        time."""
        rests = line is Line.NOBODYS and self._clock.monotonic() < self._resting_until
        return not rests and self._serve(dialect, line, limit)

    def line(self, now: float) -> Line | None:
        """The line to claim from ``now``, own deadlines first."""
        if self.own_from <= now:
            return Line.OWN
        return Line.NOBODYS if self.nobodys else None

    @property
    def next_due(self) -> float:
        """When there is something to claim, on the monotonic clock."""
        return float("-inf") if self.nobodys else self.own_from

    def ends(self, line: Line) -> None:
        """There was less than was asked for: what comes now, a sweep finds."""
        if line is Line.OWN:
            self.own_from = float("inf")
        else:
            self.nobodys = False

    def rest(self) -> None:
        """Others are at the same head, and were quicker."""
        self.nobodys = False
        self._resting_until = self._clock.monotonic() + REST
