"""How peers are measured: the same jobs, on the same server, in the same run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from bench.crew import Worker, until
from bench.peers.catalogue import Peer
from bench.peers.home import home
from bench.servers import Servers

LEAD, EACH = 4.0, 0.0025
"""Seconds before the first job is due, and so many more for each job: they are all
handed in by then, and a worker has started."""


def throughput(
    peer: Peer, servers: Servers, count: int, processes: int
) -> tuple[float, float]:
    """(jobs per second, CPU seconds per 1,000 of workers and server), of at least
    ``count`` jobs, or of as many as are enough for it.

    The clock runs from the first call to the last. What each worker had fetched by then
    is not counted, nor is what it takes to start one.
    """
    count = peer.enough(count, processes)
    with home(peer, servers) as at:
        at.do("fill", str(count), "-1", "0")
        used = at.server_cpu()
        command = peer.command("work", at.url)
        workers = [at.crew.start(command) for _ in range(processes)]
        notes = finished(workers, count)
        used = at.server_cpu() - used
        moments = sorted(call[2] for note in notes for call in note["calls"])
        client = sum(note["cpu"] for note in notes)
        client -= sum(worker.facts["cpu"] for worker in workers)
        seconds = max(moments[-1] - moments[0], 1e-3)
        counted = count - peer.batch * processes
        return counted / seconds, (client + used) * 1000 / count


def lateness(peer: Peer, servers: Servers, count: int, seconds: float) -> list[float]:
    """Milliseconds late of each."""
    with home(peer, servers) as at:
        jobs = (str(count), str(LEAD + EACH * count), str(seconds))
        if peer.most == 1:  # it sees only what was there when it started
            at.do("fill", *jobs)
        worker = at.crew.start(peer.command("work", at.url))
        if peer.most > 1:
            time.sleep(1.0)
            at.do("fill", *jobs)
        (note,) = finished([worker], count)
        return [(called - due) * 1000 for _, due, called in note["calls"]]


def finished(workers: Sequence[Worker], count: int) -> list[dict[str, Any]]:
    """Their notes, when so many jobs have run."""
    notes: list[dict[str, Any]] = []

    def all_done() -> bool:
        notes[:] = [worker.ask("notes") for worker in workers]
        return sum(len(note["calls"]) for note in notes) >= count

    until(all_done, f"{count} jobs have run", seconds=120, every=0.5)
    return notes
