"""Real processes with engines in them, for tests to kill, stop and ask."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from tests.proc import Process
from tests.processes.journal import VARIABLE, Journal, now
from tests.processes.zygote import Forked, Zygote

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
MARK = "LIVENESS_TEST_CREW"

FAST = {
    "ttl": 3.0,
    "beat_interval": 0.3,
    "sweep_interval": 0.3,
    "lease_margin": 0.3,
    "database_timeout": 0.9,
    "expired_grace": 0.5,
    "max_clock_skew": 0.2,
    "backoff_initial": 0.1,
    "backoff_max": 0.3,
    "handler_threads": 4,
    "drain_timeout": 5.0,
}


def eventually(
    condition: Callable[[], T], what: str | Callable[[], Any], seconds: float = 40
) -> T:
    """What ``condition()`` returns once it is true; fails, saying ``what`` was awaited,
    after so many seconds."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > end:
            detail = what() if callable(what) else what
            raise AssertionError(f"not so within {seconds:g} s: {detail}")
        time.sleep(0.02)
    return result


class Program:
    """One process (or a launcher with its workers) that a test started."""

    def __init__(
        self, crew: Crew, name: str, popen: subprocess.Popen[bytes] | Forked
    ) -> None:
        self.crew = crew
        self.name = name
        self.popen = popen
        self.process = Process.of(popen.pid)

    def __repr__(self) -> str:
        return f"{self.name} (pid {self.process.pid})"

    def tell(self, do: str, **facts: Any) -> None:
        """Give a worker one command."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps({"do": do, **facts}).encode() + b"\n")
        self.popen.stdin.flush()

    def events(self, what: str | None = None, **facts: Any) -> list[dict[str, Any]]:
        return self.crew.journal.events(what, who=self.name, **facts)

    def await_event(self, what: str, **facts: Any) -> dict[str, Any]:
        """The first event of that sort, awaited."""

        def found() -> list[dict[str, Any]]:
            events = self.events(what, **facts)
            if not events and self.popen.poll() is not None:
                self.crew.journal.events()  # it may have been written last of all
                events = self.events(what, **facts)
                assert events, f"{self} ended before {what}: {self.output()}"
            return events

        return eventually(found, lambda: f"{what} {facts} of {self}:\n{self.output()}")[
            0
        ]

    @property
    def engine_id(self) -> str:
        """The id of its first engine, once it has started."""
        return self.await_event("started")["engine"]

    def arm(self, kind: str, *keys: str, **rest: Any) -> None:
        """Have it arm deadlines, and wait until they are committed."""
        self.tell("arm", kind=kind, keys=list(keys), **rest)
        for key in keys:
            self.await_event("armed", key=key)

    def kill(self, signum: int = signal.SIGKILL) -> float:
        """Send a signal; return when."""
        moment = now()
        self.process.send(signum)
        return moment

    def pause(self) -> float:
        """SIGSTOP; return when it no longer moved."""
        return self.crew.pause(self.process)

    def resume(self) -> float:
        return self.kill(signal.SIGCONT)

    def wait(self, seconds: float = 40) -> int:
        """Its exit code, once it has ended."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} does not end: {self.output()}") from None

    def workers(self) -> list[Process]:
        """The living processes that it has forked."""
        return self.process.family()[1:]

    def output(self) -> str:
        return self.crew.log_of(self.name).read_text(errors="replace")


