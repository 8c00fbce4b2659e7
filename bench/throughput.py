"""Throughput: claim and complete deadlines that are due, with handlers that do nothing.

``own``: each engine's own; ``anybody's``: rows without an owner, for which all engines
compete, as with a queue. The floor is the raw driver with the best statements known, at
the same batch size and number of processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from bench import counters, machine, rows
from bench.context import Context
from bench.crew import Crew, Worker, ask_all, crew_on, until
from bench.rounds import Row, row
from bench.servers import Place

MODES = ("own", "anybody's")


@dataclasses.dataclass(frozen=True)
class Size:
    """``singles``: how many deadlines at batch size 1. Each of the ``batches`` with one
    process, and several ``processes`` (on SQLite: those) with batches of 200."""

    rounds: int
    count: int
    singles: int
    batches: tuple[int, ...]
    processes: tuple[int, ...]
    sqlite_processes: tuple[int, ...]


USUAL = 200
SIZES = {
    "quick": Size(1, 2000, 200, (USUAL,), (2,), ()),
    "full": Size(3, 20_000, 2000, (1, 10, 100, USUAL, 500, 1000), (2, 4, 8), (2,)),
}


@dataclasses.dataclass
class Run:
    """One round: per second, and CPU seconds per 1,000, in all and of the clients."""

    rate: float
    cpu: float
    client: float
    failures: int = 0


def run(context: Context) -> Iterator[Row]:
    size: Size = context.size
    for database in context.databases:
        processes = size.sqlite_processes if database == "sqlite" else size.processes
        with context.servers.place(database) as place:
            for batch in size.batches:
                yield from _measure(context, place, batch, 1)
            for count in processes:
                yield from _measure(context, place, USUAL, count)


def _measure(
    context: Context, place: Place, batch: int, processes: int
) -> Iterator[Row]:
    size: Size = context.size
    total = size.singles if batch == 1 else size.count
    load = machine.load()
    rows.clear(place)
    runs: dict[tuple[str, str], list[Run]] = {}
    with crew_on(place) as crew:
        engines = crew.engines(processes, does="nothing", batch_size=batch)
        floors = crew.floors(processes)
        for number in range(size.rounds):
            for mode in MODES:
                where = f"{place}, batch {batch}, {processes} processes, {mode}"
                context.tell(f"throughput, {where}, round {number + 1}")
                ours = _ours(crew, engines, mode, total)
                bare = _bare(crew, floors, mode, total, batch)
                runs.setdefault((mode, "ours"), []).append(ours)
                runs.setdefault((mode, "bare"), []).append(bare)
    for mode in MODES:
        name = f"{mode}, batch {batch}, {processes} process{'es' * (processes > 1)}"
        ours_, bare_ = runs[mode, "ours"], runs[mode, "bare"]
        yield row(
            name,
            place,
            "/s",
            [r.rate for r in ours_],
            [r.rate for r in bare_],
            goal=_goal(batch, processes),
            load=load,
        )
        yield row(
            f"{name}: CPU per 1,000",
            place,
            "s",
            [r.cpu for r in ours_],
            [r.cpu for r in bare_],
            goal="value <= 0.03" if batch >= 100 else None,
            load=load,
        )
        own = [r.client for r in ours_]
        bare_client = [r.client for r in bare_]
        yield row(f"{name}: of it, own", place, "s", own, bare_client, load=load)
        failures = sum(r.failures for r in ours_)
        if failures:
            yield row(f"{name}: failed turns", place, "", [failures], goal="value <= 0")


def _goal(batch: int, processes: int) -> str | None:
    if processes == 2 and batch >= 100:
        return "ratio >= 0.7"
    if processes == 1 and batch >= 100:
        return "ratio >= 0.8"
    return "ratio >= 0.65" if processes == 1 and batch == 1 else None


def _ours(crew: Crew, engines: Sequence[Worker], mode: str, total: int) -> Run:
    place = crew.place
    ask_all(engines, "hold")
    owners = [engine.engine for engine in engines] if mode == "own" else []
    rows.sweep_up(place)
    rows.load(place, total, owners, due_in=-1.0)
    used = _server_cpu(place)
    began = ask_all(engines, "go")
    # Asked of the engines: to look for rows that are left costs the server as much.
    until(
        lambda: sum(a["settled"] for a in ask_all(engines, "count")) >= total,
        f"{total} rows are settled",
        every=0.1,
    )
    used = _server_cpu(place) - used
    notes = ask_all(engines, "notes")
    ask_all(engines, "hold")  # or they would help the floor
    settled = [moment for note in notes for moment in note["settled"]]
    assert sum(count for _, count, _ in settled) == total, "not each settled once"
    # CPU up to the last settlement: the wait for it to be noticed is not counted.
    client = sum(
        note["settled"][-1][2] - start["cpu"]
        for note, start in zip(notes, began, strict=True)
        if note["settled"]
    )
    seconds = max(m for m, _, _ in settled) - min(start["began"] for start in began)
    failures = sum(len(note["failures"]) for note in notes)
    thousands = total / 1000
    return Run(
        total / seconds, (client + used) / thousands, client / thousands, failures
    )


def _bare(
    crew: Crew, floors: Sequence[Worker], mode: str, total: int, batch: int
) -> Run:
    place = crew.place
    owners = [f"floor-{n:030}" for n in range(len(floors))] if mode == "own" else []
    rows.sweep_up(place)
    rows.load(place, total, owners, due_in=-1.0)
    used = _server_cpu(place)
    for number, floor in enumerate(floors):
        floor.tell("chain", batch=batch, owner=owners[number] if owners else None)
    answers: list[dict[str, Any]] = [floor.hear() for floor in floors]
    used = _server_cpu(place) - used
    assert sum(answer["count"] for answer in answers) == total
    seconds = max(a["ended"] for a in answers) - min(a["began"] for a in answers)
    client = sum(answer["cpu"] for answer in answers)
    thousands = total / 1000
    return Run(total / seconds, (client + used) / thousands, client / thousands)


def _server_cpu(place: Place) -> float:
    if place.database == "sqlite":
        return 0.0
    return counters.server_cpu(place.server.process)
