"""What the engines of an endurance run did: one line per fact, a file per process.

A line is one write to a file opened with O_APPEND: a process that is killed leaves
whole lines. Fields are separated by tabs: what, when (monotonic, the same in all
processes of this boot), the engine, the promise (key and arm token), a number, a text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from liveness import Deadline
from tests.processes.journal import now


class Fact(NamedTuple):
    """One line. ``number`` and ``text`` are what else there is, if anything."""

    what: str
    at: float
    who: str
    promise: str
    number: float = 0.0
    text: str = ""


def promise_of(deadline: Deadline) -> str:
    """Names one promise: a key may be armed again, with another arm token."""
    return name_of(deadline.key, deadline.arm_token)


def name_of(key: str, arm_token: int) -> str:
    return f"{key}/{arm_token:x}"


class Pen:
    """Writes the facts of one process."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(
        self,
        what: str,
        who: str,
        *promises: str,
        number: float = 0.0,
        text: str = "",
        at: float | None = None,
    ) -> None:
        """One fact, of each of those promises (or of none), of now or of ``at``."""
        at = now() if at is None else at
        lines = [
            f"{what}\t{at:.6f}\t{who}\t{promise}\t{number!r}\t{_plain(text)}\n"
            for promise in promises or ("",)
        ]
        os.write(self._fd, "".join(lines).encode())


class Reader:
    """Reads all the files of a folder, as they grow."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}

    def new(self) -> Iterator[Fact]:
        """The facts since the last call; those of one process in their order."""
        for path in sorted(self._folder.glob("*.facts")):
            with open(path, "rb") as file:
                file.seek(self._read.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.decode().splitlines():
                yield _fact(line.split("\t"))


def _fact(fields: list[Any]) -> Fact:
    what, at, who, promise, number, text = fields
    return Fact(what, float(at), who, promise, float(number), text)


def _plain(text: str) -> str:
    return " ".join(text.split())[:300]
