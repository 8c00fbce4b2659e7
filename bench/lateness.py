"""Lateness: how long after its due time a deadline's handler is called, at defaults.

Three engines, each with its share of deadlines due at random times; alone, and while
one of the other parts' loads comes down on the same engines. The floor is three
processes that share as many; each sleeps until the next is due, claims it by its key
with the raw driver, and does nothing else. The same load comes down on three engines
meanwhile, which own nothing: what a bare process is late then is the machine's.

The two are runs of their own. In one run each would be a part of the other's load, and
the server would have twice the deadlines.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

from bench import machine, raw, rows
from bench.context import Context
from bench.crew import Crew, Worker, ask_all, crew_on
from bench.rounds import Row, percentile, row
from bench.servers import Place

ENGINES = 3
LEAD = 4.0
"""Seconds from arming to the first due time: a sweep has come by."""


@dataclasses.dataclass(frozen=True)
class Size:
    rounds: int
    count: int
    seconds: float
    loads: tuple[str, ...]
    actions: int
    jobs: int
    timers: int


SIZES = {
    "quick": Size(1, 300, 5, ("nothing else", "recovery"), 200, 500, 1000),
    "full": Size(
        2,
        2000,
        20,
        ("nothing else", "recovery", "throughput", "takeover"),
        1000,
        20_000,
        100_000,
    ),
}


@dataclasses.dataclass
class Run:
    """Milliseconds late, and statements per second and engine meanwhile."""

    late: list[float]
    statements: float = 0.0
    cpu: float = 0.0


def run(context: Context) -> Iterator[Row]:
    size: Size = context.size
    for database in context.databases:
        for load in size.loads:
            runs: list[Run] = []
            floors: list[Run] = []
            busy = machine.load()
            for number in range(size.rounds):
                where = f"lateness, {database}, {load}, round {number + 1}"
                with context.servers.place(database) as place, crew_on(place) as crew:
                    context.tell(where)
                    runs.append(_ours(crew, size, load))
                with context.servers.place(database) as place, crew_on(place) as crew:
                    context.tell(f"{where}, the floor")
                    floors.append(_bare(crew, size, load))
            yield from _rows(database, load, runs, floors, busy)


def _rows(
    database: str, load: str, runs: list[Run], floors: list[Run], busy: float
) -> Iterator[Row]:
    for share, goal in ((0.5, "value <= 2"), (0.99, "value <= 5")):
        yield row(
            f"with {load}: p{share * 100:g}",
            database,
            "ms",
            [percentile(r.late, share) for r in runs],
            [percentile(r.late, share) for r in floors],
            goal=goal,
            load=busy,
        )
    yield row(
        f"with {load}: worst",
        database,
        "ms",
        [max(r.late) for r in runs],
        [max(r.late) for r in floors],
        load=busy,
    )
    statements = [r.statements for r in runs]
    yield row(f"with {load}: statements", database, "/s", statements, load=busy)
    cpu = [r.cpu for r in runs]
    bare = [r.cpu for r in floors] if load == "nothing else" else []  # not the load's
    yield row(f"with {load}: own CPU of each", database, "ms", cpu, bare, load=busy)


def _ours(crew: Crew, size: Size, load: str) -> Run:
    engines = crew.engines(ENGINES)
    disturb = _disturbance(crew, size, load)
    time.sleep(LEAD)  # the fleet has come to rest
    each = size.count // ENGINES
    for number, engine in enumerate(engines):
        engine.tell(
            "arm",
            count=each,
            due_in=LEAD,
            spread=size.seconds,
            kind="noop",
            prefix=f"late-{number}",
        )
    for engine in engines:
        engine.hear()
    before = ask_all(engines, "notes")
    time.sleep(LEAD + size.seconds / 4)
    disturb()
    time.sleep(size.seconds * 3 / 4)
    # What a load has delayed is awaited: the tail is what counts.
    notes = _when_called(engines, each)
    seconds = LEAD + size.seconds
    late = [
        (called - due) * 1000
        for note in notes
        for key, due, called in note["calls"]
        if key.startswith("late-")
    ]
    assert len(late) == each * ENGINES, f"{len(late)} of {each * ENGINES} were called"
    sent = sum(n["statements"] for n in notes) - sum(n["statements"] for n in before)
    used = sum(n["cpu"] for n in notes) - sum(n["cpu"] for n in before)
    return Run(late, sent / seconds / ENGINES, used * 1000 / len(late))


def _when_called(engines: Sequence[Worker], each: int) -> list[dict]:
    end = time.monotonic() + 60
    while True:
        time.sleep(1.0)
        notes = ask_all(engines, "notes")
        counts = [sum(c[0].startswith("late-") for c in n["calls"]) for n in notes]
        if sum(counts) >= each * ENGINES or time.monotonic() > end:
            return notes


def _disturbance(crew: Crew, size: Size, load: str) -> Callable[[], None]:
    """What comes down on the engines a quarter into the window."""
    place = crew.place
    if load == "throughput":
        return lambda: rows.load(place, size.jobs, due_in=-1.0, prefix="job")
    if load == "nothing else":
        return lambda: None
    victim = crew.engines(1)[0]
    kind, count = (
        ("action", size.actions) if load == "recovery" else ("timer", size.timers)
    )
    rows.load(place, count, [victim.engine], due_in=3600.0, kind=kind, prefix=kind)
    return lambda: crew.dismiss([victim])


def _bare(crew: Crew, size: Size, load: str) -> Run:
    place = crew.place
    crew.engines(ENGINES)  # for the load
    disturb = _disturbance(crew, size, load)
    floors = crew.floors(ENGINES)
    time.sleep(LEAD)
    owners = [f"floor-{number}" for number in range(ENGINES)]
    # They are done before the engines have missed these owners for a lease.
    each = size.count // ENGINES
    rows.load(place, each * ENGINES, owners, due_in=LEAD, spread=size.seconds)
    for floor, owner in zip(floors, owners, strict=True):
        found = raw.execute(place.url, _due_times(place, owner))
        floor.tell("fire", rows=[(row_id, float(due)) for row_id, due in found])
    time.sleep(LEAD + size.seconds / 4)
    disturb()
    answers = [floor.hear() for floor in floors]
    late = [seconds * 1000 for answer in answers for seconds in answer["late"]]
    assert len(late) == each * ENGINES, f"{len(late)} of {each * ENGINES} were fired"
    return Run(late, cpu=sum(a["cpu"] for a in answers) * 1000 / len(late))


def _due_times(place: Place, owner: str) -> str:
    seconds = {
        "mariadb": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', due_at) / 1000000",
        "postgresql": "EXTRACT(EPOCH FROM due_at)",
        "sqlite": "(julianday(due_at) - 2440587.5) * 86400.0",
    }[place.database]
    return f"SELECT id, {seconds} FROM liveness_deadline WHERE owner_id = '{owner}'"
