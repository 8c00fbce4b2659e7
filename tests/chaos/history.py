"""Histories: what a process did, line by line, as JSON.

A line is one write to a file opened with O_APPEND: a process that is killed leaves
whole lines, and what is written before an effect is there if the effect is.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_file: int | None = None
_always: dict[str, Any] = {}


def now() -> float:
    """Seconds on a clock that every process of this machine shares, that nobody can
    set, and that goes on while a process is stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def begin(path: str, **always: Any) -> None:
    """From now on this process's history is in that file; ``always`` is in each line
    of it."""
    global _file, _always
    _file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    _always = {**always, "pid": os.getpid()}


def note(what: str, **facts: Any) -> float:
    """Add a line; return its moment."""
    assert _file is not None, "no history was begun"
    at = now()
    line = {"at": at, "what": what, **_always, **facts}
    os.write(_file, (json.dumps(line, separators=(",", ":")) + "\n").encode())
    return at


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """Every line of every history in the folder; ``where`` is its file and number."""
    for path in sorted(folder.glob("*.jsonl")):
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.endswith("\n"):  # or else the disk was full
                    yield {**json.loads(line), "where": f"{path.name}:{number}"}
