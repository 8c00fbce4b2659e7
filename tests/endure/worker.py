"""One process of an endurance run, with one engine or many.

    python -m tests.endure.worker '{"name": ..., "engines": 1, "options": {...}, ...}'

On stdin it takes one JSON object per line: ``{"do": "abandon"}`` lets one engine go as
a SIGKILL would, ``{"do": "drain"}`` stops one, and each is replaced by a new
incarnation. So is an engine that was fenced. The end of stdin ends the process, engines
drained.
"""

from __future__ import annotations

import json
import logging
import random
import signal
import sys
import threading
import time
from typing import Any

from liveness import Liveness, Settings
from liveness.exceptions import LivenessError
from tests.endure.journal import Pen
from tests.endure.work import Action, Host, Timer, watch_settlements
from tests.processes.program import die_with_parent


class Member:
    """One engine, and its host program."""

    def __init__(self, todo: dict[str, Any], pen: Pen, name: str) -> None:
        self.name = name
        self._pen = pen
        rng = random.Random(f"{todo['seed']} {name}")
        self.live = Liveness(Settings.of(**todo["options"]))
        self.live.add_handler(Timer(pen, rng))
        self.live.add_handler(Action(pen, rng))
        self.live.on_fenced(self._fenced)
        self.over = threading.Event()
        self.host = Host(self.live, pen, rng, name, todo["rate"])

    def start(self, stock: int) -> None:
        self.live.start()
        self._pen.note("started", self.live.engine_id, text=self.name)
        self.host.start(stock)

    def drain(self) -> None:
        self._pen.note("stopping", self.live.engine_id)
        self.host.stop()
        self.live.stop()

    def abandon(self) -> None:
        """What a SIGKILL leaves behind, as far as that goes inside of a process: a row
        that says it lives, and nothing that moves."""
        self._pen.note("abandoned", self.live.engine_id)
        self.host.stop()
        running = self.live._running
        assert running is not None
        running.loop.stopping = True
        running.heart.stop()
        running._bell.ring()
        running._thread.join(30)
        running.trust.drop()
        running.runner.spend_all()
        running.close()

    def _fenced(self, reason: str) -> None:
        self._pen.note("fenced", self.live.engine_id, text=reason)
        self.over.set()


class Process:
    """The engines of this process."""

    def __init__(self, todo: dict[str, Any]) -> None:
        self._todo = todo
        self._pen = Pen(todo["facts"])
        self._rng = random.Random(f"{todo['seed']} {todo['name']} process")
        self._born = 0
        self.members: list[Member] = []
        watch_settlements(self._pen)

    def begin(self) -> None:
        for _ in range(self._todo["engines"]):
            self._add(self._todo["stock"])
        for member in self.members:
            member.host.ready.wait()
        self._pen.note("ready", self._todo["name"])

    def replace(self, how: str) -> None:
        """End one engine so, and begin another."""
        member = self._rng.choice(self.members)
        self.members.remove(member)
        getattr(member, how)()
        self._add(0)

    def replace_the_fenced(self) -> None:
        for member in [m for m in self.members if m.over.is_set()]:
            self.members.remove(member)
            member.drain()
            self._add(0)

    def end(self) -> None:
        threads = [threading.Thread(target=m.drain) for m in self.members]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _add(self, stock: int) -> None:
        self._born += 1
        name = f"{self._todo['name']}.{self._born}"
        while True:
            member = Member(self._todo, self._pen, name)
            try:
                member.start(stock)
            except LivenessError as error:  # no database now
                logging.warning("%s does not start: %s", name, error)
                time.sleep(1)
            else:
                self.members.append(member)
                return


def main() -> int:
    die_with_parent()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    todo = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    process = Process(todo)
    process.begin()
    commands: list[dict[str, Any] | None] = []
    threading.Thread(target=_read, args=(commands,), daemon=True).start()
    while True:
        process.replace_the_fenced()
        if not commands:
            time.sleep(0.2)
            continue
        command = commands.pop(0)
        if command is None:
            process.end()
            return 0
        process.replace(command["do"])


def _read(commands: list[dict[str, Any] | None]) -> None:
    for line in sys.stdin:
        commands.append(json.loads(line))
    commands.append(None)


if __name__ == "__main__":
    sys.exit(main())
