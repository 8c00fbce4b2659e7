"""Memory: what an engine adds to a program, and what owned deadlines add to that.

A process of its own for each round; what counts is its resident set.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench import machine
from bench.context import Context
from bench.rounds import Row, row
from bench.servers import Place

CHILD = Path(__file__).with_name("memory_child.py")


@dataclasses.dataclass(frozen=True)
class Size:
    rounds: int
    owned: int


SIZES = {"quick": Size(1, 10_000), "full": Size(5, 100_000)}


def run(context: Context) -> Iterator[Row]:
    size: Size = context.size
    for database in context.databases:
        load = machine.load()
        stages: dict[str, list[float]] = {}
        for number in range(size.rounds):
            with context.servers.place(database) as place:
                context.tell(f"memory, {place}: round {number + 1} of {size.rounds}")
                for stage, mib in _child(place, size.owned).items():
                    stages.setdefault(stage, []).append(mib)
        host, engine, owned = (stages[s] for s in ("host", "engine", "owned"))

        def added(before: list[float], after: list[float]) -> list[float]:
            return [b - a for a, b in zip(before, after, strict=True)]

        yield row("a program with SQLAlchemy", place, "MiB", host, load=load)
        yield row("the same with an engine", place, "MiB", engine, load=load)
        yield row(
            "what the engine adds",
            place,
            "MiB",
            added(host, engine),
            goal="value <= 10",
            load=load,
        )
        yield row(
            f"what {size.owned:,} owned deadlines add",
            place,
            "MiB",
            added(engine, owned),
            goal="value <= 50",
            load=load,
        )


def _child(place: Place, owned: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(CHILD), place.url, str(owned)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    )
    stages: dict[str, float] = json.loads(done.stdout)
    return stages
