"""Where a peer lives while it is measured: fresh stores, gone with the block."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import TypeVar

from bench import counters
from bench.crew import ROOT, Crew, Lost, crew_on, until
from bench.peers.catalogue import Peer
from bench.peers.install import Missing
from bench.servers import Servers
from tests.servers import Process, ServerError

LIMIT = 600.0
"""Seconds after which a command is given up."""


@dataclasses.dataclass(frozen=True)
class Redis:
    """A private Redis that flushes each write."""

    url: str
    process: Process


@dataclasses.dataclass(frozen=True)
class Home:
    """``url``: of the peer's store; of both, with a blank between them, for one that
    has two."""

    peer: Peer
    crew: Crew
    redis: Redis | None
    url: str

    def do(self, *arguments: str) -> None:
        """Run a command of the peer's to its end. :raises Missing: it fails."""
        command, *rest = arguments
        try:
            done = subprocess.run(
                self.peer.command(command, self.url, *rest),
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=LIMIT,
            )
        except subprocess.TimeoutExpired as error:
            raise Missing(f"{self.peer.name} {command}: {LIMIT:g} s") from error
        if done.returncode:
            raise Missing(f"{self.peer.name} {command} failed:\n{done.stderr[-1500:]}")

    def server_cpu(self) -> float:
        """CPU seconds that its stores' servers have used."""
        used = 0.0
        if "postgresql" in self.peer.stores:
            used += counters.server_cpu(self.crew.place.server.process)
        if self.redis is not None:
            used += counters.server_cpu(self.redis.process)
        return used


@contextlib.contextmanager
def home(peer: Peer, servers: Servers) -> Iterator[Home]:
    """Fresh stores for the peer, prepared; its processes end with the block."""
    with contextlib.ExitStack() as stack:
        database = "mariadb" if "mariadb" in peer.stores else "postgresql"
        place = stack.enter_context(servers.place(database, tables=False))
        crew = stack.enter_context(crew_on(place))
        redis = stack.enter_context(_redis()) if "redis" in peer.stores else None
        urls = {database: place.url, "redis": redis.url if redis else ""}
        made = Home(peer, crew, redis, " ".join(urls[name] for name in peer.stores))
        made.do("prepare")
        yield made
        crew.close()


@contextlib.contextmanager
def _redis() -> Iterator[Redis]:
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
        yield Redis(f"redis://127.0.0.1:{port}/0", Process.of(server.pid))
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return not sock.connect_ex(("127.0.0.1", port))


T = TypeVar("T")


def tried(measured: Callable[[], T]) -> T | None:
    """What was measured; None, and a word on stderr, when the peer did not do it."""
    try:
        return measured()
    except (Missing, Lost, ServerError) as error:
        print(f"\nNot measured: {error}", file=sys.stderr)
        return None
