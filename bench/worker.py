"""One engine in a process of its own, told what to do by lines of JSON on its stdin.

    python -m bench.worker '{"options": {"connection": "sqlite:///x"}, "does": "notes"}'

It answers each command with one line of JSON. What happens meanwhile is noted in
memory, and given out when asked for.
"""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

import liveness
from liveness.db.claims import Claims
from liveness.db.deadlines import Deadlines
from liveness.db.heads import Heads
from liveness.loop import Loop
from tests.processes.program import die_with_parent


class Notes:
    """What happened in this process, by the wall clock that all of them share."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.calls: list[tuple[str, float, float]] = []  # key, due, called
        self.settled: list[tuple[float, int, float]] = []  # when, how many, CPU
        self.adopted: list[tuple[float, int]] = []
        self.beats: list[float] = []
        self.failures: list[str] = []
        self.statements = 0


NOTES = Notes()


class Noop(liveness.Handler):
    """Notes that it was called; adopted when it is orphaned."""

    kind = "noop"
    does = "notes"
    """Or ``nothing``; or ``holds``: the call does not end."""

    def expired(self, deadline: liveness.Deadline) -> None:
        if self.does == "nothing":
            return
        called = time.time()
        NOTES.calls.append((deadline.key, deadline.due_at.timestamp(), called))
        if self.does == "holds":
            threading.Event().wait()


class Timer(Noop):
    kind = "timer"


class Action(Noop):
    """Retriggered when it is orphaned."""

    kind = "action"
    when_orphaned = liveness.WhenOrphaned.RETRIGGER


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def watch() -> None:
    """Note what the statements of this process come to."""
    complete, adopt, failed = Deadlines.complete, Claims.adopt_orphans, Loop._failed
    chain, head = Claims.chain, Heads.claim

    def watched_complete(self: Any, connection: Any, values: Any, **how: Any) -> Any:
        stale = complete(self, connection, values, **how)
        NOTES.settled.append((time.time(), len(values) - len(stale), cpu()))
        return stale

    def watched_chain(
        self: Any, connection: Any, me: str, done: Any, again: bool, found: Any
    ) -> Any:
        stale, claimed = chain(self, connection, me, done, again, found)
        NOTES.settled.append((time.time(), len(done) - len(stale), cpu()))
        return stale, claimed

    def watched_head(
        self: Any, connection: Any, ask: Any, done: Any = (), again: bool = False
    ) -> Any:
        stale, claimed = head(self, connection, ask, done, again)
        if done:
            NOTES.settled.append((time.time(), len(done) - len(stale), cpu()))
        return stale, claimed

    def watched_adopt(
        self: Any, connection: Any, me: str, found: Any, *rest: Any
    ) -> Any:
        taken = adopt(self, connection, me, found, *rest)
        if taken:
            NOTES.adopted.append((time.time(), len(taken)))
        return taken

    def watched_failed(self: Any, error: Exception) -> None:
        NOTES.failures.append(f"{type(error).__name__}: {error}"[:200])
        failed(self, error)

    Deadlines.complete = watched_complete  # type: ignore[method-assign]
    Claims.chain = watched_chain  # type: ignore[method-assign]
    Heads.claim = watched_head  # type: ignore[method-assign]
    Claims.adopt_orphans = watched_adopt  # type: ignore[method-assign]
    Loop._failed = watched_failed  # type: ignore[method-assign]

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def executed(*args: Any) -> None:
        NOTES.statements += 1


class Commands:
    """What can be asked of the process."""

    def __init__(self, live: liveness.Liveness) -> None:
        self._live = live
        running = live._running
        assert running is not None
        self._running = running
        beat = running.heart.on_beat

        def beaten(committed: bool, seconds: float) -> None:
            beat(committed, seconds)
            if committed:
                NOTES.beats.append(time.time())

        running.heart.on_beat = beaten

    def hold(self) -> None:
        """Claim nothing until ``go``."""
        self._running.loop.draining = True
        turns = self._running.loop.turns
        self._running._bell.ring()
        while self._running.loop.turns == turns:
            time.sleep(0.001)

    def go(self) -> dict[str, Any]:
        """Sweep now, and go on."""
        NOTES.clear()
        began = {"began": time.time(), "cpu": cpu()}
        self._running.loop.sweep_soon()
        self._running.loop.draining = False
        self._running._bell.ring()
        return began

    def arm(
        self, count: int, due_in: float, spread: float, kind: str, prefix: str
    ) -> None:
        """Arm so many, due at random times within ``spread`` seconds from then."""
        arms = [
            liveness.Arm(
                kind, f"{prefix}-{n}", due_in=due_in + random.random() * spread
            )
            for n in range(count)
        ]
        self._live.arm_many(arms)

    def notes(self) -> dict[str, Any]:
        return {**vars(NOTES), "cpu": cpu(), "now": time.time()}

    def count(self) -> dict[str, Any]:
        """How many are settled, and how many were adopted."""
        return {
            "settled": sum(count for _, count, _ in NOTES.settled),
            "adopted": sum(count for _, count in NOTES.adopted),
        }

    def clear(self) -> None:
        NOTES.clear()


def serve(commands: dict[str, Callable[..., Any]]) -> None:
    """Answer commands from stdin until it ends."""
    for line in sys.stdin:
        command = json.loads(line)
        say(commands[command.pop("do")](**command) or {})


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str]) -> int:
    die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logging.getLogger("liveness").setLevel(logging.CRITICAL)  # the notes tell
    todo = json.loads(argv[0])
    Noop.does = todo["does"]
    watch()
    with liveness.start(handlers=[Noop, Timer, Action], **todo["options"]) as live:
        commands = Commands(live)
        say({"engine": live.engine_id, "pid": os.getpid()})
        names = ("hold", "go", "arm", "notes", "count", "clear")
        serve({name: getattr(commands, name) for name in names})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
