"""Crash points: every statement that an operation sends is one, three times over.

An operation runs in a process of its own. It is run once to count its statements
(``COMMIT`` is one), and then again for each: killed before it, killed after it, and
with the answer to it lost, whereupon the program goes on. So the list is never out of
date.
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa

from tests.processes.program import die_with_parent
from tests.rules.faults import Away

COUNTED: dict[str, tuple[int, int]] = {}
"""Points struck at, and points there are, by operation and database."""

BEFORE, AFTER, LOST = "killed before", "killed after", "answer lost at"


@dataclasses.dataclass(frozen=True)
class Point:
    """Where it happens: at the ``number``-th statement, counted from 1."""

    number: int
    how: str

    def __str__(self) -> str:
        return f"{self.how} statement {self.number}"


@dataclasses.dataclass(frozen=True)
class Story:
    """What the process told before it ended, and the statements that it sent."""

    facts: list[str]
    statements: list[str]
    killed: bool

    def of(self, word: str) -> set[str]:
        """What it said after that word, such as the keys that it had ``armed``."""
        split = (fact.partition(" ") for fact in self.facts)
        return {rest for first, _, rest in split if first == word}


class Trace:
    """Counts the statements of this process, and strikes at one of them."""

    def __init__(self, tell: Callable[[str], None], point: Point | None) -> None:
        self._tell = tell
        self._point = point
        self._count = 0

    def begin(self) -> None:
        sa.event.listen(sa.Engine, "before_cursor_execute", self._before)
        sa.event.listen(sa.Engine, "after_cursor_execute", self._after)

    def end(self) -> None:
        sa.event.remove(sa.Engine, "before_cursor_execute", self._before)
        sa.event.remove(sa.Engine, "after_cursor_execute", self._after)

    def _before(self, conn: Any, cursor: Any, statement: str, *args: Any) -> None:
        self._count += 1
        self._tell(f"sent {' '.join(statement.split())[:60]}")
        if self._is(BEFORE):
            os.kill(os.getpid(), signal.SIGKILL)

    def _after(self, conn: Any, *args: Any) -> None:
        if self._is(AFTER):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._is(LOST):
            self._point = None
            conn.invalidate()
            raise Away

    def _is(self, how: str) -> bool:
        return self._point == Point(self._count, how)


def run(work: Callable[[Trace, Callable[[str], None]], None], point: Point | None):
    """``work(trace, tell)`` in a child process; what it told, however it ended."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)

        def tell(fact: str) -> None:
            os.write(writing, f"{fact}\n".encode())

        try:
            die_with_parent()
            random.seed(0)  # the same statements each time
            work(Trace(tell, point), tell)
            os._exit(0)
        except BaseException:
            tell("error " + traceback.format_exc().replace("\n", " | "))
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = pipe.read().splitlines()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sent = [line.removeprefix("sent ") for line in lines if line.startswith("sent ")]
    told = [line for line in lines if not line.startswith("sent ")]
    return Story(told, sent, killed=status == -signal.SIGKILL)


def points(statements: int) -> Iterator[Point]:
    """Every point of an operation that sends so many."""
    for number in range(1, statements + 1):
        for how in (BEFORE, AFTER, LOST):
            yield Point(number, how)
