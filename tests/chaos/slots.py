"""A slot: a place where one engine after the other lives, as under a supervisor."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

from tests.chaos.wallclock import WallClock
from tests.proc import Process
from tests.processes.zygote import Forked, Zygote

ROOT = Path(__file__).parents[2]
MODULE = "tests.chaos.worker"
TICK = 0.05


class Slot:
    """Starts an engine whenever there is none, until it is closed."""

    def __init__(self, number: int, folder: Path, todo: dict[str, Any]) -> None:
        """``todo`` are the worker's orders but for what only the slot knows."""
        self.number = number
        self._folder = folder
        self._todo = {**todo, "slot": number}
        self._todo["history"] = str(folder / f"engine-{number}.jsonl")
        self._rng = random.Random(f"{todo['seed']} slot {number}")
        # Within a quarter of a lease, or else what was observed is not gone on from.
        self._longest = 0.2 if "state_directory" in todo["options"] else 1.0
        self._starts = 0
        self._calm = False
        self._wanted = True
        self._worker: Forked | None = None
        self._process: Process | None = None
        self._lock = threading.Lock()
        self._clock = WallClock(folder / f"clock-{number}")
        self._zygote = Zygote(str(ROOT), MODULE, self._clock.environment)
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return f"engine {self.number}"

    def tell(self, do: str, **facts: Any) -> None:
        """Give the process that lives here now a command."""
        with self._lock:
            self._calm |= do == "calm"
            if self._worker is not None:
                self._write({"do": do, **facts})

    def kill(self) -> None:
        """SIGKILL, whatever state it is in; a new one starts."""
        self._send(signal.SIGKILL)

    def stop(self) -> None:
        """SIGSTOP."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._send(signal.SIGCONT)

    def drain(self) -> None:
        """SIGTERM; a new one starts afterwards."""
        self._send(signal.SIGTERM)

    def set_clock(self, offset: float) -> None:
        """What its processes see of the time of day is off by so much; every other
        clock is as it was."""
        self._clock.set(offset)

    def close(self, seconds: float = 15.0) -> int | None:
        """Drain it, and start no other. Its exit code; None: it had to be killed."""
        self._wanted = False
        self._thread.join(5)
        worker, code = self._worker, None
        if worker is not None:
            self.go_on()
            self.drain()
            try:
                code = worker.wait(seconds)
            except Exception:
                self.kill()
                worker.wait(10)
            self._end(worker)
        self._zygote.close()
        return code

    def _send(self, signum: int) -> None:
        with self._lock:
            if self._process is not None:
                self._process.send(signum)

    def _write(self, command: dict[str, Any]) -> None:
        assert self._worker is not None
        with contextlib.suppress(OSError):
            self._worker.stdin.write(json.dumps(command).encode() + b"\n")
            self._worker.stdin.flush()

    def _supervise(self) -> None:
        while self._wanted:
            worker = self._worker
            if worker is None:
                self._start()
            elif worker.poll() is not None:
                with self._lock:
                    self._end(worker)
                time.sleep(self._rng.uniform(0.1, self._longest))
            time.sleep(TICK)

    def _start(self) -> None:
        orders = {**self._todo, "start": self._starts, "calm": self._calm}
        self._starts += 1
        log = str(self._folder / f"engine-{self.number}.log")
        with self._lock:
            self._worker = self._zygote.fork(["worker", json.dumps(orders)], {}, log)
            self._process = Process.of(self._worker.pid)

    def _end(self, worker: Forked) -> None:
        self._worker = self._process = None
        with contextlib.suppress(OSError):
            worker.stdin.close()
