"""The workload's own list: one append-only file per process, one JSON object a line.

A note is in the kernel's hands before the call returns, so a SIGKILL takes none back.
What a process is about to make true it notes before (``arming``, ``disarming``,
``settling``), what has become true afterwards (``armed``, ``disarmed``).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Note = dict[str, Any]

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds on the clock that all processes of this machine share."""
    return time.clock_gettime(_CLOCK)


class Journal:
    """One process's notes. Any thread may write."""

    def __init__(self, path: Path, **always: Any) -> None:
        """``always`` is part of every note."""
        self._always = always
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, event: str, at: float | None = None, **facts: Any) -> None:
        """Write one note down; ``at`` is when, if not now."""
        moment = now() if at is None else at
        note = {"event": event, "at": moment, "wall": time.time()}
        line = json.dumps({**note, **self._always, **facts})
        os.write(self._file, line.encode() + b"\n")


def read(directory: Path, pattern: str = "*.jsonl") -> list[Note]:
    """The notes of all processes in ``directory``, by time."""
    notes = [note for path in directory.glob(pattern) for note in _read(path)]
    return sorted(notes, key=lambda note: float(note["at"]))


def _read(path: Path) -> Iterator[Note]:
    for line in path.read_bytes().splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # the disk was full, or the machine lost its power
            continue
