"""Rounds that take turns, and what is made of their numbers.

On a machine where other things run, two measurements a minute apart differ by half.
So the product and its floor take turns within each round, each ratio is of one round,
and what counts is the median of the ratios.
"""

from __future__ import annotations

import dataclasses
import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

OPERATORS = {
    "<=": operator.le,
    ">=": operator.ge,
}


@dataclasses.dataclass(frozen=True)
class Goal:
    """What a number, or its ratio to the floor, should be."""

    of: str  # "value" or "ratio"
    sign: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Goal:
        """From ``ratio >= 0.8`` or ``value <= 5``."""
        of, sign, limit = text.split()
        if of not in ("value", "ratio") or sign not in OPERATORS:
            raise ValueError(f"not a goal: {text!r}")
        return cls(of, sign, float(limit))

    def __str__(self) -> str:
        return f"{self.of} {self.sign} {self.limit:g}"

    def met(self, value: float, ratio: float | None) -> bool | None:
        """None when there is nothing to judge."""
        number = value if self.of == "value" else ratio
        return None if number is None else OPERATORS[self.sign](number, self.limit)


@dataclasses.dataclass
class Row:
    """One line of the results. ``spread`` is the least and the greatest of the rounds'
    ratios, or of their values where there is no floor."""

    name: str
    database: str
    value: float
    unit: str
    floor: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    goal: str | None = None
    met: bool | None = None
    load: float | None = None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def row(
    name: str,
    database: Any,
    unit: str,
    values: Sequence[float],
    floors: Sequence[float] = (),
    goal: str | None = None,
    load: float | None = None,
    note: str = "",
) -> Row:
    """A row of the medians; ratios are formed round by round."""
    value = statistics.median(values)
    floor = statistics.median(floors) if floors else None
    ratios = [v / f for v, f in zip(values, floors, strict=True)] if floors else []
    ratio = statistics.median(ratios) if ratios else None
    parts = ratios or values
    wanted = Goal.parse(goal) if goal else None
    return Row(
        name=name,
        database=str(database),
        value=value,
        unit=unit,
        floor=floor,
        ratio=ratio,
        spread=(min(parts), max(parts)) if len(parts) > 1 else None,
        goal=str(wanted) if wanted else None,
        met=wanted.met(value, ratio) if wanted else None,
        load=load,
        note=note,
    )


def interleave(
    count: int,
    measures: Mapping[str, Callable[[], T]],
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, list[T]]:
    """Run every measure once a round, ``count`` rounds; each round begins with another
    of them, so that none always runs when the cache is cold."""
    names = list(measures)
    results: dict[str, list[T]] = {name: [] for name in names}
    for number in range(count):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            tell(f"round {number + 1} of {count}: {name}")
            results[name].append(measures[name]())
    return results


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of ``values`` lies (nearest rank)."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
