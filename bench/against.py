"""Peers: other systems doing the same, on the same PostgreSQL (or Redis), in this run.

Jobs that do nothing: how many a second from the first call to the last (without those
that were fetched before), what they cost in CPU, and how late one is that is due at a
time; each is set up for speed as its own documentation says. What members of each cost
at rest, at their defaults. What becomes of jobs whose worker is killed, and of those
whose worker is only slow.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator
from typing import Any

from bench import lateness, machine, rows, throughput
from bench.context import Context
from bench.crew import crew_on
from bench.peers import death, install, measure, rest
from bench.peers.catalogue import PEERS, Peer
from bench.peers.home import tried
from bench.rounds import Row, percentile, row

BATCH = 500


@dataclasses.dataclass(frozen=True)
class Size:
    """``rest``: so many seconds of so many ``members`` of each with nothing to do;
    ``held``: jobs that a worker runs when it is killed, ``deaths`` times."""

    rounds: int
    count: int
    processes: tuple[int, ...]
    late: int
    seconds: float
    members: int
    rest: float
    held: int
    deaths: int


SIZES = {
    "quick": Size(1, 400, (1,), 100, 4, members=2, rest=15, held=200, deaths=1),
    "full": Size(3, 20_000, (1, 2), 2000, 20, members=4, rest=120, held=200, deaths=2),
}


def run(context: Context) -> Iterator[Row]:
    if "postgresql" not in context.databases or not context.peers:
        return
    size: Size = context.size
    peers = install.set_up(context.peers, context.tell)
    if not peers:
        return
    for processes in size.processes:
        yield from _throughput(context, peers, processes)
    yield from _lateness(context, peers)
    idle = [peer for peer in peers if "idle" in peer.does]
    yield from rest.run(context, idle, size.members, size.rest)
    mortal = [peer for peer in peers if "recovery" in peer.does]
    yield from death.run(context, mortal, size.held, size.deaths)


def _throughput(context: Context, peers: list[Peer], processes: int) -> Iterator[Row]:
    """One row each; the floor is the raw driver, as in the part throughput."""
    size: Size = context.size
    load = machine.load()
    floors: list[throughput.Run] = []
    ours: list[throughput.Run] = []
    theirs: dict[str, list[Any]] = {}
    able = [peer for peer in peers if "throughput" in peer.does]
    fit = [peer for peer in able if peer.most >= processes]
    for number in range(size.rounds):
        where = f"peers, {processes} processes, round {number + 1}"
        context.tell(f"{where}: liveness")
        bare, own = _own(context, processes)
        floors.append(bare)
        ours.append(own)
        for peer in fit:
            context.tell(f"{where}: {peer.name}")
            found = tried(
                lambda peer=peer: measure.throughput(
                    peer, context.servers, size.count, processes
                )
            )
            if found is not None:
                theirs.setdefault(peer.name, []).append(found)
    name = f"{processes} process{'es' * (processes > 1)}"
    rates = [r.rate for r in floors]
    medians = [statistics.median(r for r, _ in found) for found in theirs.values()]
    fastest = max(medians, default=None)
    yield row(f"liveness, {name}", "postgresql", "/s", [r.rate for r in ours], rates)
    if fastest is not None:
        yield row(
            f"liveness, {name}, to the fastest peer",
            "postgresql",
            "/s",
            [r.rate for r in ours],
            [fastest] * len(ours),
            goal="ratio >= 1.2",
            load=load,
        )
    cpu = [r.cpu for r in ours]
    yield row(f"liveness, {name}: CPU per 1,000", "postgresql", "s", cpu, load=load)
    for peer in fit:
        found = theirs.get(peer.name)
        if not found:
            continue
        where = peer.where
        note = f"a job whose worker dies: {peer.promise}"
        if not peer.safe:
            note = f"loses work; {note}"
        label = f"{peer.name}{'' if peer.safe else ' (!)'}, {name}"
        values = [rate for rate, _ in found]
        yield row(
            label, where, "/s", values, rates[: len(values)], load=load, note=note
        )
        costs = [cost for _, cost in found]
        yield row(f"{label}: CPU per 1,000", where, "s", costs, load=load)


def _own(context: Context, processes: int) -> tuple[throughput.Run, throughput.Run]:
    """The floor and this program: rows that anybody may claim, as in a queue."""
    size: Size = context.size
    count = max(size.count, 4 * BATCH * processes)
    with context.servers.place("postgresql") as place, crew_on(place) as crew:
        floors = crew.floors(processes)
        engines = crew.engines(processes, does="nothing", batch_size=BATCH)
        rows.clear_deadlines(place)
        bare = throughput._bare(crew, floors, "anybody's", count, BATCH)
        own = throughput._ours(crew, engines, "anybody's", count)
        return bare, own


def _lateness(context: Context, peers: list[Peer]) -> Iterator[Row]:
    size: Size = context.size
    load = machine.load()
    late: dict[str, list[list[float]]] = {}
    timed = [peer for peer in peers if "lateness" in peer.does]
    for number in range(size.rounds):
        where = f"peers, lateness, round {number + 1}"
        context.tell(f"{where}: liveness")
        alone = lateness.Size(1, size.late, size.seconds, (), 0, 0, 0)
        with context.servers.place("postgresql") as place, crew_on(place) as crew:
            own = lateness._ours(crew, alone, "nothing else")
        late.setdefault("liveness", []).append(own.late)
        for peer in timed:
            context.tell(f"{where}: {peer.name}")
            found = tried(
                lambda peer=peer: measure.lateness(
                    peer, context.servers, size.late, size.seconds
                )
            )
            if found is not None:
                late.setdefault(peer.name, []).append(found)
    for name, runs in late.items():
        peer = PEERS.get(name)
        where = peer.where if peer else "postgresql"
        for share in (0.5, 0.99):
            values = [percentile(found, share) for found in runs]
            yield row(f"{name}: late, p{share * 100:g}", where, "ms", values, load=load)
