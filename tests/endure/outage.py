"""The outage: the database is away for much longer than any lease. Nobody alive may be
fenced for it, all go on as who they were; who is really dead afterwards is fenced."""

from __future__ import annotations

import signal
import time
from typing import Any

from tests.endure.report import Tell, quantiles
from tests.endure.stage import Failed, Given, Stage, Worker, stage
from tests.servers import Server

BEGIN = {"stop": Server.stop, "kill": Server.kill, "pause": Server.pause}
END = {"stop": Server.start, "kill": Server.start, "pause": Server.resume}


def run(given: Given, tell: Tell, server: Server | None = None) -> dict[str, Any]:
    given.processes = given.engines
    with stage(given, tell, server) as made:
        tell(f"{given.engines} engines at work")
        made.fleet()
        made.until(lambda: made.ledger.counts["begin"] > given.engines, 120, "work")
        lease = given.options["ttl"]
        before = made.states()
        beats = _beats(made)
        fired = made.ledger.counts["begin"]
        _be_away(made, tell)
        tell("the database is back")
        back = time.monotonic()
        END[given.how](made.server)
        resumed = made.until(
            lambda: _all_beat(made, beats), _patience(lease), "all engines beat again"
        )
        done = made.ledger.counts["ended"]
        made.until(
            lambda: made.ledger.counts["ended"] > done + 2 * given.engines,
            _patience(lease),
            "deadlines are handled again",
        )
        end = back + given.after * lease
        made.until(lambda: time.monotonic() > end, 3 * lease, "a lease or two")
        problems = _harm(made, before)
        meanwhile = made.ledger.counts["begin"]
        tell("nobody was fenced" if not problems else "; ".join(problems))
        deaths = _really_dead(made, tell, lease)
        made.drain()
        made.close_books()
        return {
            "outage": {"how": given.how, "seconds": given.seconds, "ttl": lease},
            "resumed": f"all {given.engines} beat {resumed:.1f} s after",
            "fired": {"before": fired, "after": meanwhile},
            "lateness": quantiles(made.ledger.lateness),
            "deaths": deaths,
            "operations": dict(made.ledger.counts),
            "problems": problems + made.ledger.violations,
        }


def _patience(lease: float) -> float:
    """Seconds for what takes a lease, on a machine that is busy."""
    return max(6 * lease, 60.0)


def _be_away(made: Stage, tell: Tell) -> None:
    given = made.given
    tell(f"the database is away for {given.seconds:g} s: {given.how}")
    BEGIN[given.how](made.server)
    gone = time.monotonic()
    told = 0.0
    while (away := time.monotonic() - gone) < given.seconds:
        made.until(lambda: True, 1, "")
        if away >= told:
            tell(f"{away:6.0f} s away", away / given.seconds)
            told += given.every
        time.sleep(0.2)


def _beats(made: Stage) -> dict[str, int]:
    return dict(made.rows("SELECT id, beat_seq FROM liveness_engine"))


def _all_beat(made: Stage, before: dict[str, int]) -> bool:
    now = _beats(made)
    return all(now.get(engine, 0) > number + 1 for engine, number in before.items())


def _harm(made: Stage, before: dict[str, str]) -> list[str]:
    """Engines that are not what they were."""
    after = made.states()
    return [
        f"{engine} was {state} and is {after.get(engine, 'missing')}"
        for engine, state in before.items()
        if after.get(engine) != state
    ] + [f"{engine} is new" for engine in after.keys() - before.keys()]


def _really_dead(made: Stage, tell: Tell, lease: float) -> dict[str, str]:
    """One is killed, which its neighbours can see; one is stopped, which only its
    silence tells. Both are fenced, and what they had is taken over."""
    killed, stopped = made.workers[0], made.workers[1]
    found = {}
    for how, worker in (("killed", killed), ("stopped", stopped)):
        engines = made.strike(worker, "killed" if how == "killed" else "paused")
        seconds = made.until(
            lambda e=engines: _all_fenced(made, e) and not _owned(made, e),
            _patience(lease),
            f"{how} engines are fenced, and their deadlines taken over",
        )
        evidence = _evidence(made, engines)
        found[how] = f"fenced and taken over in {seconds:.1f} s ({evidence})"
        tell(f"one is {how}: {found[how]}")
    _learns(made, stopped)
    return found


def _learns(made: Stage, worker: Worker) -> None:
    fenced = made.ledger.counts["fenced"]
    worker.process.send(signal.SIGCONT)
    made.until(lambda: made.ledger.counts["fenced"] > fenced, 60, "it learns it")


def _all_fenced(made: Stage, engines: list[str]) -> bool:
    states = made.states()
    if not engines:
        raise Failed("no engine is known of it")
    return all(states.get(engine) == "fenced" for engine in engines)


def _owned(made: Stage, engines: list[str]) -> int:
    names = ", ".join(f"'{engine}'" for engine in engines)
    sql = f"SELECT count(*) FROM liveness_deadline WHERE owner_id IN ({names})"
    return made.rows(sql)[0][0]


def _evidence(made: Stage, engines: list[str]) -> str:
    sql = f"SELECT fence_evidence FROM liveness_engine WHERE id = '{engines[0]}'"
    return made.rows(sql)[0][0]
