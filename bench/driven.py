"""Many engines in one process: real rows, real connections, real statements, and no
threads of their own. A few threads call each heart and each loop when it asks to be
called next."""

from __future__ import annotations

import heapq
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from bench import counters
from bench.servers import Place
from liveness import Settings
from liveness.model import Deadline
from tests.fleet import Driven, Recorder

Step = Callable[[], float]


class Quiet(Recorder):
    """The kind of the rows that lie there and are not due."""

    def __init__(self) -> None:
        super().__init__("noop")

    def expired(self, deadline: Deadline) -> None:
        """Done."""


def stretched(factor: float) -> dict[str, float]:
    """The default intervals times ``factor``. Measured at four times the intervals, a
    thousand engines cost a quarter, and fit beside the server that is measured."""
    default = Settings()
    ttl = default.ttl * factor
    return {
        "ttl": ttl,
        "beat_interval": default.beat_interval * factor,
        "sweep_interval": default.sweep_interval * factor,
        "database_timeout": min(default.database_timeout, ttl / 3.1),
    }


class Herd:
    """Engines that are driven together."""

    def __init__(self, place: Place, ids: Sequence[str], **options: Any) -> None:
        self._sockets: list[socket.socket] = []
        logging.getLogger("liveness").setLevel(logging.ERROR)
        listen = sa.event.listen
        listen(sa.Engine, "connect", self._connected)
        try:
            self.engines = [
                Driven(
                    place.url,
                    handlers=(Quiet(),),
                    engine_id=engine_id,
                    machine=f"machine-{number}",
                    **options,
                )
                for number, engine_id in enumerate(ids)
            ]
            self.warm_up()
        finally:
            sa.event.remove(sa.Engine, "connect", self._connected)

    def warm_up(self) -> None:
        """Each engine has beaten and swept, so that all connections are there and all
        statements are built: to read engines alone and with what there is to do, and
        that with and without lost claims."""
        for _ in range(2):
            for engine in self.engines:
                engine.beat()
                engine.turn()
        for engine in self.engines:
            engine.parts._sweep._doubt_until = float("-inf")
            engine.turn()
        # As in a fleet that has been up for long: nobody was silent for the time that
        # all this took, and some are on duty.
        for engine in self.engines:
            engine.beat()
        for engine in self.engines:
            engine.parts._sweep.duty._until = float("-inf")
            engine.turn()
        for engine in self.engines:
            rest = random.uniform(0, engine.parts._sweep.duty.interval)
            engine.parts.loop._next_sweep = time.monotonic() + rest

    def drive(self, seconds: float, threads: int = 4) -> float:
        """Let them live so long; return how late, at worst, a step was called."""
        return Schedule(list(self._steps()), seconds).run(threads)

    def traffic(self) -> tuple[int, int]:
        """Bytes received and sent by the server, as the kernel counted them."""
        return counters.traffic(self._sockets)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        for engine in self.engines:
            engine.abandon()

    def _steps(self) -> Iterator[tuple[float, Step]]:
        """Every step, and when it is due first: at a random time, as in a fleet."""
        for engine in self.engines:
            settings = engine.live.settings
            yield random.uniform(0, settings.beat_interval), engine.parts.heart._step
            yield random.uniform(0, settings.sweep_interval), engine.parts.loop.turn

    def _connected(self, dbapi_connection: Any, record: Any) -> None:
        if hasattr(dbapi_connection, "pgconn"):
            file = dbapi_connection.pgconn.socket
        elif hasattr(dbapi_connection, "_sock"):
            file = dbapi_connection._sock.fileno()
        else:
            return
        self._sockets.append(socket.socket(fileno=os.dup(file)))


class Schedule:
    """Steps, each called when it asked to be."""

    def __init__(self, steps: list[tuple[float, Step]], seconds: float) -> None:
        began = time.monotonic()
        self._end = began + seconds
        self._lock = threading.Lock()
        self._heap = [(began + d, n, step) for n, (d, step) in enumerate(steps)]
        heapq.heapify(self._heap)
        self.worst = 0.0

    def run(self, threads: int) -> float:
        """Call them until the time is over; return how late, at worst, one was."""
        workers = [threading.Thread(target=self._work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return self.worst

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._heap or self._heap[0][0] >= self._end:
                    return
                due, number, step = heapq.heappop(self._heap)
            time.sleep(max(0.0, due - time.monotonic()))
            self.worst = max(self.worst, time.monotonic() - due)
            delay = step()
            with self._lock:
                heapq.heappush(self._heap, (time.monotonic() + delay, number, step))
