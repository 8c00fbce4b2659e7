"""Takeover at scale: an engine that owns very many timers dies, four survivors restart
them all, and their beats must not be late for it. The floor is four raw connections
that do the bare UPDATEs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

from bench import machine, rows
from bench.context import Context
from bench.crew import Crew, ask_all, crew_on, until
from bench.rounds import Row, row
from liveness import Settings

SURVIVORS = 4
FLOOR_BATCH = 1000


@dataclasses.dataclass(frozen=True)
class Size:
    rounds: int
    count: int


SIZES = {"quick": Size(1, 5000), "full": Size(3, 100_000)}


@dataclasses.dataclass
class Run:
    """Seconds from the first takeover to the last; and how much later than its interval
    the latest beat was, in ms."""

    seconds: float
    noticed: float
    beat: float
    failures: int


def run(context: Context) -> Iterator[Row]:
    size: Size = context.size
    for database in context.databases:
        load = machine.load()
        runs: list[Run] = []
        floors: list[float] = []
        for number in range(size.rounds):
            with context.servers.place(database) as place, crew_on(place) as crew:
                context.tell(f"takeover, {place}: round {number + 1}")
                runs.append(_ours(crew, size.count))
                rows.clear(place)
                context.tell(f"takeover, {place}: round {number + 1}, the floor")
                floors.append(_bare(crew, size.count))
        name = f"{size.count:,} timers"
        took = [r.seconds for r in runs]
        yield row(
            f"{name}: all restarted",
            database,
            "s",
            took,
            floors,
            goal="ratio <= 1.5",
            load=load,
        )
        noticed = [r.noticed for r in runs]
        yield row(f"{name}: first restarted after", database, "s", noticed, load=load)
        yield row(
            f"{name}: latest beat, over its interval",
            database,
            "ms",
            [r.beat for r in runs],
            goal="value <= 100",
            load=load,
        )
        failed = sum(r.failures for r in runs)
        yield row(f"{name}: failed turns", database, "", [failed], goal="value <= 0")


def _ours(crew: Crew, count: int) -> Run:
    survivors = crew.engines(SURVIVORS)
    (victim,) = crew.engines(1)
    rows.load(crew.place, count, [victim.engine], due_in=3600.0, kind="timer")
    time.sleep(Settings().sweep_interval * 2)
    ask_all(survivors, "clear")
    died = victim.kill()
    until(
        lambda: sum(a["adopted"] for a in ask_all(survivors, "count")) >= count,
        f"{count} timers are taken over",
        every=0.2,
    )
    # A beat that is late because of it has come by then.
    time.sleep(Settings().beat_interval + 1.0)
    notes = ask_all(survivors, "notes")
    taken = [moment for note in notes for moment, _ in note["adopted"]]
    assert sum(n for note in notes for _, n in note["adopted"]) == count
    gaps = [
        later - sooner
        for note in notes
        for sooner, later in zip(note["beats"], note["beats"][1:], strict=False)
    ]
    crew.dismiss(survivors)
    late = max(gaps, default=0.0) - Settings().beat_interval
    return Run(
        seconds=max(taken) - min(taken),
        noticed=min(taken) - died,
        beat=max(late, 0.0) * 1000,
        failures=sum(len(note["failures"]) for note in notes),
    )


def _bare(crew: Crew, count: int) -> float:
    dead = "dead-engine-of-the-floor"
    rows.load(crew.place, count, [dead], due_in=3600.0, kind="timer")
    floors = crew.floors(SURVIVORS)
    for number, floor in enumerate(floors):
        floor.tell("take", dead=dead, me=f"floor-{number}", batch=FLOOR_BATCH)
    answers = [floor.hear() for floor in floors]
    assert sum(answer["count"] for answer in answers) == count
    crew.dismiss(floors)
    return float(max(a["ended"] for a in answers) - min(a["began"] for a in answers))
