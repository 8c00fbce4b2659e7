"""The section of Guru Meditation Reports, as facts and from a running engine."""

from __future__ import annotations

import os
import signal

from liveness import Liveness, Settings, reports
from liveness.cmd import engine
from tests.clock import SettableClock
from tests.commands import Command
from tests.fleet import Driven, Gate, Recorder, wait_until
from tests.test_migrations import run


def test_the_facts_are_those_of_the_engine(synced):
    clock, gate, recorder = SettableClock(), Gate(), Recorder("timer")
    recorder.answer = gate
    driven = Driven(synced, clock, (recorder,), "me")
    driven.live.arm("timer", "k", due_in=0)
    driven.turn()
    driven.turn()
    assert gate.entered.wait(10)
    facts = reports.facts(driven.live)
    assert (facts["engine"], facts["trusted"]) == ("me", True)
    assert (facts["problem"], facts["lease left"]) == ("none", "29.0 s")
    assert (facts["in hand"], facts["deadlines"]) == (1, ["timer/k, attempt 1"])
    clock.advance(29)
    assert "suspended" in reports.facts(driven.live)["problem"]
    gate.open.set()
    driven.settle()
    driven.abandon()


def test_an_engine_that_was_not_started_says_so():
    assert reports.facts(Liveness(Settings()))["engine"] == "none"


def test_a_running_engine_reports_on_sigusr2_and_goes_on(synced):
    command = Command(engine.main, "--config-file", "/dev/null", env={
        "OS_LIVENESS__CONNECTION": synced})  # fmt: skip

    def worker():
        (rows,) = run(synced, "SELECT id, pid, beat_seq FROM liveness_engine")
        return rows and rows[0]

    wait_until(worker, 60)
    engine_id, pid, _ = worker()
    os.kill(pid, signal.SIGUSR2)
    wait_until(lambda: "trusted = True" in "".join(command.said()), 20)
    text = "".join(command.said())
    assert "Guru Meditation" in text
    section = text[text.index("Liveness") :]
    assert engine_id in section
    assert worker()[1] == pid
    os.kill(command.pid, signal.SIGTERM)
    assert command.result().code == 0
