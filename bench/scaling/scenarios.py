"""What is asked of a simulated fleet."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

from bench.rounds import percentile
from bench.scaling.costs import Costs
from bench.scaling.fleet import Fleet
from bench.scaling.hub import Hub
from bench.scaling.server import Database, Topology, Used
from bench.scaling.store import Tables
from liveness.conf import Settings

WARM_UP = 10.0
"""Seconds after which an engine's first sweeps are over."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One run. ``within``: seconds over which the deadlines are due; ``killed``: of the
    engines; ``herd``: of the deadlines, due at one moment; ``stall``: seconds for which
    the database stands still; ``cold``: all engines are started at once.
    ``shards``: so many databases, each with its share of engines and deadlines; they
    have nothing in common, so one is simulated. ``options`` are liveness' own."""

    engines: int
    deadlines: int
    topology: Topology
    within: float = 3600.0
    seconds: float = 20.0
    killed: float = 0.0
    herd: float = 0.0
    stall: float = 0.0
    cold: bool = False
    shards: int = 1
    seed: int = 1
    options: tuple[tuple[str, float], ...] = ()

    @property
    def warm_up(self) -> float:
        return 0.0 if self.cold else WARM_UP


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of it; times in milliseconds unless the name says seconds.

    Of the busiest server: ``cpu``, ``log``, ``network`` and ``connections`` are shares
    of its cores, of the time, of its link and of its room; ``memory`` is MiB of its
    connections, ``housekeeping`` the share of its cores that looks for owners without a
    living engine. ``wrongly_fenced`` are engines that were alive.
    """

    cpu: float
    log: float
    network: float
    connections: float
    memory: float
    housekeeping: float
    statements: float
    beat_p50: float | None
    beat_p99: float | None
    late_p50: float | None
    late_p99: float | None
    handled: float
    in_vain: float
    detected_seconds: float | None
    recovered_seconds: float | None
    orphans_left: int
    suspended: int
    wrongly_fenced: int

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def run(case: Case, costs: Costs, tell: Callable[[str], None]) -> Outcome:
    """Simulate ``case``: the fleet warms up, then what happens happens."""
    random.seed(case.seed)
    hub = Hub()
    database = Database(hub, case.topology)
    tables = Tables(hub, database, costs)
    settings = Settings.of(**dict(case.options))
    engines, deadlines = case.engines // case.shards, case.deadlines // case.shards
    fleet = Fleet(tables, engines, deadlines, case.within, settings, case.cold)
    end = case.warm_up + case.seconds

    def progress(now: float) -> None:
        tell(f"{engines:,} engines: {now:.0f} of {end:.0f} s")

    with _no_collection(), _no_logging():
        hub.run(case.warm_up, progress)
        tables.seen.clear()
        before = database.used()
        killed = _strike(case, fleet, database)
        hub.run(end, progress)
    open_each = 2 + settings.connections
    each = math.ceil(engines / case.topology.written) * open_each
    return Outcome(
        **_load(case, database.used().since(before), tables.seen.housekeeping),
        connections=each / case.topology.room,
        memory=each * costs.connection / (1 << 20),
        **_seen(case, tables, killed),
    )


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of values, of which none is in a cycle."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def _no_logging() -> Iterator[None]:
    """Thousands of engines would say that each of them sweeps."""
    logger = logging.getLogger("liveness")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _load(case: Case, used: Used, housekeeping: float) -> dict[str, float]:
    topology, seconds = case.topology, case.seconds
    cores = topology.cores * seconds
    return {
        "cpu": used.cores / cores,
        "log": used.log / seconds,
        "network": used.bytes / seconds / topology.link,
        "housekeeping": housekeeping / topology.written / cores,
        "statements": used.statements / seconds,
    }


def _seen(case: Case, tables: Tables, killed: list[str]) -> dict[str, Any]:
    seen = tables.seen
    fenced = [seen.fenced[each] for each in killed if each in seen.fenced]
    adopted = [seen.last_adopted] if seen.adopted else []
    return {
        "beat_p50": _ms(seen.beats, 0.5),
        "beat_p99": _ms(seen.beats, 0.99),
        "late_p50": _ms(seen.lateness, 0.5),
        "late_p99": _ms(seen.lateness, 0.99),
        "handled": seen.handled / case.seconds,
        "in_vain": seen.lost / max(1, seen.tried),
        "detected_seconds": _since(case, fenced),
        "recovered_seconds": _since(case, adopted),
        "orphans_left": sum(len(tables.of_owner.get(each, ())) for each in killed),
        "suspended": seen.suspended,
        "wrongly_fenced": len(set(seen.fenced) - set(killed)),
    }


def _strike(case: Case, fleet: Fleet, database: Database) -> list[str]:
    if case.stall:
        database.stall(case.stall)
    if case.herd:
        fleet.herd(round(case.deadlines * case.herd / case.shards), seconds=5.0)
    count = round(len(fleet.members) * case.killed)
    return fleet.kill(count) if count else []


def _since(case: Case, moments: list[float]) -> float | None:
    return round(max(moments) - case.warm_up, 2) if moments else None


def _ms(values: list[float], share: float) -> float | None:
    return round(percentile(values, share) * 1000, 2) if values else None
