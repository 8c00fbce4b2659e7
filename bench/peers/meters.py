"""What a store's server did for those at rest: statements, bytes and CPU.

PostgreSQL serves many at once here, so each database is told apart: its statements by
``pg_stat_statements``, the CPU of its connections by the kernel's account of their
processes, their bytes by the kernel's of their sockets (``ss``). Redis and MariaDB
serve one each, and count themselves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from bench import counters
from bench.servers import Place
from tests.servers import Process

TITLE = re.compile(r"postgres: \S+ (?P<database>\S+) [\d.]+\((?P<port>\d+)\)")
"""How PostgreSQL names the process of a connection."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """Since the server, or the connections, began; or (a difference) between two."""

    statements: float
    bytes: float
    cpu: float

    def __sub__(self, other: Reading) -> Reading:
        return Reading(
            self.statements - other.statements,
            self.bytes - other.bytes,
            self.cpu - other.cpu,
        )


class Meter(Protocol):
    def read(self) -> Reading: ...


class Connections:
    """CPU and bytes of a PostgreSQL server's connections, gone ones too if they were
    seen."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._cpu: dict[tuple[str, int], float] = {}
        self._bytes: dict[tuple[str, str], float] = {}

    def look(self) -> None:
        """To be called now and then."""
        traffic = _traffic(self._server.port)
        for process in self._server.process.family()[1:]:
            with contextlib.suppress(OSError):
                title = Path(f"/proc/{process.pid}/cmdline").read_text()
                if found := TITLE.match(title):
                    database, port = found["database"], found["port"]
                    self._cpu[database, process.pid] = thread_cpu(process.pid)
                    if port in traffic:
                        self._bytes[database, port] = traffic[port]

    def of(self, database: str) -> tuple[float, float]:
        """(CPU seconds, bytes) of a database's."""
        cpu = sum(value for (name, _), value in self._cpu.items() if name == database)
        size = sum(
            value for (name, _), value in self._bytes.items() if name == database
        )
        return cpu, size


class PostgreSQL:
    def __init__(self, place: Place, connections: Connections) -> None:
        self._place = place
        self._connections = connections

    def read(self) -> Reading:
        self._connections.look()
        cpu, size = self._connections.of(self._place.name)
        return Reading(counters.counted(self._place).statements, size, cpu)


class MariaDB:
    """The whole server: it serves nobody else."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def read(self) -> Reading:
        found = counters.counted(self._place)
        size = found.received + found.sent
        return Reading(
            found.statements, size, thread_cpu(self._place.server.process.pid)
        )


class Together:
    """What several read, in one."""

    def __init__(self, parts: Sequence[Meter]) -> None:
        self._parts = parts

    def read(self) -> Reading:
        read = [part.read() for part in self._parts]
        return Reading(
            sum(found.statements for found in read),
            sum(found.bytes for found in read),
            sum(found.cpu for found in read),
        )


class Redis:
    """The whole server."""

    def __init__(self, url: str, process: Process) -> None:
        found = urlsplit(url)
        assert found.hostname and found.port
        self._address = (found.hostname, found.port)
        self._process = process

    def read(self) -> Reading:
        facts = info(self._answer(b"INFO STATS\r\n"))
        size = facts["total_net_input_bytes"] + facts["total_net_output_bytes"]
        cpu = thread_cpu(self._process.pid)
        return Reading(facts["total_commands_processed"], size, cpu)

    def _answer(self, command: bytes) -> str:
        with socket.create_connection(self._address, timeout=5) as sock:
            sock.sendall(command + b"QUIT\r\n")
            return b"".join(iter(lambda: sock.recv(1 << 16), b"")).decode()


def info(text: str) -> dict[str, float]:
    """The numbers in what Redis answers to INFO."""
    pairs = (line.strip().partition(":") for line in text.splitlines())
    found = {}
    for name, _, value in pairs:
        with contextlib.suppress(ValueError):
            found[name] = float(value)
    return found


def thread_cpu(pid: int) -> float:
    """CPU seconds of the process's threads that live, exact where a tick would be too
    coarse."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _traffic(port: int) -> dict[str, float]:
    """Bytes received and sent by a server, by the port of the other end."""
    command = ["ss", "-tinH", f"sport = :{port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return traffic(done.stdout)


def traffic(text: str) -> dict[str, float]:
    """What ``ss -tinH`` says: a line of addresses, a line of counters."""
    lines = text.splitlines()
    found = {}
    for addresses, facts in zip(lines[::2], lines[1::2], strict=True):
        other = addresses.split()[4].rpartition(":")[2]
        sizes = re.findall(r"bytes_(?:sent|received):(\d+)", facts)
        found[other] = float(sum(map(int, sizes)))
    return found


def measured(before: Reading, meter: Meter) -> Reading:
    """What came since ``before``, less what the question itself costs."""
    after = meter.read()
    cost = dataclasses.replace(meter.read() - after, cpu=0.0)
    return after - before - cost
