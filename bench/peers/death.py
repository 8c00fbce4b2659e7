"""Recovery: a worker is killed while it runs jobs; when do others run them again, and
do others run them while it still lives?

Each has the same lease where it knows one, and looks for the dead as often as it can be
told to. When nothing more is found for the lease and some seconds, what is left counts
as not found; where its documentation says when it would be, that is given, and said so.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from bench import machine, recovery, rows
from bench.context import Context
from bench.crew import Worker, another_pid_namespace, crew_on, until
from bench.peers.catalogue import Peer
from bench.peers.home import Home, home, tried
from bench.rounds import Row, row
from bench.servers import Servers
from liveness import Settings

OPTIONS = recovery.SIZES["quick"].lost
LEASE: float = OPTIONS["ttl"]
SLACK = 6.0
"""Seconds beyond the lease in which the dead are found by those that look."""

SWEEPS = 2.5 * Settings().sweep_interval
"""Seconds after which each engine has looked at each other."""

Times = list[float]


@dataclasses.dataclass
class Found:
    """Of ``held`` jobs, ``run_again`` had another start. Times are in seconds, one for
    each such job: ``again`` from the kill to its next start by another worker;
    ``twice`` from its start to its next one while the first still ran; ``restarted``
    from the start of a process with the dead one's name."""

    held: int
    run_again: int = 0
    again: Times = dataclasses.field(default_factory=list)
    twice: Times = dataclasses.field(default_factory=list)
    restarted: Times = dataclasses.field(default_factory=list)


def run(context: Context, peers: list[Peer], count: int, rounds: int) -> Iterator[Row]:
    """Rows of this program, of all peers' recoveries at the same time."""
    load = machine.load()
    found: dict[str, list[Found]] = {}
    for number in range(rounds):
        where = f"peers, recovery, round {number + 1}"
        for name, case in CASES.items():
            context.tell(f"{where}: {name}")
            found.setdefault(name, []).append(case(context.servers, count))
        context.tell(f"{where}: all peers")
        with ThreadPoolExecutor(len(peers) or 1) as pool:
            waiting = {
                peer.name: pool.submit(
                    tried, lambda p=peer: measure(p, context.servers, count)
                )
                for peer in peers
            }
        for name, future in waiting.items():
            if (result := future.result()) is not None:
                found.setdefault(name, []).append(result)
    known = {peer.name: peer for peer in peers}
    for name, runs in found.items():
        yield from rows_of(name, known.get(name), runs, load)


def rows_of(
    name: str, peer: Peer | None, runs: list[Found], load: float
) -> Iterator[Row]:
    """What became of its jobs, or of its members."""
    where = peer.where if peer else "postgresql"
    held = runs[0].held
    words = "run again", "run twice at the same time"
    if peer and "throughput" not in peer.does:
        words = "gone when it is dead", "gone while it lives"

    def line(what: str, unit: str, values: Times, goal: str | None = None) -> Row:
        note = peer.recovery if peer and what.startswith(words[0]) else ""
        text = f"{name}: {what}"
        return row(text, where, unit, values, goal=goal, load=load, note=note)

    again = [float(found.run_again) for found in runs]
    yield line(f"{words[0]}, of {held}", "", again)
    twice = [float(len(found.twice)) for found in runs]
    yield line(f"{words[1]}, of {held}", "", twice, "value <= 0")
    for how, parts in (
        ("after the death", [found.again for found in runs]),
        ("after its start, dead or alive", [found.twice for found in runs]),
        ("after a restart by its name", [found.restarted for found in runs]),
    ):
        if all(parts):
            yield line(f"first, {how}", "s", [min(times) for times in parts])
            yield line(f"last, {how}", "s", [max(times) for times in parts])
    if peer and peer.documented and not any(again):
        text = f"{name}: as documented, not measured"
        note = f"none was run again within {LEASE + SLACK:g} s"
        yield row(text, where, "s", [peer.documented], load=load, note=note)


