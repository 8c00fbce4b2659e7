"""The long run: real processes, a large standing stock of deadlines, steady work around
it, and at the end the question whether anything has grown."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from tests.endure import samples
from tests.endure.flat import Bound, Verdict, judge
from tests.endure.report import Tell, quantiles
from tests.endure.stage import Given, Stage, stage
from tests.servers import Server

OPTIONS = {
    # Both have an end within the run: a table that is never purged is not flat.
    "history": "all",
    "history_retention": 60.0,
    "engine_retention": 60.0,
}

BOUNDS = {
    "rss": Bound(0.03, 1 << 20),
    "threads": Bound(0.0, 0.5),
    "fds": Bound(0.0, 0.5),
    "connections": Bound(0.0, 0.5),
    "rows": Bound(0.02, 20),
    "bytes": Bound(0.05, 1 << 20),
    "statements a second": Bound(0.2, 1),
}
"""Growth over the second half that is none."""

LEAST = 600.0
"""Seconds: of a shorter run, growth is shown and not judged. Pools, caches and the
history are not full before."""


class Series:
    """Samples by name."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.values: dict[str, list[float]] = defaultdict(list)

    def add(self, at: float, values: dict[str, float]) -> None:
        self.times.append(at)
        for name, value in values.items():
            self.values[name].append(value)

    def verdicts(self) -> list[Verdict]:
        return [
            judge(name, self.times, values, _bound(name))
            for name, values in self.values.items()
        ]


def _bound(name: str) -> Bound:
    return next(bound for part, bound in BOUNDS.items() if part in name)


class Sampler:
    """What there is at a moment, in all processes and at the server."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._statements: tuple[float, float] | None = None

    def take(self, at: float) -> dict[str, float]:
        server, found = self._stage.server, {}
        for worker in self._stage.workers:
            of = samples.of_process(worker.process.pid, server.port)
            found |= {f"{name} of {worker.name}": value for name, value in of.items()}
        of = samples.of_server(server, self._stage.name)
        found["connections at the server"] = of.pop("connections")
        statements = of.pop("statements")
        if self._statements is not None:
            before, then = self._statements
            found["statements a second"] = (statements - before) / (at - then)
        self._statements = statements, at
        return found | of


def run(given: Given, tell: Tell, server: Server | None = None) -> dict[str, Any]:
    given.options = {**OPTIONS, **given.options}
    given.processes = given.engines
    with stage(given, tell, server) as made:
        tell(f"{given.engines} processes lay in {given.deadlines:,} deadlines")
        made.fleet()
        series, facts = _watch(made, tell)
        late = _overdue(made)
        made.drain()
        made.close_books()
        return _result(made, series, facts, late)


def _watch(made: Stage, tell: Tell) -> tuple[Series, dict[str, Any]]:
    given, series, sampler = made.given, Series(), Sampler(made)
    began = time.monotonic()
    before = made.ledger.counts.copy()
    sampler.take(0.0)
    number = 0
    while (at := time.monotonic() - began) < given.seconds:
        number += 1
        wake = began + min(number * given.every, given.seconds)
        made.until(lambda w=wake: time.monotonic() >= w, given.every * 60, "a sample")
        at = time.monotonic() - began
        series.add(at, sampler.take(at))
        tell(_progress(made, series, at), at / given.seconds)
    facts = {
        "seconds": round(time.monotonic() - began, 1),
        "operations": dict((made.ledger.counts - before).items()),
    }
    return series, facts


def _progress(made: Stage, series: Series, at: float) -> str:
    last = {name: values[-1] for name, values in series.values.items()}
    rss = [value for name, value in last.items() if name.startswith("rss")]
    return (
        f"{at:6.0f} s  {last['rows of liveness_deadline']:,.0f} deadlines,"
        f" {made.ledger.counts['begin']:,} fired,"
        f" {last['statements a second']:,.0f} statements/s,"
        f" {sum(rss) / len(rss) / (1 << 20):.1f} MiB an engine,"
        f" {made.ledger.counts['violations']} violations"
    )


def _overdue(made: Stage) -> int:
    """Deadlines that nobody has looked at for a minute."""
    clock = (
        "UTC_TIMESTAMP(6)"
        if made.given.database == "mariadb"
        else "timezone('utc', now())"
    )
    ((late,),) = made.rows(
        "SELECT count(*) FROM liveness_deadline WHERE state <> 'parked'"
        f" AND due_at < {clock} - INTERVAL '60' SECOND"
    )
    return late


def _result(
    made: Stage, series: Series, facts: dict[str, Any], late: int
) -> dict[str, Any]:
    ledger, verdicts = made.ledger, series.verdicts()
    problems = list(ledger.violations)
    if late:
        problems.append(f"{late} deadlines are overdue by more than a minute")
    problems += [f"{e} was fenced" for e in ledger.gone if _fenced(made, e)]
    judged = verdicts if made.given.seconds >= LEAST else []
    problems += [
        f"{v.name} has grown by {v.growth:.4g} in half of the run, more than"
        f" {v.bound:.4g}"
        for v in judged
        if not v.flat
    ]
    return {
        **facts,
        "lateness": quantiles(ledger.lateness),
        "series": [{**v.__dict__, "flat": v.flat} for v in verdicts],
        "problems": problems,
    }


def _fenced(made: Stage, engine: str) -> bool:
    return made.states().get(engine) == "fenced"
