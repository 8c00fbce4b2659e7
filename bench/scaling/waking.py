"""``python -m bench.scaling.waking``: what a statement costs a server that has slept.

The calibration asks in a row; engines at rest ask now and then, each on a connection
of its own. The same statements both ways, as CPU of a real MariaDB."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

from bench import counters, machine
from bench.context import Progress
from bench.driven import Herd
from bench.report import RESULTS
from bench.rounds import percentile
from bench.servers import Place, Servers

WAKING = RESULTS / "waking.json"
ENGINES = 100
RATE = 40.0
"""Statements a second, where the server sleeps in between."""

COUNT, ROUNDS = 600, 3
WAYS = {
    "one connection, in a row": (1, None),
    "100 in turn, in a row": (ENGINES, None),
    f"one connection, {RATE:g}/s": (1, RATE),
    f"100 in turn, {RATE:g}/s": (ENGINES, RATE),
}
"""How the statements come: over how many connections, how many a second."""


class Waking:
    """Statements of engines that are there, to a server that does nothing else."""

    def __init__(self, place: Place, herd: Herd) -> None:
        self._process = place.server.process
        self._engines = herd.engines
        self._connections = [each.parts._pool.connect() for each in herd.engines]
        self._rows: list[Any] = []
        self._rows = [self.look(number) for number in range(ENGINES)]

    def look(self, number: int) -> Any:
        """A row by its key."""
        engine = self._engines[number]
        return engine.parts.engines.get(self._connections[number], engine.id)

    def beat(self, number: int) -> None:
        """The engine's own."""
        row, engines = self._rows[number], self._engines[number].parts.engines
        seq = row.beat_seq + 1
        way = self._connections[number]
        assert engines.beat(way, row.id, row.token, row.beat_seq, seq, row.ttl)
        self._rows[number] = dataclasses.replace(row, beat_seq=seq)

    def observe(self, number: int) -> None:
        """All of them."""
        engine = self._engines[number]
        engine.parts.engines.observe(self._connections[number], engine.id, ENGINES)

    def cost(
        self, statement: Callable[[int], Any], over: int, rate: float | None
    ) -> float:
        """Milliseconds of the server's CPU for each."""
        before, began = counters.server_cpu(self._process), time.monotonic()
        for number in range(COUNT):
            if rate is not None:
                time.sleep(max(0.0, began + number / rate - time.monotonic()))
            statement(number % over)
        return (counters.server_cpu(self._process) - before) / COUNT * 1000

    def idle(self, seconds: float = 20.0) -> float:
        """Milliseconds of CPU a second, of connections that are only there."""
        before = counters.server_cpu(self._process)
        time.sleep(seconds)
        return (counters.server_cpu(self._process) - before) / seconds * 1000


def measure(tell: Callable[[str], None]) -> dict[str, Any]:
    """The median of some rounds, by statement and way."""
    servers = Servers()
    try:
        with servers.place("mariadb") as place:
            herd = Herd(place, [str(uuid.uuid4()) for _ in range(ENGINES)])
            waking = Waking(place, herd)
            idle = waking.idle()
            rounds = [_round(waking, tell) for _ in range(ROUNDS)]
            herd.close()
    finally:
        servers.close()
    costs = {
        name: {way: percentile([r[name][way] for r in rounds], 0.5) for way in ways}
        for name, ways in rounds[0].items()
    }
    return {"run": machine.describe(), "idle": idle, "costs": costs}


def _round(waking: Waking, tell: Callable[[str], None]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for statement in (waking.look, waking.beat, waking.observe):
        name = statement.__name__
        found[name] = {}
        for way, (over, rate) in WAYS.items():
            tell(f"{name}: {way}")
            found[name][way] = waking.cost(statement, over, rate)
    return found


def main() -> int:
    tell = Progress()
    measured = measure(tell)
    tell.clear()
    WAKING.write_text(json.dumps(measured, indent=1) + "\n")
    print(json.dumps(measured, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
