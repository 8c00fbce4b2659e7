"""Every remedy that the audit names: the command exists, and does away with it."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import subprocess
import sys

import pytest

from liveness import Liveness, Settings, audit
from liveness.audit import REMEDIES
from liveness.clock import Clock
from liveness.cmd import app, engine, manage
from liveness.cmd import audit as audit_command
from liveness.db.report import opened
from tests.commands import Command
from tests.fleet import Driven, Gate, Recorder, wait_until
from tests.test_audit import OPTIONS, StillClock, park_one, set_all
from tests.test_cli_sweep import _start_of, with_handlers
from tests.test_migrations import run

LONG_AGO = "'2020-01-01 00:00:00.000000'"


def look(url, clock=None, kinds=("timer",)):
    looks = audit.Audit(clock or Clock(), Settings.of(connection=url, **OPTIONS), kinds)
    with opened(url, 5.0) as connection:
        return {finding.code: finding for finding in looks.findings(connection)}


class World:
    """What is wrong, and the commands that people are told to run about it."""

    def __init__(self, url, tmp_path):
        self.url = url
        self.config = tmp_path / "x.conf"
        lines = [f"{name} = {value}" for name, value in OPTIONS.items()]
        self.config.write_text("\n".join(["[liveness]", f"connection = {url}", *lines]))
        self.engines = []

    def engine(self, **how):
        made = Driven(self.url, handlers=(Recorder("timer"),), **how, **OPTIONS)
        self.engines.append(made)
        return made

    def run(self, command, **names):
        """A command as a remedy writes it, with names for its words in capitals."""
        program, *words = [names.get(w, w) for w in shlex.split(command)]
        main = {"liveness-manage": manage.main, "liveness-audit": audit_command.main}
        verbs = {"purge", "drain", "retry", "disarm"}
        words += ["--yes"] * bool(verbs & set(words))
        argv = [*words, "--config-file", str(self.config)]
        how = with_handlers(Recorder("timer"))
        result = Command(main[program], *argv, patch=how).result()
        assert "Traceback" not in result.err, result
        return result


@pytest.fixture
def world(synced, tmp_path):
    made = World(synced, tmp_path)
    yield made
    for each in made.engines:
        each.abandon()


def commands(code):
    """What the remedy of a finding says to run."""
    return re.findall(r"'(liveness-[^']+)'", REMEDIES[code][1])


def cured(world, code, command, exits=(0,), **names):
    """The finding is there, the remedy has the command, and after it it is gone."""
    found = look(world.url)
    assert code in found
    assert command in commands(code)
    result = world.run(command, **names)
    assert result.code in exits, result
    assert code not in look(world.url)


# --- one by one -----------------------------------------------------------------------


@contextlib.contextmanager
def dead_process():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as process:
        yield process.pid, _start_of(process.pid)
        process.send_signal(signal.SIGKILL)


def test_engine_dead(world):
    with dead_process() as (pid, start):
        world.engine()
        set_all(world.url, "engine", f"pid = {pid}, process_start = {start}")
    cured(world, "engine-dead", "liveness-audit --recover")


def test_engine_silent(world):
    world.engine(machine="far")
    set_all(world.url, "engine", f"beat_at = {LONG_AGO}")
    cured(world, "engine-silent", "liveness-audit --recover --wait")


@pytest.mark.parametrize("code", ["deadline-orphaned", "deadline-overdue"])
def test_deadlines_that_nobody_takes(world, code):
    owner = world.engine(machine="far")
    owner.live.arm("timer", "k", due_in=0)
    set_all(world.url, "deadline", f"due_at = {LONG_AGO}, updated_at = {LONG_AGO}")
    if code == "deadline-orphaned":
        set_all(world.url, "engine", f"state = 'stopped', ended_at = {LONG_AGO}")
    # 1: the audit goes on to say that there is no engine.
    cured(world, code, "liveness-audit --recover", exits=(0, 1))


def test_engine_none(world):
    """Start an engine; here as liveness-engine does it."""
    owner = world.engine(machine="far")
    owner.live.arm("timer", "k", due_in=600)
    set_all(world.url, "engine", f"state = 'stopped', ended_at = {LONG_AGO}")
    assert "engine-none" in look(world.url)
    assert commands("engine-none") == ["liveness-engine"]
    command = Command(engine.main, "--config-file", str(world.config))
    wait_until(lambda: "engine-none" not in look(world.url), 60)
    command.kill()


def test_engine_flapping(world):
    """The history has the evidence; the finding goes with the time."""
    clock = StillClock()
    for n in range(3):
        victim = Driven(world.url, clock, machine="far")
        with victim.connect() as connection:
            row = victim.row()
            victim.parts.engines.fence(connection, row, None, f"evidence {n}")
            victim.parts.history.fenced(connection, row, f"evidence {n}")
        victim.abandon()
    assert "engine-flapping" in look(world.url, clock)
    (command,) = commands("engine-flapping")
    set_all(world.url, "event", "at = strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'")
    assert "evidence 2" in world.run(command).out
    clock.advance(16 * 60)
    assert "engine-flapping" not in look(world.url, clock)


def test_engine_stale(world):
    world.engine(machine="far")
    set_all(world.url, "engine", f"state = 'stopped', ended_at = {LONG_AGO}")
    cured(world, "engine-stale", "liveness-manage purge")


def test_deadline_claimed(world):
    gate, recorder = Gate(), Recorder("timer", timeout=0.2)
    recorder.answer = gate
    live = Liveness(Settings.of(connection=world.url, drain_timeout=1.0, **OPTIONS))
    live.add_handler(recorder)
    live.start()
    try:
        live.arm("timer", "k", due_in=0)
        assert gate.entered.wait(30)
        set_all(world.url, "deadline", f"updated_at = {LONG_AGO}")
        assert "deadline-claimed" in look(world.url)
        (command,) = commands("deadline-claimed")
        argv = shlex.split(command.replace("ID", live.engine_id))[1:]
        # No fork of this process: a thread of the engine may have SQLite's mutex.
        done = subprocess.run(
            [sys.executable, "-m", "liveness.cmd.manage", *argv, "--yes", "--wait=60"]
            + ["--connection", world.url],
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "deadline-claimed" not in look(world.url)
    finally:
        gate.open.set()
        live.stop()


@pytest.mark.parametrize("verb", ["retry", "disarm"])
def test_deadline_parked(world, verb):
    park_one(world.url)
    named = f"liveness-manage deadline {verb} KIND KEY"
    cured(world, "deadline-parked", named, KIND="timer", KEY="k")


def test_kind_unknown(world):
    """The handler is installed where the audit runs, too; then what was parked."""
    park_one(world.url)
    assert "kind-unknown" in look(world.url, kinds=["other"])
    assert "kind-unknown" not in look(world.url, kinds=["timer"])
    (command,) = commands("kind-unknown")
    result = world.run(command, KIND="timer")
    assert (result.code, result.err) == (0, "")
    assert "deadline-parked" not in look(world.url)


def test_clock_host(world):
    """What sets a clock is not ours; that it is set is seen."""
    clock = StillClock()
    clock.off = 3
    assert "clock-host" in look(world.url, clock)
    clock.off = 0
    assert "clock-host" not in look(world.url, clock)


def test_clock_database(world):
    clock = StillClock()
    engine = Driven(world.url, clock, machine="far")
    set_all(world.url, "engine", "beat_at = '2099-01-01 00:00:00.000000'")
    assert "clock-database" in look(world.url, clock)
    engine.beat()
    assert "clock-database" not in look(world.url, clock)
    engine.abandon()


def test_schema_differs(world):
    name = "ix_liveness_engine_ended"
    run(world.url, f"DROP INDEX {name}")
    assert "schema-differs" in look(world.url)
    (command,) = commands("schema-differs")
    listed = world.run(command)
    assert listed.code == 1
    assert name in listed.out
    run(world.url, f"CREATE INDEX {name} ON liveness_engine (ended_at)")
    assert world.run(command).code == 0
    assert "schema-differs" not in look(world.url)


# --- all of them ----------------------------------------------------------------------


def test_every_code_has_its_test_here():
    tests = globals()
    shared = {"deadline_orphaned", "deadline_overdue"}
    for code in REMEDIES:
        name = code.replace("-", "_")
        assert f"test_{name}" in tests or name in shared, code


@pytest.mark.parametrize("code", REMEDIES)
def test_every_command_of_a_remedy_can_be_parsed(code):
    manages = app.Manage("", manage.COMMANDS)
    manages.options = None
    for command in commands(code):
        program, *argv = shlex.split(command)
        if program == "liveness-manage":
            factory, _, rest = manages.command_manager.find_command(argv)
            factory(manages, None).get_parser("x").parse_args(rest)
        elif program == "liveness-audit":
            audit_command.Audit(manages, None).get_parser("x").parse_args(argv)
        else:
            assert command == "liveness-engine"
