"""liveness-manage sweep and purge: one pass by hand, and what it would do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from liveness import Done, Settings
from liveness.cmd import sweep
from liveness.handlers import Handlers
from tests.commands import managed, one_line
from tests.fleet import Driven, Recorder
from tests.test_migrations import run


def with_handlers(*handlers):
    """What a process does in which those are installed."""

    def patch():
        def load(self):
            for handler in handlers:
                self.add(handler)

        Handlers.load = load

    return patch


def ask(url, *argv, **how):
    return managed(*argv, "--connection", url, **how)


def table(url, columns, name="deadline"):
    return run(url, f"SELECT {columns} FROM liveness_{name} ORDER BY 1")[0]


ORPHAN, TIMER = Recorder("action", when_orphaned="retrigger"), Recorder("timer")


@pytest.fixture
def gone(schema_url):
    """An engine on this host whose process is gone, and what it had."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as process:
        engine = Driven(schema_url, handlers=(ORPHAN, TIMER, Recorder("else")))
        live = engine.live
        live.arm("timer", "adopted", due_in=600)
        live.arm("timer", "expired", due_in=0)
        live.arm("action", "retriggered", due_in=600)
        live.arm("else", "left", due_in=0)
        live.arm("timer", "hopeless", due_in=600)
        start = _start_of(process.pid)
        run(
            schema_url,
            "UPDATE liveness_deadline SET attempts = 5 WHERE id = 5",
            f"UPDATE liveness_engine SET pid = {process.pid}, process_start = {start}",
        )
        process.send_signal(signal.SIGKILL)
    yield engine
    engine.abandon()


def _start_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[19]


PLAN = {
    "timer/adopted": ("adopt", 2),
    "timer/expired": ("expire", 2),
    "action/retriggered": ("retrigger", 2),
    "else/left": ("leave", 1),
    "timer/hopeless": ("park", 1),
}


def test_a_dry_run_says_what_why_whose_and_under_which_epoch_and_changes_nothing(
    schema_url, gone
):
    before = table(schema_url, "*"), table(schema_url, "*", "engine")
    result = ask(
        schema_url,
        "sweep",
        "--dry-run",
        "-f",
        "json",
        patch=with_handlers(ORPHAN, TIMER),
    )
    assert (result.code, result.err) == (0, "")
    first, *rows = json.loads(result.out)
    assert (first["action"], first["subject"]) == ("fence", f"engine {gone.id}")
    assert "is gone" in first["why"]
    assert {r["subject"]: (r["action"], r["epoch"]) for r in rows} == PLAN
    assert {row["owner"] for row in rows} == {gone.id}
    assert all("its owner is fenced first" in row["why"] for row in rows)
    assert before == (table(schema_url, "*"), table(schema_url, "*", "engine"))


def test_a_sweep_does_what_the_dry_run_said(schema_url, gone):
    result = ask(
        schema_url, "sweep", "--yes", "-f", "json", patch=with_handlers(ORPHAN, TIMER)
    )
    assert result.code == 0, result.err
    did = {row["did"]: row["number"] for row in json.loads(result.out)}
    assert did == {
        "fenced": 1,
        "adopted": 1,
        "retriggered": 1,
        "expired": 1,
        "parked": 1,
        "purged": 0,
    }
    states = {
        key: (state, owner, epoch)
        for key, state, owner, epoch in table(
            schema_url, f"{_quoted(schema_url)}, state, owner_id, epoch"
        )
    }
    assert states == {
        "adopted": ("armed", None, 2),  # and handed back, for an engine that stays
        "left": ("armed", gone.id, 1),
        "hopeless": ("parked", None, 1),
    }
    engines = dict(table(schema_url, "id, state", "engine"))
    assert engines.pop(gone.id) == "fenced"
    assert list(engines.values()) == ["stopped"]


def _quoted(url):
    return "`key`" if url.startswith("mysql") else '"key"'


def test_only_fencing_claims_nothing(synced):
    engine = Driven(synced, handlers=(TIMER,), machine="far")
    engine.live.arm("timer", "k", due_in=0)
    run(synced, "UPDATE liveness_engine SET state = 'stopped', ended_at = beat_at")
    before = table(synced, "*")
    result = ask(synced, "sweep", "--yes", "--fence-only", patch=with_handlers(TIMER))
    assert result.code == 0, result.err
    assert table(synced, "*") == before
    engine.abandon()