def measure(peer: Peer, servers: Servers, count: int) -> Found:
    """Kill a worker of the peer's that holds so many jobs, or as many as it can."""
    count = min(count, peer.held)
    with home(peer, servers) as at:
        if "throughput" not in peer.does:
            return _member(at)
        shared = peer.most > 1
        if not shared:  # it sees only what was there when it started
            at.do("fill", str(count), "-1", "0")
        victim = _start(at, "victim", holds=True)
        if shared:
            at.do("fill", str(count), "-1", "0")
        until(lambda: len(starts([victim])) >= count, f"{count} jobs are held")
        others = [_start(at, "rescuer", holds=False)] if shared else []
        alive = LEASE + SLACK if shared else 0.0
        found = kill(victim, others, count, alive, patience=alive)
        if peer.restarts and found.run_again < count:
            found.restarted = _restarted(at, others, count)
            found.run_again += len(found.restarted)
        return found


def kill(
    victim: Worker, others: Sequence[Worker], held: int, alive: float, patience: float
) -> Found:
    """Let it live for so long, kill it, and wait until others have run what it held, or
    have found nothing more for so long."""
    time.sleep(alive)
    before = starts([victim, *others])
    died = victim.kill()
    twice = {key: s[1] - s[0] for key, s in before.items() if len(s) > 1}

    def again() -> dict[str, float]:
        later = {
            k: [m - died for m in s if m > died] for k, s in starts(others).items()
        }
        return {key: moments[0] for key, moments in later.items() if moments}

    wait(lambda: len(again().keys() | twice.keys()), held, patience)
    found = again()
    both = len(found.keys() | twice.keys())
    return Found(held, both, list(found.values()), list(twice.values()))


def _member(at: Home) -> Found:
    """The same of a member of a group: it is gone when another sees it leave."""
    victim, other = (_start(at, name, holds=True) for name in ("victim", "rescuer"))
    return kill(victim, [other], 1, LEASE + SLACK, LEASE + SLACK)


def _restarted(at: Home, others: list[Worker], held: int) -> Times:
    """Seconds from the start of a process with the dead one's name; what it finds may
    go to the others."""
    began = time.time()
    others.append(_start(at, "victim", holds=False))
    wait(lambda: len(starts(others)), held, LEASE + SLACK)
    later = (moments[-1] - began for moments in starts(others).values())
    return [seconds for seconds in later if seconds > 0]


def _start(at: Home, name: str, holds: bool) -> Worker:
    words = ("recover", at.url, str(LEASE), name, str(int(holds)))
    return at.crew.start(at.peer.command(*words))


def starts(workers: Sequence[Worker]) -> dict[str, Times]:
    """When each job was called by any of them, by its key, in order."""
    found: dict[str, Times] = {}
    for worker in workers:
        for key, _, moment in worker.ask("notes")["calls"]:
            found.setdefault(key, []).append(moment)
    return {key: sorted(moments) for key, moments in found.items()}


def wait(count: Callable[[], int], wanted: int, patience: float) -> None:
    """Until the count is as wanted, or has not grown for so long: both are results."""
    seen, since = count(), time.monotonic()
    while seen < wanted and time.monotonic() - since < patience:
        time.sleep(patience / 40)
        now = count()
        if now > seen:
            seen, since = now, time.monotonic()


def _guards(servers: Servers, count: int, lost: bool) -> Found:
    """This program: the work of a guard, which is done again if its engine dies."""
    prefix = another_pid_namespace() if lost else []
    options = OPTIONS if lost else {}
    with servers.place("postgresql") as place, crew_on(place) as crew:
        others = crew.engines(recovery.SURVIVORS, **options)
        (victim,) = crew.engines(1, prefix or [], **options)
        rows.load(place, count, [victim.engine], due_in=3600.0, kind="action")
        alive = LEASE + SLACK if lost else SWEEPS
        return kill(victim, others, count, alive, LEASE + SLACK)


def _handlers(servers: Servers, count: int) -> Found:
    """This program: jobs that were nobody's, in handlers that do not end."""
    options = {"handler_threads": count, "batch_size": count}
    with servers.place("postgresql") as place, crew_on(place) as crew:
        (victim,) = crew.engines(1, does="holds", **options)
        rows.load(place, count, due_in=-1.0)
        until(lambda: len(starts([victim])) >= count, f"{count} jobs are held")
        others = crew.engines(recovery.SURVIVORS)
        return kill(victim, others, count, SWEEPS, LEASE + SLACK)


CASES: dict[str, Callable[[Servers, int], Found]] = {
    "liveness, same host": lambda servers, count: _guards(servers, count, lost=False),
    "liveness, same host, in handlers": _handlers,
    "liveness, lost host": lambda servers, count: _guards(servers, count, lost=True),
}
