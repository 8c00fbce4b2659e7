"""What the processes of a test did: one JSON object per line, appended by all.

A line is one write to a file opened with O_APPEND, so a process that is killed leaves
whole lines, and the lines of several processes do not mix.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

VARIABLE = "LIVENESS_TEST_JOURNAL"


def now() -> float:
    """Monotonic seconds, the same in every process of this boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def note(what: str, **facts: Any) -> None:
    """Append one event of this process, under the name it was started with."""
    line = {
        "at": now(),
        "wall": time.time(),
        "pid": os.getpid(),
        "who": os.environ.get("LIVENESS_TEST_NAME", ""),
        "what": what,
        **facts,
    }
    fd = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, (json.dumps(line) + "\n").encode())
    finally:
        os.close(fd)


class Journal:
    """The same file, as the test reads it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._offset = 0
        self._events: list[dict[str, Any]] = []

    def events(self, what: str | None = None, **facts: Any) -> list[dict[str, Any]]:
        """Every event so far of that sort with those facts, oldest first."""
        self._read()
        return [
            event
            for event in self._events
            if what in (None, event["what"])
            and all(event.get(name) == value for name, value in facts.items())
        ]

    def _read(self) -> None:
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._events += [json.loads(line) for line in whole.splitlines()]
