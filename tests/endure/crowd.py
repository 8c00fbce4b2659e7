"""The crowd: very many engines, several to a process, some of which end all the time.

An engine here is all that an engine is: its row, heart, loop, handlers' threads and
connections, with a host program of its own. What those of a process share is the
process: one interpreter, one pid. So the death of one of them is proven by nobody, and
their silence has to tell; that of a whole process is seen.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from typing import Any

from tests.endure.report import Tell, quantiles
from tests.endure.stage import Given, Stage, stage
from tests.servers import Server

OPTIONS = {
    # Beats and sweeps leave half of the quarter of a ttl, within which an observer has
    # to read and to beat: on a machine that is busy, less would fence nobody.
    "ttl": 120.0,
    "beat_interval": 12.0,
    "sweep_interval": 12.0,
    "database_timeout": 15.0,
    "connections": 1,
    "handler_threads": 2,
    "batch_size": 50,
    "engine_retention": 60.0,
}

FAULTS = {"abandon": 6, "drain": 4, "kill": 1, "stop": 1}
"""How often of each: an engine that vanishes, one that is drained, a process that is
killed, one that is stopped until its leases are over."""


def run(given: Given, tell: Tell, server: Server | None = None) -> dict[str, Any]:
    given.options = {**OPTIONS, **given.options}
    given.connections = 4 * given.engines + 100
    rng = random.Random(given.seed)
    with stage(given, tell, server) as made:
        tell(f"{given.engines} engines begin, in {given.processes} processes")
        made.fleet()
        began = time.monotonic()
        faults, told = Faults(made, rng), 0.0
        while (at := time.monotonic() - began) < given.seconds:
            pause = time.monotonic() + rng.uniform(0.5, 1.5) * given.every
            made.until(lambda p=pause: time.monotonic() > p, 600, "the next fault")
            faults.strike()
            if at >= told:
                tell(_progress(made, faults, at), at / given.seconds)
                told += 10
        faults.finish()
        lease = given.options["ttl"]
        settled = made.until(
            lambda: not _of_the_dead(made),
            max(6 * lease, 60.0),
            "all the dead had is taken over",
        )
        problems = _live_victims(made)
        made.wrong = bool(problems)
        living = sum(state == "live" for state in made.states().values())
        made.drain()
        made.close_books()
        return {
            "seconds": round(time.monotonic() - began, 1),
            "faults": dict(faults.counts),
            "living": living,
            "settled": f"{settled:.1f} s after the last fault",
            "lateness": quantiles(made.ledger.lateness),
            "operations": dict(made.ledger.counts),
            "problems": problems + made.ledger.violations,
        }


class Faults:
    """Ends engines, and replaces them."""

    def __init__(self, stage: Stage, rng: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._stage = stage
        self._rng = rng
        self._stopped: list[tuple[float, Any]] = []

    def strike(self) -> None:
        self._resume(time.monotonic())
        (how,) = self._rng.choices(list(FAULTS), list(FAULTS.values()))
        moving = [
            worker
            for worker in self._stage.workers
            if all(worker is not stopped for _, stopped in self._stopped)
        ]
        worker = self._rng.choice(moving)
        if how in ("abandon", "drain"):
            worker.tell(how)
        elif how == "kill":
            self._kill(worker)
        elif len(moving) > 2:
            self._stop(worker)
        else:
            return
        self.counts[how] += 1

    def finish(self) -> None:
        """Let everybody go on, those who are stopped when their leases are over."""
        end = max((until for until, _ in self._stopped), default=0.0)
        self._stage.until(lambda: time.monotonic() > end, 600, "leases are over")
        self._resume(float("inf"))

    def _kill(self, worker: Any) -> None:
        self._stage.strike(worker, "killed")
        self._stage.add(worker.engines)

    def _stop(self, worker: Any) -> None:
        self._stage.strike(worker, "paused")
        lease = self._stage.given.options["ttl"]
        self._stopped.append((time.monotonic() + 2 * lease, worker))

    def _resume(self, now: float) -> None:
        for until, worker in self._stopped:
            if until <= now:
                worker.process.send(signal.SIGCONT)
        self._stopped = [each for each in self._stopped if each[0] > now]


def _progress(made: Stage, faults: Faults, at: float) -> str:
    states = Counter(made.states().values())
    ends = ", ".join(f"{number} {how}" for how, number in faults.counts.items())
    return (
        f"{at:6.0f} s  {states['live']} live, {states['fenced']} fenced lately;"
        f" {ends}; {made.ledger.counts['begin']:,} fired,"
        f" {made.ledger.counts['violations']} violations"
    )


def _of_the_dead(made: Stage) -> int:
    """Deadlines of engines that are not alive, and engines that are dead and not
    fenced yet."""
    ((rows,),) = made.rows(
        "SELECT count(*) FROM liveness_deadline d LEFT JOIN liveness_engine e"
        " ON e.id = d.owner_id WHERE d.state <> 'parked'"
        " AND d.owner_id IS NOT NULL"
        " AND (e.id IS NULL OR e.state NOT IN ('live', 'draining'))"
    )
    states = made.states()
    undead = [e for e in made.ledger.dead if states.get(e) in ("live", "draining")]
    return rows + len(undead)


def _live_victims(made: Stage) -> list[str]:
    """Engines that were fenced, and to which nothing had been done."""
    fenced = {engine for engine, state in made.states().items() if state == "fenced"}
    evidence = dict(made.rows("SELECT id, fence_evidence FROM liveness_engine"))
    return [
        f"{engine} was fenced, and nothing had been done to it:"
        f" {evidence.get(engine, 'its row is gone')}"
        for engine in sorted(fenced | made.ledger.fenced)
        if engine not in made.ledger.struck
    ]
