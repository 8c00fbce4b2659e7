"""Recovery: from the death of an engine to its actions' being done again.

One engine owns actions that are to be retriggered, two others survive it. It is killed
on the same host; killed where the others can prove nothing about it, as on a lost host;
and drained by SIGTERM.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Iterator
from typing import Any

from bench import machine, rows
from bench.context import Context
from bench.crew import Crew, another_pid_namespace, ask_all, crew_on, until
from bench.rounds import Row, percentile, row
from liveness import Settings

SURVIVORS = 2


@dataclasses.dataclass(frozen=True)
class Size:
    """``lost``: the options with which a host is lost."""

    rounds: int
    count: int
    lost: dict[str, Any]


SIZES = {
    "quick": Size(
        1,
        200,
        {
            "ttl": 6.0,
            "beat_interval": 1.0,
            "sweep_interval": 1.0,
            "database_timeout": 1.9,
            "lease_margin": 0.5,
        },
    ),
    "full": Size(3, 1000, {}),
}

CASES = ("same host", "lost host", "drained host")


def run(context: Context) -> Iterator[Row]:
    size: Size = context.size
    for database in context.databases:
        for case in CASES:
            options = size.lost if case == "lost host" else {}
            prefix = another_pid_namespace() if case == "lost host" else []
            if prefix is None:
                context.tell(f"recovery, {database}: no pid namespace to be had")
                continue
            load = machine.load()
            runs = []
            for number in range(size.rounds):
                context.tell(f"recovery, {database}: {case}, round {number + 1}")
                with context.servers.place(database) as place, crew_on(place) as crew:
                    runs.append(_measure(crew, size, case, prefix, options))
            yield from _rows(database, case, runs, options, load)


def _rows(
    database: str,
    case: str,
    runs: list[list[float]],
    options: dict[str, Any],
    load: float,
) -> Iterator[Row]:
    settings = Settings(**options)
    limit = {
        "same host": 2.0,
        "lost host": settings.ttl + settings.sweep_interval,
        "drained host": 1.0,
    }[case]
    note = f"ttl {settings.ttl:g} s" if options else ""
    for what, pick, goal in (
        ("first", min, None),
        ("p99", lambda run: percentile(run, 0.99), f"value <= {limit:g}"),
        ("last", max, None),
    ):
        values = [pick(run) for run in runs]
        name = f"{case}: {what} of {len(runs[0]):,}"
        yield row(name, database, "s", values, goal=goal, load=load, note=note)


def _measure(
    crew: Crew, size: Size, case: str, prefix: list[str], options: dict[str, Any]
) -> list[float]:
    """Seconds from the signal to each action's second start."""
    survivors = crew.engines(SURVIVORS, **options)
    (victim,) = crew.engines(1, prefix, **options)
    rows.load(crew.place, size.count, [victim.engine], due_in=3600.0, kind="action")
    interval = options.get("sweep_interval", Settings().sweep_interval)
    time.sleep(interval * 2)  # the survivors have seen it, and sleep on its process
    ask_all(survivors, "clear")
    if case == "drained host":
        died = victim.send(signal.SIGTERM)
    else:
        died = victim.kill()
    until(
        lambda: not rows.left(crew.place, "action"),
        f"{size.count} actions of an engine ({case}) are done again",
        every=0.1,
    )
    notes = ask_all(survivors, "notes")
    again = [called - died for note in notes for _, _, called in note["calls"]]
    assert len(again) == size.count, f"{len(again)} calls for {size.count} actions"
    return again
