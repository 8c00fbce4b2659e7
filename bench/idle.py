"""Idle cost: what engines at rest cost the database and their hosts.

Real engines on real connections, in one process; each on a machine of its own, as far
as they know. Statements, rows and CPU are the server's own count, and are given per
engine and second at the default intervals. The floor of a thousand: as many connections
of the bare driver that write a row each, by its key, as often as engines beat.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import uuid
from collections.abc import Iterator, Sequence

from bench import counters, machine, raw, rows
from bench.context import Context
from bench.driven import Herd, Schedule, Step, stretched
from bench.rounds import Row, row
from bench.servers import Place
from liveness import Settings

MANY = 1000
"""Engines for which a goal is set, and the floor is measured."""


@dataclasses.dataclass(frozen=True)
class Size:
    """``stretch``: engines from that number on run at so many times the intervals."""

    engines: tuple[int, ...]
    deadlines: tuple[int, ...]
    seconds: float
    stretch: dict[int, float]
    most: dict[str, int]


SIZES = {
    "quick": Size((1, 10), (0, 10_000), 4, {1: 0.2}, {}),
    "full": Size(
        (1, 10, 100, MANY),
        (0, 1_000_000),
        30,
        {1: 1.0, MANY: 4.0},
        {"sqlite": 100},
    ),
}


@dataclasses.dataclass(frozen=True)
class Cost:
    """Per engine and second, at the default intervals."""

    statements: float
    rows: float
    bytes: float
    server_ms: float
    client_ms: float
    load: float
    floor_ms: float | None = None


def run(context: Context) -> Iterator[Row]:
    size: Size = context.size
    for database in context.databases:
        costs: dict[tuple[int, int], Cost] = {}
        with context.servers.place(database) as place:
            for engines in size.engines:
                if engines > size.most.get(database, engines):
                    continue
                for deadlines in size.deadlines:
                    cost = measure(context, place, engines, deadlines)
                    costs[engines, deadlines] = cost
        yield from _rows(place, costs)


def measure(context: Context, place: Place, engines: int, deadlines: int) -> Cost:
    """What so many engines at rest cost, beside so many armed deadlines."""
    size: Size = context.size
    stretch = next(f for n, f in sorted(size.stretch.items())[::-1] if engines >= n)
    ids = [str(uuid.uuid4()) for _ in range(engines)]
    rows.clear(place)
    if deadlines:
        rows.load(place, deadlines, ids, tell=context.tell)
    what = f"idle, {place}: {engines} engines, {deadlines} armed"
    context.tell(f"{what}: starting")
    herd = Herd(place, ids, **stretched(stretch))
    try:
        context.tell(f"{what}: {size.seconds:g} s")
        load = machine.load()
        # In whole intervals, so that each engine is met equally often.
        before = counters.counted(place)
        got, sent = herd.traffic()
        own = counters.own_cpu()
        herd.drive(size.seconds)
        own = counters.own_cpu() - own
        server = counters.measured(before, place)
        got, sent = (b - a for a, b in zip((got, sent), herd.traffic(), strict=True))
    finally:
        herd.close()
    floor = None
    if engines == MANY:
        context.tell(f"{what}: bare beats, {size.seconds:g} s")
        floor = bare_beats(place, ids, size.seconds, stretch)
    each = size.seconds * engines / stretch
    return Cost(
        statements=server.statements / each,
        rows=server.rows / each,
        bytes=(got + sent) / each,
        server_ms=server.cpu * 1000 / each,
        client_ms=own * 1000 / each,
        load=load,
        floor_ms=None if floor is None else floor * 1000 / each,
    )


def bare_beats(
    place: Place, ids: Sequence[str], seconds: float, stretch: float
) -> float:
    """CPU seconds of the server for nothing but beats: each row is written by its key,
    on a connection of its own."""
    now = "NOW(6)" if place.database == "mariadb" else "NOW()"
    text = (
        f"UPDATE liveness_engine SET beat_seq = beat_seq + 1, beat_at = {now}"
        " WHERE id = %s"
    )
    interval = Settings().beat_interval * stretch
    with contextlib.ExitStack() as stack:

        def step_of(engine_id: str) -> Step:
            connection = raw.connect(place.url)
            stack.callback(connection.close)
            cursor = connection.cursor()

            def step() -> float:
                cursor.execute(text, (engine_id,))
                return interval * random.uniform(0.8, 1.0)

            step()
            return step

        steps = [(random.uniform(0, interval), step_of(each)) for each in ids]
        before = counters.server_cpu(place.server.process)
        Schedule(steps, seconds).run(threads=4)
        return counters.server_cpu(place.server.process) - before


def _rows(place: Place, costs: dict[tuple[int, int], Cost]) -> Iterator[Row]:
    fewest = min(deadlines for _, deadlines in costs)
    for (engines, deadlines), cost in costs.items():
        name = f"{engines:,} engines, {deadlines:,} armed"
        empty = costs[engines, fewest]
        herd = costs.get((10, deadlines))

        def line(what: str, unit: str, value: float, **more: object) -> Row:
            return row(f"{name}: {what}", place, unit, [value], load=cost.load, **more)  # noqa: B023

        if place.server.label != "SQLite":
            yield line("statements", "/s", cost.statements, goal="value <= 1")
            flat: dict[str, object] = {}
            if deadlines != fewest:
                note = f"floor: with {fewest:,} armed"
                flat = {"floors": [empty.rows], "goal": "ratio <= 1.1", "note": note}
            yield line("rows examined", "/s", cost.rows, **flat)
            yield line("bytes", "/s", cost.bytes)
            flat = {}
            if engines > 10 and herd is not None:
                flat = {"floors": [herd.server_ms], "goal": "ratio <= 1.3"}
                flat["note"] = "floor: with 10 engines"
            yield line("server CPU", "ms/s", cost.server_ms, **flat)
        yield line("own CPU", "ms/s", cost.client_ms)
        if cost.floor_ms is not None:
            goal = "value <= 5" if place.database == "mariadb" else None
            share, bare = (ms * engines / 10 for ms in (cost.server_ms, cost.floor_ms))
            note = "floor: a bare UPDATE for each beat, and nothing else"
            more = {"goal": goal, "floors": [bare], "note": note}
            yield line("server CPU of all", "% of a core", share, **more)
