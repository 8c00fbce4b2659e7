"""liveness-manage top: one look, and a live one on a terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import sys
import termios
import time
from datetime import timedelta

import pytest
from rich.console import Console, ConsoleDimensions

from liveness import Settings
from liveness.clock import Clock
from liveness.cmd import glance, manage, topview
from liveness.db import migration, report
from liveness.db.events import EventLog
from liveness.db.report import opened
from liveness.events import Event, What
from tests.commands import Command, managed, one_line
from tests.fleet import Driven, Recorder, wait_until
from tests.test_lateness import minute
from tests.test_migrations import run
from tests.test_web import fleet_of


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
    for n in range(4):
        engine.live.arm("timer", f"k{n}", due_in=600)
    monkeypatch.setattr(report, "COUNTED", 3)
    monkeypatch.setattr(report.Report.by_kind, "__defaults__", (3,))
    with engine.connect() as connection:
        seen = glance.fleet(connection, Settings())
    assert "armed 3+   claimed 0" in lines_of(seen, 80, 24)[1]
    engine.abandon()


# --- what fits ------------------------------------------------------------------------


def lines_of(seen, width, height, **how):
    """What a terminal of that size shows."""
    console = Console(
        file=io.StringIO(),
        width=width,
        height=height,
        force_terminal=True,
        color_system=None,
    )
    shown = topview.Shown(2.0, seen=seen, since=time.monotonic(), **how)
    console.print(shown.at(ConsoleDimensions(width, height)), end="")
    return console.file.getvalue().removesuffix("\n").split("\n")


def seen_in(url):
    with opened(url, 5.0) as connection:
        return glance.fleet(connection, Settings())


@pytest.mark.parametrize("size", [(80, 24), (160, 50)])
@pytest.mark.parametrize("count", [0, 3, 500])
def test_it_fits_the_terminal_however_many_engines(synced, count, size):
    fleet_of(synced, count)
    start = Clock().host_now().replace(second=0, microsecond=0) - timedelta(minutes=3)
    with opened(synced, 5.0) as connection:
        moved = [
            Event(What.RESTARTED, "heir", f"dead-{n}", "timer", f"k{n}")
            for n in range(30)
        ]
        fences = [
            Event(What.FENCED, "heir", f"dead-{n}", detail="h: no") for n in range(30)
        ]
        late = [Event(What.LATENESS, "e", "e", detail=minute(0.002, 20.0).line(start))]
        EventLog(Clock()).add(connection, [*fences, *moved, *late])
    lines = lines_of(seen_in(synced), *size)
    assert len(lines) == size[1]
    assert max(map(len, lines)) <= size[0]
    text = "\n".join(lines)
    assert (
        "lateness  2 claimed in an hour, at most 20 s late; now nothing is due" in text
    )
    assert text.count("▇") == 1
    assert re.search(r"dead-\d+ +fenced by heir: no +1 +1 heir", text)
    assert text.count("● live") == min(count, {24: 9, 50: 26}[size[1]])
    assert ("more" in text) is (count == 500)
    assert lines[-1].startswith(" q: quit   space: hold still   every 2 s")


def test_engines_in_trouble_are_the_ones_that_are_shown(synced):
    fleet_of(synced, 100)
    old = "UPDATE liveness_engine SET beat_at = '2020-01-01 00:00:00' WHERE id = 'e99'"
    run(synced, old)
    rows = [line for line in lines_of(seen_in(synced), 80, 24) if "e99" in line]
    assert len(rows) == 1
    assert rows[0].startswith("▲ lapsed")


def test_an_outage_stands_over_what_was_seen_last(synced):
    fleet_of(synced, 3)
    lines = lines_of(seen_in(synced), 80, 24, problem="no \x1b[2J route", held=True)
    text = "\n".join(lines)
    assert "cannot look: no \\x1b[2J route. What is below was seen" in text
    assert text.count("● live") == 3
    assert len(lines) == 24
    assert "space: go on   held still" in lines[-1]


@pytest.mark.parametrize(
    ("late", "drawn"),
    [(0.0, "▁"), (0.01, "▁"), (1.0, "▅"), (20.0, "▇"), (100.0, "█"), (1e6, "█")],
)
def test_a_block_is_as_high_as_a_claim_was_late(late, drawn):
    assert topview.block(late) == drawn


# --- on a terminal --------------------------------------------------------------------


def test_what_is_wrong_at_the_start_is_one_line(sqlite_url):
    assert "db sync" in one_line(managed("top", "--connection", sqlite_url))


class Terminal:
    """``top`` on a terminal of its own."""

    def __init__(self, url, *argv):
        self.ours, self.theirs = pty.openpty()
        self.modes = termios.tcgetattr(self.theirs)

        def on_terminal():
            for number in (0, 1):
                os.dup2(self.theirs, number)
            sys.stdin = open(0, closefd=False)

        env = {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
        argv = ("top", "--interval", "0.2", "--connection", url, *argv)
        self.command = Command(manage.main, *argv, env=env, patch=on_terminal)
        os.set_blocking(self.ours, False)

    def says(self, word):
        said = []

        def found():
            try:
                said.append(os.read(self.ours, 1 << 16).decode(errors="replace"))
            except BlockingIOError:
                time.sleep(0.02)
            return word in "".join(said)[-20_000:]

        wait_until(found, 60)

    def press(self, key):
        os.write(self.ours, key)

    def close(self):
        os.close(self.ours)
        os.close(self.theirs)


@pytest.mark.slow
def test_on_a_terminal_it_goes_on_through_an_outage_until_interrupted(
    mariadb_url, mariadb
):
    migration.sync(mariadb_url)
    engine = Driven(mariadb_url, engine_id="engine-1")
    terminal = Terminal(mariadb_url)
    terminal.says("engine-1")
    mariadb.stop()
    terminal.says("cannot look")
    terminal.says("engine-1")  # as it was seen last
    mariadb.start()
    terminal.says("engine-1")
    os.kill(terminal.command.pid, signal.SIGINT)
    assert terminal.command.result().code == 130
    terminal.close()
    engine.abandon()


@pytest.mark.slow
def test_it_obeys_its_keys_and_leaves_the_terminal_as_it_was(synced):
    terminal = Terminal(synced)
    terminal.says("space: hold still")
    assert not termios.tcgetattr(terminal.theirs)[3] & termios.ICANON
    terminal.press(b" ")
    terminal.says("space: go on")
    terminal.press(b"x")
    terminal.press(b" ")
    terminal.says("space: hold still")
    terminal.press(b"q")
    assert terminal.command.result().code == 0
    assert termios.tcgetattr(terminal.theirs) == terminal.modes
    terminal.close()


def test_into_a_pipe_it_is_printed_once(synced):
    fleet_of(synced, 30)
    out = managed("top", "--connection", synced, env={"COLUMNS": "80"}).out
    assert out.count("● live") == 30  # all of them: nobody's screen is too small
    assert "quit" not in out
    assert "\x1b" not in out
