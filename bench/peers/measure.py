"""How peers are measured: the same jobs, on the same server, in the same run."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import counters
from bench.crew import ROOT, Crew, Worker, crew_on, until
from bench.servers import Place, Servers

HERE = Path(__file__).parent
ENVIRONMENT = ROOT / ".venv-peers"
NODE = HERE / "node"
LEAD = 8.0
"""Seconds before the first job is due; a worker has started by then."""


@dataclasses.dataclass(frozen=True)
class Peer:
    """``promise``: what becomes of a job whose process dies, as documented; ``broker``:
    not in the database but in Redis; ``most``: processes that may share the work;
    ``batch``: jobs that one process may have fetched before it calls the first."""

    name: str
    promise: str
    safe: bool
    node: bool = False
    broker: bool = False
    most: int = 8
    batch: int = 1

    def enough(self, count: int, processes: int) -> int:
        """At least ``count``, and so many that what was fetched before the first call
        is the smaller part."""
        return max(count, 4 * self.batch * processes)

    def command(self, *arguments: str) -> list[str]:
        if self.node:
            return ["node", str(NODE / f"{self.name}.js"), *arguments]
        python = ENVIRONMENT / "bin" / "python"
        return [str(python), "-m", f"bench.peers.{self.name}", *arguments]


PEERS = {
    peer.name: peer
    for peer in (
        Peer("graphile", "run again after 4 hours", True, node=True, batch=500),
        Peer(
            "pgboss",
            "run again after 15 min, running or not",
            True,
            node=True,
            batch=4000,
        ),
        Peer(
            "pgqueuer",
            "run again after its heartbeat's timeout (30 s)",
            True,
            batch=1000,
        ),
        Peer("procrastinate", "stays 'doing' unless a task of one's own looks", False),
        Peer("apscheduler", "gone: a job is removed before it runs", False, most=1),
        Peer("celery", "run again after 1 hour (acks_late)", True, broker=True),
    )
}


class Missing(Exception):
    """A peer cannot be had here; the text says why."""


def set_up(names: Sequence[str], tell: Any) -> list[Peer]:
    """Install what the peers need, in environments of their own.

    :raises Missing: it cannot be had.
    """
    peers = [PEERS[name] for name in names]
    if any(not peer.node for peer in peers):
        _python(tell)
    if any(peer.node for peer in peers):
        _node(tell)
    if any(peer.broker for peer in peers) and shutil.which("redis-server") is None:
        raise Missing("Celery needs a Redis server (apt-get install redis-server)")
    return peers


def _python(tell: Any) -> None:
    wanted = HERE / "requirements.txt"
    stamp = ENVIRONMENT / "stamp"
    if stamp.exists() and stamp.stat().st_mtime >= wanted.stat().st_mtime:
        return
    tell(f"installing {wanted.relative_to(ROOT)} into {ENVIRONMENT.name}")
    _call([sys.executable, "-m", "venv", str(ENVIRONMENT)])
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    _call([*pip, "--disable-pip-version-check", "-r", str(wanted)])
    stamp.touch()


def _node(tell: Any) -> None:
    if shutil.which("npm") is None:
        raise Missing("graphile and pgboss need Node 20 (apt-get install nodejs npm)")
    wanted = NODE / "package.json"
    stamp = NODE / "node_modules" / ".stamp"
    if stamp.exists() and stamp.stat().st_mtime >= wanted.stat().st_mtime:
        return
    tell(f"installing {wanted.relative_to(ROOT)}")
    _call(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=NODE)
    stamp.touch()


def _call(command: list[str], cwd: Path = ROOT) -> None:
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise Missing(f"{' '.join(command[:4])} failed:\n{done.stdout[-1500:]}")


@contextlib.contextmanager
def home(peer: Peer, servers: Servers) -> Iterator[tuple[Crew, str]]:
    """A fresh database (or Redis) for the peer, prepared; its processes end with the
    block."""
    with servers.place("postgresql", tables=False) as place, crew_on(place) as crew:
        with _redis() if peer.broker else contextlib.nullcontext(place.url) as url:
            _do(peer, "prepare", url)
            yield crew, url
            crew.close()


@contextlib.contextmanager
def _redis() -> Iterator[str]:
    """A private Redis that flushes each write."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="liveness-redis-")
    durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    where = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
    server = subprocess.Popen(
        ["redis-server", *where, *durable], stdout=subprocess.DEVNULL
    )
    try:
        until(lambda: _listens(port), "Redis is up")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return not sock.connect_ex(("127.0.0.1", port))


def _do(peer: Peer, *arguments: str) -> None:
    done = subprocess.run(
        peer.command(*arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise Missing(f"{peer.name} {arguments[0]} failed:\n{done.stderr[-1500:]}")


def throughput(peer: Peer, servers: Servers, count: int, processes: int) -> Any:
    """(jobs per second, CPU seconds per 1,000 of workers and server), of at least
    ``count`` jobs.

    The clock runs from the first call to the last. What each worker had fetched by then
    is not counted, nor is what it takes to start one.
    """
    count = peer.enough(count, processes)
    with home(peer, servers) as (crew, url):
        _do(peer, "fill", url, str(count), "-1", "0")
        used = counters.server_cpu(crew.place.server.process)
        workers = [crew.start(peer.command("work", url)) for _ in range(processes)]
        notes = _finished(workers, count)
        used = counters.server_cpu(crew.place.server.process) - used
        moments = sorted(call[2] for note in notes for call in note["calls"])
        client = sum(note["cpu"] for note in notes)
        client -= sum(worker.facts["cpu"] for worker in workers)
        seconds = max(moments[-1] - moments[0], 1e-3)
        counted = count - peer.batch * processes
        return counted / seconds, (client + used) * 1000 / count


def lateness(peer: Peer, servers: Servers, count: int, seconds: float) -> list[float]:
    """Milliseconds late of each."""
    with home(peer, servers) as (crew, url):
        if peer.most == 1:  # it sees only what was there when it started
            _do(peer, "fill", url, str(count), str(LEAD), str(seconds))
        worker = crew.start(peer.command("work", url))
        if peer.most > 1:
            time.sleep(1.0)
            _do(peer, "fill", url, str(count), str(LEAD), str(seconds))
        (note,) = _finished([worker], count)
        return [(called - due) * 1000 for _, due, called in note["calls"]]


def _finished(workers: Sequence[Worker], count: int) -> list[dict[str, Any]]:
    """Their notes, when all jobs have run."""
    notes: list[dict[str, Any]] = []

    def all_done() -> bool:
        notes[:] = [worker.ask("notes") for worker in workers]
        return sum(len(note["calls"]) for note in notes) >= count

    until(all_done, f"{count} jobs have run", seconds=120, every=0.5)
    return notes


__all__ = ["PEERS", "Missing", "Peer", "Place", "lateness", "set_up", "throughput"]
