"""What a run ran on: without that, no number means anything."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import liveness
from bench import servers

PACKAGES = ("SQLAlchemy", "PyMySQL", "psycopg", "oslo.db")


def describe() -> dict[str, Any]:
    """The machine, its load now, and the versions of what does the work."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * _pages() / 2**30, 1),
        "load": [round(number, 2) for number in os.getloadavg()],
        "fsync_ms": fsync_ms(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "liveness": _revision(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def describe_server(name: str, server: Any) -> dict[str, Any]:
    """One server's version, and the settings that it was started with."""
    if name == "sqlite":
        import sqlite3

        version = sqlite3.sqlite_version
    else:
        version = str(server.admin("SELECT VERSION()")[0][0])
        version = version.partition(" (")[0].removeprefix("PostgreSQL ")
    return {"version": version, "settings": list(servers.KINDS[name].settings)}


def load() -> float:
    """Runnable processes, a mean over the last minute."""
    return round(os.getloadavg()[0], 2)


def fsync_ms(tries: int = 50) -> float:
    """Milliseconds that a write of 4 KiB takes to reach the disk, the median."""
    taken = []
    with tempfile.TemporaryFile(prefix="liveness-") as file:
        for number in range(tries):
            os.pwrite(file.fileno(), bytes(4096), number * 4096)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return round(statistics.median(taken) * 1000, 3)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _pages() -> int:
    return os.sysconf("SC_PHYS_PAGES")


def _revision() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    revision = done.stdout.strip()
    return f"{liveness.__version__} {revision}".strip()