OPTIONS = {
    "ttl": 1.0,
    "beat_interval": 0.2,
    "sweep_interval": 0.1,
    "lease_margin": 0.1,
    "database_timeout": 0.3,
}


def by_hand(url, **how):
    return sweep.by_hand(Settings.of(connection=url, **OPTIONS), timeout=20, **how)


def test_a_silent_engine_elsewhere_is_fenced_only_after_waiting(synced):
    engine = Driven(synced, machine="far", **OPTIONS)
    run(synced, "UPDATE liveness_engine SET beat_at = '2020-01-01 00:00:00.000000'")
    assert by_hand(synced, wait=False)["fenced"] == 0
    assert engine.row().state == "live"
    assert by_hand(synced, wait=True)["fenced"] == 1
    assert engine.row().fence_evidence.startswith("silent for ")
    engine.abandon()


def test_a_missing_owner_is_waited_for_as_well(synced):
    engine = Driven(synced, handlers=(TIMER,), machine="far", **OPTIONS)
    engine.live.arm("timer", "k", due_in=600)
    run(synced, "DELETE FROM liveness_engine")
    Handlers.load, load = lambda self: self.add(TIMER), Handlers.load
    try:
        assert by_hand(synced, wait=False)["adopted"] == 0
        assert by_hand(synced, wait=True)["adopted"] == 1
    finally:
        Handlers.load = load
    engine.abandon()


def test_a_sweep_waits_for_the_handlers_it_started(synced):
    engine = Driven(synced, handlers=(TIMER,), machine="far")
    engine.live.arm("timer", "k", due_in=0)
    run(synced, "UPDATE liveness_engine SET state = 'stopped', ended_at = beat_at")
    slow = Recorder("timer")

    def answer(deadline):
        import time

        time.sleep(0.5)
        return Done()

    slow.answer = answer
    result = ask(synced, "sweep", "--yes", patch=with_handlers(slow))
    assert result.code == 0, result.err
    assert table(synced, "id") == []
    engine.abandon()


def test_a_sweep_without_yes_does_nothing(synced):
    def no_terminal():
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdin = open(0, closefd=False)

    assert "--yes" in one_line(ask(synced, "sweep", patch=no_terminal))
    assert "--yes" in one_line(ask(synced, "purge", patch=no_terminal))
    assert table(synced, "id", "engine") == []


def test_a_sweep_without_tables_is_one_line(sqlite_url):
    assert "db sync" in one_line(ask(sqlite_url, "sweep", "--yes"))


def test_purge_deletes_what_ended_long_ago_and_owns_nothing(synced):
    engines = [Driven(synced, handlers=(TIMER,)) for _ in range(4)]
    owner = engines[0]
    owner.live.arm("timer", "k", due_in=600)
    fresh = engines[1]
    run(
        synced,
        "UPDATE liveness_engine SET state = 'stopped',"
        " ended_at = '2020-01-01 00:00:00.000000'",
        "UPDATE liveness_engine SET ended_at = (strftime('%Y-%m-%d %H:%M:%f', 'now')"
        f" || '000') WHERE id = '{fresh.id}'",
    )
    result = ask(synced, "purge", "--yes")
    assert (result.code, result.out) == (
        0,
        "2 rows of engines and 0 events are deleted.\n",
    )
    left = {row[0] for row in table(synced, "id", "engine")}
    assert left == {owner.id, fresh.id}
    assert ask(synced, "purge", "--yes", "--older-than", "0").out.startswith("1 rows")
    for engine in engines:
        engine.abandon()


@pytest.mark.parametrize(("had", "calls"), [(0, 1), (1, 1), (2, 2), (5, 3)])
def test_batches_go_on_until_one_is_not_full(had, calls):
    left, called = [had], []

    def delete(limit):
        called.append(limit)
        count = min(limit, left[0])
        left[0] -= count
        return count

    assert sweep.in_batches(delete, 2) == had
    assert len(called) == calls
