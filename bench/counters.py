"""What the server did: its own counters, and its CPU as the kernel counts it.

MariaDB: ``Questions``, ``Rows_read``, ``Bytes_received`` and ``Bytes_sent``.
PostgreSQL: ``pg_stat_statements``, and the rows that ``pg_stat_user_tables`` says were
read of the program's tables; it does not count bytes: the kernel
does, of each socket.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

from bench.servers import Place
from tests.servers import Process

TICKS = os.sysconf("SC_CLK_TCK")

MARIADB = ("Questions", "Rows_read", "Bytes_received", "Bytes_sent")

POSTGRESQL = """
    SELECT
        (SELECT COALESCE(sum(calls), 0) FROM pg_stat_statements s
            JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = current_database()),
        (SELECT COALESCE(sum(seq_tup_read + COALESCE(idx_tup_fetch, 0)), 0)
            FROM pg_stat_user_tables WHERE relname LIKE 'liveness%')
"""


@dataclasses.dataclass(frozen=True)
class Counted:
    """Counters at a moment, or (a difference) between two."""

    seconds: float = 0.0
    statements: float = 0.0
    rows: float = 0.0
    received: float = 0.0
    sent: float = 0.0
    cpu: float = 0.0

    def __sub__(self, other: Counted) -> Counted:
        return Counted(
            *(a - b for a, b in zip(self._values(), other._values(), strict=True))
        )

    def _values(self) -> tuple[float, ...]:
        return dataclasses.astuple(self)


def counted(place: Place) -> Counted:
    """The counters of the place's server now, what asking costs not included."""
    if place.database == "sqlite":
        return Counted(seconds=time.monotonic())
    if place.database == "mariadb":
        statements, rows, received, sent = _mariadb(place)
    else:
        statements, rows = _postgresql(place)
        received = sent = 0.0
    cpu = server_cpu(place.server.process)
    return Counted(time.monotonic(), statements, rows, received, sent, cpu)


def measured(before: Counted, place: Place) -> Counted:
    """What was counted since ``before``, less what the question itself costs."""
    after = counted(place)
    again = counted(place)
    cost = dataclasses.replace(again - after, seconds=0.0, cpu=0.0)
    return after - before - cost


def _mariadb(place: Place) -> list[float]:
    names = ", ".join(f"'{name}'" for name in MARIADB)
    rows = place.server.admin(f"SHOW GLOBAL STATUS WHERE Variable_name IN ({names})")
    values = {name: float(value) for name, value in rows}
    return [values[name] for name in MARIADB]


def _postgresql(place: Place) -> list[float]:
    return [float(value) for value in place.server.admin(POSTGRESQL, place.name)[0]]


def server_cpu(process: Process) -> float:
    """CPU seconds that the server has used, its children included, dead or alive."""
    family = process.family()
    total = 0.0
    for member in family:
        with contextlib.suppress(OSError, ProcessLookupError):
            if len(family) > 1:
                # Exact where it matters: a tick of each of a thousand backends is ten
                # seconds.
                total += _schedstat(member.pid)
            else:
                total += sum(_times(member.pid)[:2])
    if len(family) > 1:
        total += sum(_times(process.pid)[2:])
    return total


def own_cpu() -> float:
    """CPU seconds of this process and its threads."""
    return time.process_time()


def _schedstat(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _times(pid: int) -> list[float]:
    """User and system time of a process, then of its children that are gone."""
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    fields = text.rpartition(")")[2].split()
    return [int(field) / TICKS for field in fields[11:15]]


def traffic(sockets: list[Any]) -> tuple[int, int]:
    """Bytes that the servers have received and sent over ``sockets``, by the kernel."""
    received = sent = 0
    for sock in sockets:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        acked, got = struct.unpack_from("=QQ", info, 120)
        received += acked
        sent += got
    return received, sent
