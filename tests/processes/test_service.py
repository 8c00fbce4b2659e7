"""Engines under oslo.service: in another program's launcher, and alone."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.proc import Process
from tests.processes.conftest import on
from tests.processes.crew import FAST, Crew, Program, eventually

# So long that no wait for a lease can be in time for a test.
LONG = {"ttl": 600.0, "beat_interval": 5.0}
TIMERS = tuple(f"timer-{n}" for n in range(6))

ENTRY_POINTS = """\
[liveness.handlers]
timer = tests.processes.kinds:Timer
action = tests.processes.kinds:Action
"""


def configure(crew: Crew, **options: Any) -> Path:
    """Write the configuration file anew."""
    default = {"graceful_shutdown_timeout": options.pop("graceful", 60)}
    liveness = {**FAST, "connection": crew.url, **options}
    lines = ["[DEFAULT]", *(f"{k} = {v}" for k, v in default.items())]
    lines += ["[liveness]", *(f"{k} = {v}" for k, v in liveness.items())]
    path = crew.folder / "program.conf"
    path.write_text("\n".join(lines).replace("%", "%%") + "\n")
    return path


def launch(crew: Crew, how: str, workers: int, **options: Any) -> Program:
    path = configure(crew, **options)
    if how == "host":
        command = ["-m", "tests.processes.host", str(path), str(workers)]
    else:
        _install_handlers(crew.folder)
        command = ["-m", "liveness.cmd.engine", "--config-file", str(path)]
        command += ["--workers", str(workers)]
    return crew.launch(how, [sys.executable, *command])


def _install_handlers(folder: Path) -> None:
    """What an installed package with handlers looks like."""
    package = folder / "handlers_of_tests-1.dist-info"
    package.mkdir(exist_ok=True)
    (package / "METADATA").write_text("Name: handlers-of-tests\nVersion: 1\n")
    (package / "entry_points.txt").write_text(ENTRY_POINTS)


def engines_of(crew: Crew, program: Program) -> dict[str, dict[str, Any]]:
    """Rows of engines that run in its workers now, and are live."""
    pids = {process.pid for process in program.workers()}
    rows = crew.engines()
    return {
        key: row
        for key, row in rows.items()
        if row["pid"] in pids and row["state"] == "live"
    }


def await_engines(crew: Crew, program: Program, count: int) -> dict[str, Any]:
    def enough() -> dict[str, Any] | None:
        assert program.popen.poll() is None, program.output()
        rows = engines_of(crew, program)
        return rows if len(rows) == count else None

    return eventually(enough, lambda: f"{count} engines:\n{program.output()}")


def states(crew: Crew, ids: Any) -> set[str]:
    rows = crew.engines()
    return {rows[engine_id]["state"] for engine_id in ids}


def give(crew: Crew, kind: str, *keys: str, **rest: Any) -> None:
    """Deadlines that nobody owns: their program has armed them and gone."""
    giver = crew.start("giver", **LONG)
    giver.arm(kind, *keys, **rest)
    giver.kill(signal.SIGTERM)
    giver.wait()


@on("postgresql")
def test_each_worker_of_a_launcher_is_an_engine_of_its_own(crew: Crew):
    host = launch(crew, "host", 3)
    rows = await_engines(crew, host, 3)
    made = host.await_event("made")
    assert made["opened"] == []
    assert made["threads"] == ["MainThread"]
    assert len({row["pid"] for row in rows.values()}) == 3
    assert host.process.pid not in {row["pid"] for row in rows.values()}
    # The host program's own service is a fourth worker, and no engine.
    assert len(host.workers()) == 4
    assert host.await_event("host-started")["pid"] in {p.pid for p in host.workers()}
    # The parent of all has no connection.
    folder = Path(f"/proc/{host.process.pid}/fd")
    links = [str(link.readlink()) for link in folder.iterdir()]
    assert not [link for link in links if "socket" in link or "eventpoll" in link]


@pytest.mark.parametrize("how", ["host", "engine"])
def test_at_sigterm_every_worker_hands_its_deadlines_back(crew: Crew, how: str):
    # Two seconds of the launcher's patience are left for work in flight.
    program = launch(crew, how, 3, graceful=7, drain_timeout=60, **LONG)
    ids = await_engines(crew, program, 3)
    give(crew, "timer", *TIMERS, due_in=500)
    eventually(lambda: set(crew.owners().values()) <= set(ids), "all are adopted")
    give(crew, "timer", "hangs", due_in=3, payload={"hang": True, "only": how})
    program.await_event("called", key="hangs")

    program.kill(signal.SIGTERM)
    assert program.wait() == 0
    assert states(crew, ids) == {"stopped"}
    assert set(crew.owners().values()) == {None}
    heir = crew.start("heir", **LONG)
    crew.await_settled("hangs")
    eventually(lambda: set(crew.owners().values()) == {heir.engine_id}, "the heir's")
    crew.check_invariants()


@pytest.mark.parametrize(("how", "workers"), [("host", 2), ("engine", 1)])
def test_at_sighup_options_that_may_change_do(crew: Crew, how: str, workers: int):
    program = launch(crew, how, workers, ttl=4.0)
    await_engines(crew, program, workers)
    configure(crew, ttl=9.0)
    program.kill(signal.SIGHUP)

    def changed() -> bool:
        rows = engines_of(crew, program)
        return len(rows) == workers and all(row["ttl"] == 9.0 for row in rows.values())

    eventually(changed, lambda: f"a longer ttl: {crew.engines()}\n{program.output()}")
    assert program.popen.poll() is None
    program.kill(signal.SIGTERM)
    assert program.wait() == 0
    assert states(crew, crew.engines()) == {"stopped"}


@pytest.mark.parametrize("how", ["host", "engine"])
def test_a_killed_worker_is_replaced_and_after_the_masters_death_all_stop(
    crew: Crew, how: str
):
    program = launch(crew, how, 2, **LONG)
    ids = set(await_engines(crew, program, 2))
    give(crew, "timer", *TIMERS, due_in=500)
    eventually(lambda: set(crew.owners().values()) <= ids, "all are adopted")
    victim = crew.owners()[TIMERS[0]]
    Process.of(crew.engines()[victim]["pid"]).send(signal.SIGKILL)

    eventually(
        lambda: victim not in crew.owners().values(), lambda: f"taken: {crew.owners()}"
    )
    rows = await_engines(crew, program, 2)
    assert len(set(rows) - ids) == 1 and victim not in rows
    dead = crew.engines()[victim]
    assert dead["state"] == "fenced"
    assert dead["fence_evidence"].startswith(f"pid {dead['pid']} ")
    assert set(crew.owners().values()) <= set(rows)

    workers = program.workers()
    program.kill(signal.SIGKILL)
    eventually(lambda: not any(p.state for p in workers), "the workers end")
    assert states(crew, rows) == {"stopped"}
    assert set(crew.owners().values()) == {None}
    crew.check_invariants()


def test_a_fenced_engine_is_replaced_by_a_new_process(crew: Crew):
    program = launch(crew, "engine", 2, **LONG)
    rows = await_engines(crew, program, 2)
    victim, row = rows.popitem()
    process = Process.of(row["pid"])
    crew.pause(process)
    crew.sql(
        "UPDATE liveness_engine SET state = 'fenced', ended_at = beat_at,"
        " fenced_by = 'the test', fence_evidence = 'said so' WHERE id = :id",
        id=victim,
    )
    process.send(signal.SIGCONT)

    eventually(lambda: process.state is None, "the process of the fenced engine ends")
    again = await_engines(crew, program, 2)
    assert victim not in again
    assert set(rows) < set(again)
    program.kill(signal.SIGTERM)
    assert program.wait() == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ttl": 2.0, "beat_interval": 1.5}, ["ttl (2 s)", "3 x 1.5 s"]),
        ({"connection": "sqlite:///empty.db"}, ["liveness-manage db sync"]),
        (
            {"connection": "mysql+pymysql://u:hidden-word@127.0.0.1:1/x"},
            ["cannot be used", "127.0.0.1"],
        ),
    ],
    ids=["contradiction", "no tables", "no server"],
)
def test_a_mistake_is_one_line_and_exit_code_1(crew: Crew, options: dict, words: list):
    program = launch(crew, "engine", 3, **options)
    assert program.wait() == 1
    (line,) = program.output().splitlines()
    assert line.startswith("liveness-engine: ")
    assert all(word in line for word in words), line
    assert "hidden-word" not in line
