"""How late deadlines were claimed, minute by minute.

Every engine counts its own claims in memory, and writes a line for each minute in which
there were any. Lines of one minute add up, whoever wrote them: they are histograms.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import re
from collections.abc import Iterable
from datetime import datetime, timedelta

BOUNDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
"""Seconds; claims are counted by the least of them that they were late at most."""

_BOUNDS = [timedelta(seconds=bound) for bound in BOUNDS]

_LINE = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\dZ): \d{1,9} claimed, at most (\d{1,9}\.\d{3}) s late"
    r" \((.{1,400})\)"
)
_PART = re.compile(r"([\d.]{1,9}) s: (\d{1,9})|(more): (\d{1,9})")


@dataclasses.dataclass(slots=True)
class Minute:
    """The claims of a minute. ``most``: seconds that one of them was late."""

    counts: list[int] = dataclasses.field(
        default_factory=lambda: [0] * (len(BOUNDS) + 1)
    )
    most: float = 0.0

    @property
    def claimed(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def add(self, now: datetime, due: Iterable[datetime]) -> None:
        """Claimed ``now``, and due then. What was not due yet was not late."""
        moments = sorted(due)
        if not moments:
            return
        self.most = max(self.most, (now - moments[0]).total_seconds())
        for place, bound in enumerate((*_BOUNDS, None)):
            start = 0 if bound is None else bisect.bisect_left(moments, now - bound)
            self.counts[place] += len(moments) - start
            del moments[start:]
            if not moments:
                break

    def merge(self, other: Minute) -> None:
        """The claims of ``other`` too."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.most = max(self.most, other.most)

    def within(self, part: float) -> float:
        """Seconds that such a ``part`` of them, from 0 to 1, was late at most; as well
        as the bounds say it."""
        wanted = part * self.claimed
        for total, bound in zip(
            itertools.accumulate(self.counts), BOUNDS, strict=False
        ):
            if total >= wanted:
                return min(bound, self.most)
        return self.most

    def line(self, minute: datetime) -> str:
        """In words that :func:`by_minute` understands."""
        names = [*(f"{bound:g} s" for bound in BOUNDS), "more"]
        parts = ", ".join(
            f"{name}: {count}"
            for name, count in zip(names, self.counts, strict=True)
            if count
        )
        return (
            f"{minute:%Y-%m-%dT%H:%MZ}: {self.claimed} claimed, at most"
            f" {self.most:.3f} s late ({parts})"
        )


class Counted:
    """What one engine has claimed and not yet written down."""

    def __init__(self) -> None:
        self._minutes: dict[datetime, Minute] = {}

    def add(self, now: datetime, due: Iterable[datetime]) -> None:
        """See :meth:`Minute.add`."""
        start = now.replace(second=0, microsecond=0)
        minute = self._minutes.get(start) or Minute()
        minute.add(now, due)
        if minute.claimed:
            self._minutes[start] = minute

    def over(self, now: datetime | None) -> list[str]:
        """The lines of the minutes that are over ``now``, or of all; they are
        forgotten."""
        if not self._minutes:
            return []
        ended = [
            start
            for start in sorted(self._minutes)
            if now is None or not start <= now < start + timedelta(minutes=1)
        ]
        return [self._minutes.pop(start).line(start) for start in ended]


def by_minute(lines: Iterable[str | None]) -> dict[datetime, Minute]:
    """The minutes of which there are ``lines``, from whatever engines. What is no such
    line is passed by."""
    minutes: dict[datetime, Minute] = {}
    for line in lines:
        if found := _LINE.fullmatch(line or ""):
            try:
                start = datetime.fromisoformat(found[1])
            except ValueError:
                continue
            one = minutes.setdefault(start, Minute())
            one.merge(_read(float(found[2]), found[3]))
    return minutes


def _read(most: float, parts: str) -> Minute:
    read = Minute(most=most)
    for found in _PART.finditer(parts):
        if found[3]:
            read.counts[-1] += int(found[4])
        elif (bound := found[1]) in _PLACES:
            read.counts[_PLACES[bound]] += int(found[2])
    return read


_PLACES = {f"{bound:g}": place for place, bound in enumerate(BOUNDS)}
