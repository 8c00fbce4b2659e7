"""liveness-manage top: one look, and a live one on a terminal."""

from __future__ import annotations

import os
import pty
import signal
import time

import pytest

from liveness.clock import Clock
from liveness.cmd import manage
from liveness.db import migration
from liveness.db.events import EventLog
from liveness.events import Event, What
from tests.commands import Command, managed, one_line
from tests.fleet import Driven, Recorder, wait_until
from tests.test_migrations import run


def look(url):
    env = {"COLUMNS": "160", "TERM": "dumb"}
    result = managed("top", "--once", "--connection", url, env=env)
    assert (result.code, result.err) == (0, "")
    return result.out


def test_one_look_shows_engines_numbers_and_the_latest_of_the_history(schema_url):
    engine = Driven(schema_url, handlers=(Recorder("timer"),), engine_id="engine-1")
    for n in range(3):
        engine.live.arm("timer", f"k{n}", due_in=600)
    run(
        schema_url,
        "UPDATE liveness_deadline SET state = 'parked' WHERE id = 1",
        "UPDATE liveness_deadline SET due_at = '2020-01-01 00:00:00' WHERE id = 2",
    )
    hostile = Event(What.FENCED, None, "dead", detail="why\x1b[2J [bold]not markup[/x]")
    with engine.connect() as connection:
        EventLog(Clock()).add(connection, [hostile])
    text = look(schema_url)
    assert "armed 2   claimed 0   parked 1   overdue 1" in text
    assert "engine-1" in text
    assert "█" * 15 in text
    assert "fenced" in text
    assert "why\\x1b[2J [bold]not markup[/x]" in text
    assert "\x1b[2J" not in text
    engine.abandon()


def test_an_empty_fleet_is_said_to_be_one(synced):
    assert "no living engine" in look(synced)


def test_it_counts_no_further_than_it_says(synced, monkeypatch):
    engine = Driven(synced, handlers=(Recorder("timer"),))
    for n in range(3):
        engine.live.arm("timer", f"k{n}", due_in=600)
    from liveness.cmd import top
    from liveness.conf import Settings
    from liveness.db import report

    monkeypatch.setattr(report, "COUNTED", 3)
    monkeypatch.setattr(report.Report.count, "__defaults__", (3,))
    with engine.connect() as connection:
        numbers = top._numbers(connection, report.Report(Clock()), Settings())
    assert numbers.startswith("armed 3+   claimed 0")
    engine.abandon()


def test_what_is_wrong_at_the_start_is_one_line(sqlite_url):
    assert "db sync" in one_line(managed("top", "--connection", sqlite_url))


@pytest.mark.slow
def test_on_a_terminal_it_goes_on_through_an_outage_until_interrupted(
    mariadb_url, mariadb
):
    migration.sync(mariadb_url)
    engine = Driven(mariadb_url, engine_id="engine-1")
    ours, theirs = pty.openpty()

    def on_terminal():
        for number in (0, 1):
            os.dup2(theirs, number)

    argv = ["top", "--interval", "0.2", "--connection", mariadb_url]
    env = {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    command = Command(manage.main, *argv, env=env, patch=on_terminal)
    os.set_blocking(ours, False)
    said = []

    def says(word):
        def found():
            try:
                said.append(os.read(ours, 1 << 16).decode(errors="replace"))
            except BlockingIOError:
                time.sleep(0.02)
            return word in "".join(said)[-20_000:]

        wait_until(found, 60)
        said.clear()

    says("engine-1")
    mariadb.stop()
    says("cannot look")
    mariadb.start()
    says("engine-1")
    os.kill(command.pid, signal.SIGINT)
    assert command.result().code == 130
    os.close(ours)
    os.close(theirs)
    engine.abandon()