class Crew:
    """The programs of one test, on one database."""

    def __init__(self, url: str, folder: Path, zygote: Zygote) -> None:
        self.url = url
        self.zygote = zygote
        self.folder = folder
        self.journal = Journal(str(folder / "journal"))
        self.programs: list[Program] = []
        self._mark = uuid.uuid4().hex
        self._engine = sa.create_engine(url, poolclass=sa.NullPool)

    # --- processes ------------------------------------------------------------

    def start(self, name: str, **todo: Any) -> Program:
        """Start a worker. Keywords are its ``todo``, or options of liveness."""
        return self._start(name, "worker", todo)

    def loop(self, name: str, **todo: Any) -> Program:
        """Start a launcher whose workers live only ``live_for`` seconds."""
        return self._start(name, "crashloop", todo)

    def _start(self, name: str, module: str, todo: dict[str, Any]) -> Program:
        prefix = todo.pop("prefix", [])
        extra = ("again", "linger", "live_for", "bare", "engine_id")
        rest = {key: todo.pop(key) for key in extra if key in todo}
        options = {**FAST, "connection": self.url, **todo}
        text = json.dumps({"options": options, **rest})
        if module == "worker" and not prefix:
            log = str(self.log_of(name))
            forked = self.zygote.fork(["worker", text], self._environment(name), log)
            return self._started(name, forked)
        command = [sys.executable, "-m", f"tests.processes.{module}", text]
        return self.launch(name, [*prefix, *command])

    def launch(self, name: str, command: list[str], **env: str) -> Program:
        """Start any program."""
        with open(self.log_of(name), "ab") as log:
            popen = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment(name), **env},
            )
        return self._started(name, popen)

    def _environment(self, name: str) -> dict[str, str]:
        return {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(self.folder)]),
            VARIABLE: self.journal.path,
            "LIVENESS_TEST_NAME": name,
            MARK: self._mark,
        }

    def _started(self, name: str, popen: subprocess.Popen[bytes] | Forked) -> Program:
        program = Program(self, name, popen)
        self.programs.append(program)
        return program

    def log_of(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def close(self) -> None:
        """End what is still there, workers of dead launchers included."""
        for process in self._marked():
            process.send(signal.SIGKILL)
        for program in self.programs:
            program.popen.kill()
            program.popen.wait()
            if program.popen.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    program.popen.stdin.close()
        left = self._marked()
        eventually(lambda: not any(p.state for p in left), f"{left} are gone")

    def _marked(self) -> list[Process]:
        mark = f"{MARK}={self._mark}".encode()
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                environment = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if mark in environment.split(b"\0"):
                found.append(Process.of(int(name)))
        return found

    # --- the database, in SQL of the tests' own ---------------------------------

    def sql(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        with self._engine.begin() as connection:
            result = connection.execute(sa.text(statement), values)
            return [dict(row._mapping) for row in result] if result.returns_rows else []

    def engines(self) -> dict[str, dict[str, Any]]:
        return {r["id"]: r for r in self.sql("SELECT * FROM liveness_engine")}

    def row_of(self, program: Program) -> dict[str, Any]:
        """The row of its first engine."""
        engine_id = program.engine_id
        return self.engines()[engine_id]

    def await_state(self, program: Program, state: str) -> dict[str, Any]:
        """The row of its engine, once it is in that state."""

        def reached() -> dict[str, Any] | None:
            row = self.row_of(program)
            return row if row["state"] == state else None

        return eventually(reached, lambda: f"{state}: {self.row_of(program)}")

    def rows(self) -> dict[str, dict[str, Any]]:
        """Deadlines by key: the tests use a key once."""
        return {r["key"]: r for r in self.sql("SELECT * FROM liveness_deadline")}

    def owners(self) -> dict[str, str | None]:
        return {key: row["owner_id"] for key, row in self.rows().items()}

    def beats(self, program: Program) -> int:
        return self.row_of(program)["beat_seq"]

    def await_beats(self, *programs: Program, count: int = 2) -> None:
        """Wait until each of their engines has committed more beats."""
        before = {program.name: self.beats(program) for program in programs}
        for program in programs:
            eventually(
                lambda p=program: self.beats(p) >= before[p.name] + count,
                lambda p=program: f"{p} beats: {p.output()}",
            )

    def pause(self, process: Process) -> float:
        """SIGSTOP a process; return when it no longer moved. On SQLite, not in the
        middle of a write: that would stop everybody, which is another test."""
        while True:
            process.send(signal.SIGSTOP)
            eventually(lambda: process.state in ("T", None), f"{process} stopped")
            if self.can_write():
                return now()
            process.send(signal.SIGCONT)
            time.sleep(0.05)

    def can_write(self) -> bool:
        """False while somebody holds SQLite's one write lock."""
        if self._engine.dialect.name != "sqlite":
            return True
        engine = sa.create_engine(
            self.url, poolclass=sa.NullPool, connect_args={"timeout": 0.3}
        )
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                connection.exec_driver_sql("ROLLBACK")
        except sa.exc.OperationalError:
            return False
        return True

    # --- what must hold -------------------------------------------------------

    def await_settled(self, *keys: str, seconds: float = 40) -> None:
        """Wait until no row is left of those keys."""
        eventually(
            lambda: not self.rows().keys() & set(keys),
            lambda: f"settled: {self._left(set(keys))}",
            seconds,
        )

    def _left(self, keys: set[str]) -> Any:
        left = [row for key, row in self.rows().items() if key in keys]
        return "\n".join(map(str, [*left, *self.story()]))

    def story(self) -> list[str]:
        """The journal in short; of effects in a row, only the first and the last."""
        lines: list[str] = []
        last = ""
        for event in self.journal.events():
            names = ("who", "what", "kind", "key", "method", "attempts", "error")
            text = " ".join(str(event[name]) for name in names if name in event)
            line = f"{event['at']:.3f} {text} {event.get('engine', '')}"
            if text == last and lines[-1].endswith(" ..."):
                lines.pop()
            lines.append(f"{line} ..." if text == last else line)
            last = text
        return lines[-60:]

    def check_invariants(self) -> None:
        """Nothing lost, nothing early, one holder; from the journal and the tables."""
        self._check_nothing_is_lost()
        self._check_nothing_is_early()
        self._check_each_is_settled_once()

    def _check_nothing_is_lost(self) -> None:
        rows = self.rows()
        ended = {event["key"] for event in self.journal.events("settled")}
        # Killed after the commit, before the line was written: the row tells.
        handled = {event["key"] for event in self.journal.events("effect")}
        for event in self.journal.events("armed"):
            key = event["key"]
            assert key in rows or key in ended | handled, f"{key} is lost"

    def _check_nothing_is_early(self) -> None:
        engines = self.engines()
        owner: dict[str, str] = {}
        for event in self.journal.events():
            if event["what"] == "armed":
                owner[event["key"]] = event["engine"]
            if event["what"] != "called":
                continue
            if event["method"] == "expired":
                assert event["wall"] >= event["expires"], f"early: {event}"
            elif event["attempts"] == 1:
                before = engines.get(owner[event["key"]])
                assert before is None or before["state"] in ("fenced", "stopped"), event
                ended = before and utc(before["ended_at"]).timestamp()
                assert ended is None or event["wall"] >= ended, (event, before)
            owner[event["key"]] = event["engine"]

    def _check_each_is_settled_once(self) -> None:
        seen = [event["key"] for event in self.journal.events("settled")]
        twice = {key for key in seen if seen.count(key) > 1}
        assert not twice, [self.journal.events(key=key) for key in twice]


def utc(value: Any) -> datetime:
    """A time as this database gives it out."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.replace(tzinfo=UTC)


@contextlib.contextmanager
def crew_on(url: str, folder: Path, zygote: Zygote) -> Iterator[Crew]:
    folder.mkdir(exist_ok=True)
    crew = Crew(url, folder, zygote)
    try:
        yield crew
    finally:
        crew.close()
        for program in crew.programs:
            print(f"--- {program.name}\n{program.output()[-4000:]}")
        print("--- journal", *crew.story(), sep="\n")


def another_pid_namespace() -> list[str]:
    """The start of a command that runs in a pid namespace of its own, so that other
    processes of this machine can prove nothing about it. Skips where there is none."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    for rights in ([], ["--map-root-user"]):
        with contextlib.suppress(FileNotFoundError):
            trial = [*command, *rights, "true"]
            if subprocess.run(trial, stderr=subprocess.DEVNULL).returncode == 0:
                return [*command, *rights]
    pytest.skip("NOT RUN: no pid namespace can be made here (unshare; run as root)")
