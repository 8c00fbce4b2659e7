"""A profile: how engines of a run are set up, what hosts do, what befalls them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tests.chaos.faults import Kind

OPTIONS: dict[str, Any] = {
    "ttl": 3.0,
    "beat_interval": 0.3,
    "sweep_interval": 0.3,
    "lease_margin": 0.3,
    "database_timeout": 0.9,
    "expired_grace": 0.5,
    "max_clock_skew": 0.2,
    "backoff_initial": 0.1,
    "backoff_max": 0.4,
    "batch_size": 50,
    "handler_threads": 4,
    "connections": 4,
    "drain_timeout": 1.5,
    "engine_retention": 5.0,
}

PAGE = 3
"""Rows of a page, and of a batch, in some of the engines: they claim from heads."""

WINDOW = 2
"""Engines that some of the engines observe: for them the fleet is a large one."""

TIMES = (
    "ttl",
    "beat_interval",
    "sweep_interval",
    "lease_margin",
    "database_timeout",
    "expired_grace",
)
"""What is longer on a slow machine."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """``options`` of liveness and ``taste`` of the workload are laid over the usual
    ones. ``weights``: how often each kind of fault comes, compared with others (those
    that are not named: as usual; with ``only`` not at all). ``lengths``, in leases, and
    ``slots``: how long it lasts, and whom alone it befalls."""

    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    taste: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    lengths: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    slots: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    only: bool = False
    pace: float = 0.8
    rate: float = 12.0
    machines: tuple[int, ...] = (0, 0, 1, 2)
    """Slot by slot, and round again, on which machine it pretends to be."""

    def settings(self) -> dict[str, Any]:
        """The options of each engine."""
        return {**OPTIONS, **self.options}

    def kinds(self, kinds: Mapping[str, Kind]) -> dict[str, Kind]:
        """The kinds of faults as this profile wants them."""
        found = {}
        for name, kind in kinds.items():
            weight = self.weights.get(name, 0.0 if self.only else kind.weight)
            shortest, longest = self.lengths.get(name, (kind.shortest, kind.longest))
            found[name] = dataclasses.replace(
                kind,
                weight=weight,
                shortest=shortest,
                longest=longest,
                slots=self.slots.get(name),
            )
        return found


USUAL = Profile()
