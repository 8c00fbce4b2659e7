"""``python -m bench.scaling``: where a fleet bends first, simulated."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import machine
from bench.context import Progress
from bench.report import RESULTS, number
from bench.scaling import calibrate, compare, scenarios
from bench.scaling.costs import Costs
from bench.scaling.scenarios import Case, Outcome
from bench.scaling.server import Topology

COSTS = RESULTS / "service-times.json"
OUTCOMES = RESULTS / "scaling.json"

ONE, GALERA = Topology(), Topology(nodes=3)
EVERY = Topology(nodes=3, written=3)

RELAXED = (("beat_interval", 10.0), ("sweep_interval", 10.0), ("ttl", 60.0))

Named = tuple[str, str, Case]


def cases(most: int, each: int) -> Iterator[Named]:
    """Every question, the cheap ones first: of which group, its name, and what is
    simulated."""
    sizes = [size for size in (100, 300, 1000, 3000) if size < most]
    for size in [*sizes, most]:
        yield "rest", f"{size:,} at rest", Case(size, size * each, GALERA)
    yield from _events(min(most, 1000), each)
    if most > 1000:
        yield from _most(most, each)


def _events(size: int, each: int) -> Iterator[Named]:
    def case(topology: Topology = GALERA, **more: Any) -> Case:
        return Case(size, size * each, topology, **more)

    name = f"{size:,}"
    for topology in (ONE, GALERA, EVERY):
        killed = case(topology, killed=0.01, seconds=45.0)
        yield "death", f"{name}, 1 % of them killed", killed
    third = case(killed=1 / 3, seconds=90.0)
    yield "death", f"{name}, a third of them killed", third
    for share in (0.01, 0.1):
        herd = case(herd=share, seconds=30.0)
        yield "herd", f"{name}, {share:.0%} due at once", herd
    batch = case(herd=0.1, seconds=30.0, options=(("batch_size", 1000),))
    yield "herd", f"{name}, 10% due at once, batch_size 1000", batch
    yield "stall", f"{name}, stall of 10 s", case(stall=10.0, seconds=25.0)
    slow = case(Topology(nodes=3, flush=0.01), seconds=10.0)
    yield "disk", f"{name}, a flush takes 10 ms", slow
    yield "start", f"{name} started at once", case(cold=True, seconds=10.0)


def _most(most: int, each: int) -> Iterator[Named]:
    def case(topology: Topology = GALERA, **more: Any) -> Case:
        return Case(most, most * each, topology, **more)

    name = f"{most:,}"
    yield "remedy", f"{name} in 4 databases", case(shards=4, seconds=10.0)
    relaxed = case(options=RELAXED, seconds=12.0)
    yield "remedy", f"{name}, beat 10 s, sweep 10 s, ttl 60 s", relaxed
    both = case(shards=4, options=RELAXED, seconds=12.0)
    yield "remedy", f"{name} in 4 databases, and these intervals", both
    killed = case(shards=4, killed=0.01, seconds=40.0)
    yield "death", f"{name} in 4 databases, 1 % of them killed", killed
    herd = case(shards=4, herd=0.01, seconds=20.0)
    yield "herd", f"{name} in 4 databases, 1% due at once", herd
    yield (
        "start",
        f"{name} in 4 databases, started at once",
        case(shards=4, cold=True, seconds=10.0),
    )
    yield "death", f"{name}, 1 % of them killed", case(killed=0.01, seconds=45.0)


def line(name: str, database: str, outcome: Outcome) -> str:
    """What is shown while it runs; all of it is in the JSON."""
    parts = (
        f"CPU {outcome.cpu:.0%}",
        f"log {outcome.log:.0%}",
        f"network {outcome.network:.0%}",
        f"beat p99 {number(outcome.beat_p99)} ms",
        f"late p50 {number(outcome.late_p50)} p99 {number(outcome.late_p99)} ms",
        f"in vain {outcome.in_vain:.0%}",
        f"dead known {number(outcome.detected_seconds)} s",
        f"recovered {number(outcome.recovered_seconds)} s",
        f"left {outcome.orphans_left}",
        f"suspended {outcome.suspended}",
        f"wrong {outcome.wrongly_fenced}",
    )
    return f"{name} ({database}): {', '.join(parts)}"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m bench.scaling", description="Simulate a large fleet."
    )
    made.add_argument(
        "--engines",
        type=int,
        default=10_000,
        help="in the largest fleet (default: %(default)s)",
    )
    made.add_argument(
        "--each", type=int, default=1000, help="deadlines of each engine (%(default)s)"
    )
    made.add_argument(
        "--only",
        metavar="GROUPS",
        help="some of rest, death, herd, stall, disk, start and remedy, with commas"
        " between them; the results of the others stay",
    )
    made.add_argument(
        "--calibrate",
        action="store_true",
        help="measure the service times on a MariaDB server first",
    )
    made.add_argument("-o", "--output", type=Path, default=OUTCOMES)
    return made


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    tell = Progress()
    if args.calibrate or not COSTS.exists():
        run = machine.describe()
        measured, seen = calibrate.measure(tell)
        measured.save(COSTS, run=run, idle=seen)
    costs = Costs.load(COSTS)
    compared = compare.compared(costs, json.loads(COSTS.read_text()), tell)
    print(compare.table(compared))
    rows = _saved(args.output)
    for group, name, case in cases(args.engines, args.each):
        if args.only and group not in args.only.split(","):
            continue
        outcome = scenarios.run(case, costs, tell)
        tell.clear()
        database = str(case.topology)
        print(line(name, database, outcome), flush=True)
        rows[name, database] = {
            "group": group,
            "name": name,
            "database": database,
            "engines": case.engines,
            "deadlines": case.deadlines,
            "shards": case.shards,
            **outcome.as_json(),
        }
        _save(args.output, compared, rows)
    return 0


def _saved(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    if not path.exists():
        return {}
    rows = json.loads(path.read_text())["rows"]
    return {(row["name"], row["database"]): row for row in rows}


def _save(path: Path, compared: list[compare.Compared], rows: dict[Any, Any]) -> None:
    """After each case: the whole takes long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = {
        "run": machine.describe(),
        "compared": [each._asdict() for each in compared],
        "rows": list(rows.values()),
    }
    path.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
