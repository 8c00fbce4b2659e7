"""Processes that measure, and how they are spoken to: lines of JSON on pipes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.servers import Place

ROOT = Path(__file__).parents[1]
SECONDS = 300.0
"""After which a process that does not answer is given up."""


class Lost(Exception):
    """A process ended, or did not answer."""


class Worker:
    """One process; started by :class:`Crew`."""

    def __init__(self, command: Sequence[str], cwd: Path = ROOT) -> None:
        self._popen = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._buffer = b""
        self.facts: dict[str, Any] = {}

    @property
    def engine(self) -> str:
        """The id of its engine."""
        return str(self.facts["engine"])

    def tell(self, do: str, **facts: Any) -> None:
        """Send it a command. :raises Lost: it has ended."""
        assert self._popen.stdin is not None
        line = json.dumps({"do": do, **facts}).encode() + b"\n"
        try:
            self._popen.stdin.write(line)
            self._popen.stdin.flush()
        except BrokenPipeError as error:
            raise Lost(f"{self._popen.args} ended with {self._popen.wait()}") from error

    def hear(self, seconds: float = SECONDS) -> dict[str, Any]:
        """Its next answer. :raises Lost: there is none."""
        assert self._popen.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._popen.stdout], [], [], left)[0]:
                raise Lost(f"{self._popen.args} did not answer in {seconds:g} s")
            data = os.read(self._popen.stdout.fileno(), 1 << 16)
            if not data:
                raise Lost(f"{self._popen.args} ended with {self._popen.wait()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, do: str, **facts: Any) -> dict[str, Any]:
        self.tell(do, **facts)
        return self.hear()

    def send(self, signum: int) -> float:
        """Send a signal; return when, by the wall clock."""
        moment = time.time()
        self._popen.send_signal(signum)
        return moment

    def kill(self) -> float:
        moment = self.send(signal.SIGKILL)
        self._popen.wait()
        return moment

    def close(self) -> None:
        self._popen.kill()
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


class Crew:
    """The processes of one measurement."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._workers: list[Worker] = []

    def engines(
        self,
        count: int,
        prefix: Sequence[str] = (),
        does: str = "notes",
        **options: Any,
    ) -> list[Worker]:
        """Start processes with an engine each; they are live when this returns.
        ``prefix``: the beginning of the command; ``does``: what their handlers do, see
        :class:`bench.worker.Noop`."""
        options = {"connection": self.place.url, **options}
        text = json.dumps({"options": options, "does": does})
        command = [*prefix, sys.executable, "-m", "bench.worker", text]
        return self._started([command] * count)

    def floors(self, count: int) -> list[Worker]:
        """Start processes with a raw connection each."""
        where = [self.place.database, self.place.url]
        command = [sys.executable, "-m", "bench.floor.worker", *where]
        return self._started([command] * count)

    def start(self, command: Sequence[str], cwd: Path = ROOT) -> Worker:
        """Start any program that speaks as these do."""
        worker = Worker(command, cwd)
        self._workers.append(worker)
        worker.facts = worker.hear()
        return worker

    def _started(self, commands: Sequence[Sequence[str]]) -> list[Worker]:
        workers = [Worker(command) for command in commands]
        self._workers += workers
        for worker in workers:
            worker.facts = worker.hear()
        return workers

    def dismiss(self, workers: Sequence[Worker]) -> None:
        """End these at once."""
        for worker in workers:
            worker.close()
            self._workers.remove(worker)

    def close(self) -> None:
        self.dismiss(list(self._workers))


@contextlib.contextmanager
def crew_on(place: Place) -> Iterator[Crew]:
    crew = Crew(place)
    try:
        yield crew
    finally:
        crew.close()


def ask_all(workers: Sequence[Worker], do: str, **facts: Any) -> list[dict[str, Any]]:
    """Ask all at the same time; their answers in order."""
    for worker in workers:
        worker.tell(do, **facts)
    return [worker.hear() for worker in workers]


def another_pid_namespace() -> list[str] | None:
    """The start of a command that runs where other processes of this machine can prove
    nothing about it, as if on another host; None where that cannot be had."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    for rights in ([], ["--map-root-user"]):
        with contextlib.suppress(FileNotFoundError):
            trial = [*command, *rights, "true"]
            if subprocess.run(trial, stderr=subprocess.DEVNULL).returncode == 0:
                return [*command, *rights]
    return None


def until(done: Any, what: str, seconds: float = SECONDS, every: float = 0.05) -> None:
    """Return when ``done()`` is true. :raises Lost: it does not come true."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise Lost(f"not so within {seconds:g} s: {what}")
        time.sleep(every)
