"""A private server, processes with engines on it, and the account of what they do."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from liveness.db import migration
from tests.endure.journal import Pen, Reader, name_of
from tests.endure.ledger import Ledger
from tests.proc import Process, until
from tests.processes.crew import ROOT
from tests.processes.journal import now
from tests.servers import MariaDB, PostgreSQL, Server

SERVERS = {"mariadb": MariaDB, "postgresql": PostgreSQL}


class Given:
    """How a run is to be: filled in from the command line."""

    def __init__(self, **values: Any) -> None:
        self.database = "mariadb"
        self.engines = 12
        self.processes = 12
        self.deadlines = 1000
        self.seconds = 60.0
        self.every = 10.0
        self.rate = 1.5
        self.seed = 1
        self.connections = 300
        self.how = "stop"
        self.after = 2.0
        self.server = ""
        self.options: dict[str, Any] = {}
        self.__dict__.update(values)


class Failed(Exception):
    """The run could not be made; the message says why."""


class Worker:
    """One process of the run."""

    def __init__(self, stage: Stage, name: str, engines: int, stock: int) -> None:
        self.name = name
        self.engines = engines
        given = stage.given
        todo = {
            "name": name,
            "engines": engines,
            "stock": stock,
            "rate": given.rate,
            "seed": given.seed,
            "options": {**given.options, "connection": stage.url},
            "facts": str(stage.folder / f"{name}.facts"),
        }
        with open(stage.folder / f"{name}.log", "ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "tests.endure.worker", json.dumps(todo)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
            )
        self.process = Process.of(self.popen.pid)

    def tell(self, do: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps({"do": do}) + "\n")
        self.popen.stdin.flush()

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def end(self) -> None:
        """Ask it to end; :meth:`wait` for it."""
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.popen.stdin.close()

    def kill(self) -> None:
        self.process.send(signal.SIGKILL)
        self.popen.wait()


class Stage:
    """Made by :func:`stage`."""

    def __init__(
        self, given: Given, tell: Callable[..., None], server: Server, folder: Path
    ) -> None:
        self.given = given
        self.tell = tell
        self.server = server
        self.folder = folder
        self.name = f"endure_{uuid.uuid4().hex[:8]}"
        self.url = ""
        self.workers: list[Worker] = []
        self.ledger = Ledger()
        self.began = time.monotonic()
        self._reader = Reader(folder)
        self._pen = Pen(str(folder / "stage.facts"))
        self.wrong = False
        self._born = 0

    def open(self) -> None:
        said = str(self.server.admin("SELECT version()")[0][0])
        words = said.split() if "PostgreSQL" in said else ["MariaDB", said]
        self.given.server = " ".join(words[:2])
        self.server.create_database(self.name)
        self.url = self.server.url(self.name)
        migration.sync(self.url)

    def add(self, engines: int = 1, stock: int = 0) -> Worker:
        """Start one more process."""
        self._born += 1
        worker = Worker(self, f"p{self._born}", engines, stock)
        self.workers.append(worker)
        return worker

    def fleet(self) -> None:
        """Start all of them, and return when all their engines have laid in their
        stock."""
        given = self.given
        each, rest = divmod(given.engines, given.processes)
        stock = -(-given.deadlines // given.engines)
        for number in range(given.processes):
            self.add(each + (number < rest), stock)
        self.until(lambda: self.ready >= given.processes, 600, "all engines are ready")

    @property
    def ready(self) -> int:
        return self.ledger.counts["ready"]

    # --- the account ------------------------------------------------------------

    def look(self) -> None:
        """Read what has been written meanwhile."""
        known = len(self.ledger.violations)
        self.ledger.read(self._reader.new())
        for violation in self.ledger.violations[known:]:
            self.tell(f"WRONG: {violation}")

    def until(self, condition: Callable[[], Any], seconds: float, what: str) -> float:
        """Look until it is so; return the seconds that it took."""
        began = time.monotonic()
        while True:
            self.look()
            if condition():
                return time.monotonic() - began
            if time.monotonic() - began > seconds:
                raise Failed(f"not so within {seconds:g} s: {what}\n{self.logs()}")
            dead = [w.name for w in self.workers if not w.running]
            if dead:
                raise Failed(f"{', '.join(dead)} ended by itself\n{self.logs()}")
            time.sleep(0.2)

    def note(self, what: str, *engines: str, at: float | None = None) -> None:
        """Something that was done to these engines."""
        for engine in engines:
            self._pen.note(what, engine, at=at)
        self.look()

    def engines_of(self, worker: Worker) -> list[str]:
        """The ids of the engines that were started there and have not ended."""
        return [e for e in self._started_at(worker) if e not in self.ledger.gone]

    def _started_at(self, worker: Worker) -> list[str]:
        started = self.ledger.engines.items()
        return [e for e, name in started if name.startswith(f"{worker.name}.")]

    def strike(self, worker: Worker, what: str) -> list[str]:
        """Have it ``killed`` or ``paused``; the ids of its engines. It is noted of
        those too that were just stopping, or registered and had not said so."""
        at, engines = now(), self.engines_of(worker)
        self.note(what, *engines)
        if what == "killed":
            self.workers.remove(worker)
            worker.kill()
        else:
            worker.process.send(signal.SIGSTOP)
            until(lambda: worker.process.state in (None, "T"), 10)
        self.look()
        sql = f"SELECT id FROM liveness_engine WHERE pid = {worker.process.pid}"
        registered = {engine for (engine,) in self.rows(sql)}
        others = registered.union(self._started_at(worker)).difference(engines)
        self.note(what, *sorted(others), at=at)
        return engines

    def rows(self, sql: str) -> list[tuple]:
        """What the database says, asked as its superuser."""
        return self.server.admin(sql, self.name)

    def states(self) -> dict[str, str]:
        """Engines by id."""
        return dict(self.rows("SELECT id, state FROM liveness_engine"))

    def close_books(self) -> None:
        """Compare the account with the table, once nothing moves any more."""
        self.look()
        rows = self.rows(
            f"SELECT {self._quoted('key')}, arm_token FROM liveness_deadline"
        )
        self.ledger.close(name_of(key, token) for key, token in rows)

    def _quoted(self, name: str) -> str:
        return f"`{name}`" if isinstance(self.server, MariaDB) else f'"{name}"'

    # --- the end ------------------------------------------------------------------

    def drain(self) -> None:
        """End every process as an operator does."""
        for worker in self.workers:
            worker.end()
        for worker in self.workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.popen.wait(90)
        late = [worker.name for worker in self.workers if worker.running]
        if late:
            raise Failed(f"not drained within 90 s: {', '.join(late)}\n{self.logs()}")
        bad = [w.name for w in self.workers if w.popen.returncode not in (0, -9)]
        if bad:
            raise Failed(f"{', '.join(bad)} ended with an error\n{self.logs()}")

    def close(self) -> None:
        for worker in self.workers:
            worker.process.send(signal.SIGCONT)
            worker.kill()
            worker.end()

    def remove(self) -> None:
        """Leave nothing of the account, unless it names something wrong."""
        if self.wrong or self.ledger.violations:
            self.tell(f"what each process wrote down is in {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def logs(self, lines: int = 5) -> str:
        """The last lines of each process."""
        found = []
        for path in sorted(self.folder.glob("*.log")):
            text = path.read_text(errors="replace").splitlines()[-lines:]
            found += [f"{path.stem}: {line}" for line in text]
        return "\n".join(found)


@contextlib.contextmanager
def stage(
    given: Given, tell: Callable[..., None], server: Server | None = None
) -> Iterator[Stage]:
    """Everything is gone afterwards, but the facts where something was wrong. ``tell``
    is told of each violation; ``server``: one that runs already."""
    folder = Path(tempfile.mkdtemp(prefix="liveness-endure-"))
    with contextlib.ExitStack() as stack:
        if server is None:
            cls = SERVERS[given.database]
            if reason := cls.available():
                raise Failed(reason)
            server = cls()
            server.max_connections = given.connections
            stack.enter_context(server)
        made = Stage(given, tell, server, folder)
        stack.callback(made.remove)
        stack.callback(made.close)
        made.open()
        yield made
