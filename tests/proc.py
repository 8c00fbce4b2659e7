"""Processes by pid and start time, as /proc tells them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Stat(NamedTuple):
    state: str
    parent: int
    session: int
    started: int


def stat_of(pid: int) -> Stat | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            # The command's name may itself hold blanks and brackets.
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Stat(fields[0], int(fields[1]), int(fields[3]), int(fields[19]))


def everybody() -> Iterator[tuple[int, Stat]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = stat_of(int(name))
            if stat is not None:
                yield int(name), stat


class Process(NamedTuple):
    """A pid alone may be somebody else by now; the start time tells."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        stat = stat_of(pid)
        return cls(pid, stat.started if stat else 0)

    @property
    def state(self) -> str | None:
        stat = stat_of(self.pid)
        if stat is None or stat.started != self.started or stat.state in "ZX":
            return None
        return stat.state

    @property
    def alive(self) -> bool:
        return self.state is not None

    def send(self, signum: int) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def family(self) -> list[Process]:
        """This process, then its children."""
        if not self.alive:
            return []
        children = [
            Process(p, s.started) for p, s in everybody() if s.parent == self.pid
        ]
        return [self, *children]


def until(condition: Callable[[], object], seconds: float, step: float = 0.02) -> bool:
    """Wait for ``condition``; whether it came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(step)
    return True


def gone(processes: list[Process], seconds: float) -> bool:
    return until(lambda: not any(p.alive for p in processes), seconds)
