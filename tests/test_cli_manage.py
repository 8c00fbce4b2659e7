"""liveness-manage engine, deadline and config: what operators see and do."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from liveness import Settings
from liveness.clock import Clock
from liveness.cmd import deadlines, embed, manage, output
from liveness.db import report
from liveness.db.report import Filter, Report
from liveness.engine import Liveness
from tests.commands import managed, one_line
from tests.fleet import Driven, Gate, Recorder, wait_until
from tests.test_migrations import run

ROOT = Path(__file__).parent.parent


@pytest.fixture
def engine(request, schema_url):
    yield from _driven(schema_url)


@pytest.fixture
def lite(synced):
    """An engine on SQLite."""
    yield from _driven(synced)


def _driven(url):
    made = Driven(url, handlers=(Recorder("timer"),), machine="far")
    yield made
    made.abandon()


def ask(url, *argv, **how):
    return managed(*argv, "--connection", url, **how)


def listed(url, *argv):
    result = ask(url, *argv, "-f", "json")
    assert (result.code, result.err) == (0, "")
    return json.loads(result.out)


def rows(url, wanted=None):
    with report.opened(url, 5.0) as connection:
        return list(Report(Clock()).deadlines(connection, wanted))


# --- reading ------------------------------------------------------------------------


def test_engines_are_listed_with_what_is_left_of_their_leases(schema_url, engine):
    engine.live.arm("timer", "k", due_in=60)
    (row,) = listed(schema_url, "engine", "list", "--count")
    assert (row["id"], row["state"], row["host"]) == (engine.id, "live", "far")
    assert 0 < row["left"] <= row["ttl"] == 30.0
    assert row["deadlines"] == 1
    assert listed(schema_url, "engine", "list", "--state", "fenced") == []
    assert listed(schema_url, "engine", "list", "--host", "near") == []
    shown = listed(schema_url, "engine", "show", engine.id[:6])
    assert shown["id"] == engine.id
    assert (shown["armed"], shown["claimed"]) == (1, 0)
    assert shown["next"].startswith("It lives")


def test_every_filter_of_deadlines_chooses(schema_url, engine):
    other = Driven(schema_url, handlers=(Recorder("timer"), Recorder("a%_")))
    engine.live.arm("timer", "web-1", due_in=600)
    engine.live.arm("timer", "Web-2", due_in=600)
    engine.live.arm("timer", "late", due_in=0)
    # Its owner still has its head start.
    assert listed(schema_url, "deadline", "list", "--overdue") == []
    other.live.arm("a%_", "web_3", due_in=600)
    other.live.arm("timer", "parked", due_in=600)
    ask(schema_url, "deadline", "park", "timer", "parked", "--yes")
    other.parts.engines.fence(*_fence(other), None, "test")

    def keys(*argv):
        return [row["key"] for row in listed(schema_url, "deadline", "list", *argv)]

    assert keys() == ["web-1", "Web-2", "late", "web_3", "parked"]
    assert keys("--prefix", "web") == ["web-1", "web_3"]
    assert keys("--prefix", "web_") == ["web_3"]
    assert keys("--kind", "a%_") == ["web_3"]
    assert keys("--owner", engine.id) == ["web-1", "Web-2", "late"]
    assert keys("--owner", "nobody") == ["parked"]
    assert keys("--orphaned") == ["web_3"]
    assert keys("--state", "parked") == ["parked"]
    assert keys("--overdue", "0") == ["late"]
    assert keys("--limit", "2", "--owner", engine.id) == ["web-1", "Web-2"]
    other.abandon()


def _fence(victim):
    with victim.connect() as connection:
        row = victim.row()
    connection = victim.parts._pool.connect()
    return connection, row


def test_a_deadline_is_shown_with_what_will_happen_to_it(schema_url, engine):
    live = engine.live
    live.arm("timer", "k", due_in=600, payload={"user": "u", "a": [{"db_password": 1}]})
    shown = listed(schema_url, "deadline", "show", "timer", "k")
    assert shown["payload"] == {"user": "u", "a": [{"db_password": "***"}]}
    assert f"by engine {engine.id} (far, pid {os.getpid()})" in shown["next"]
    engine.parts.engines.fence(*_fence(engine), None, "test")
    shown = listed(schema_url, "deadline", "show", "timer", "k")
    assert shown["owner_state"] == "fenced"
    assert "is fenced: an engine with a handler" in shown["next"]
    assert "under epoch 2" in shown["next"]


def test_a_missing_owner_and_none_are_told_apart(schema_url, engine):
    for key in ("none", "missing"):
        engine.live.arm("timer", key, due_in=600)
    run(
        schema_url,
        "UPDATE liveness_deadline SET owner_id = NULL WHERE id = 1",
        "UPDATE liveness_deadline SET owner_id = 'ghost' WHERE id = 2",
    )
    found = rows(schema_url, Filter(orphaned=True))
    assert [row.owner_state for row in found] == ["nobody", "missing"]
    assert "has no owner" in deadlines.prospects(found[0])
    assert "ghost has no row" in deadlines.prospects(found[1])


@pytest.mark.parametrize("window", [1, 2, 3, 4, 5])
def test_no_row_is_listed_twice_or_left_out_at_the_edge_of_a_window(
    lite, synced, window, monkeypatch
):
    monkeypatch.setattr(report, "WINDOW", window)
    for n in range(6):
        lite.live.arm("timer", f"k{n}", due_in=60)
    run(synced, "DELETE FROM liveness_deadline WHERE id IN (2, 3, 4)")
    found = rows(synced)
    assert [row.key for row in found] == ["k0", "k4", "k5"]
    run(synced, "UPDATE liveness_deadline SET state = 'parked' WHERE id = 6")
    assert [row.key for row in rows(synced, Filter(states=["parked"]))] == ["k5"]
    extra = [Driven(synced) for _ in range(4)]
    with report.opened(synced, 5.0) as connection:
        ids = [shown.engine.id for shown in Report(Clock()).engines(connection)]
    assert ids == sorted([lite.id, *(driven.id for driven in extra)])
    for driven in extra:
        driven.abandon()


MANY = 200_000
FILL = f"""
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY})
    INSERT INTO liveness_deadline (kind, key, owner_id, token, arm_token, epoch, state,
        due_at, expires_at, attempts, max_attempts, payload, last_error, created_at,
        updated_at)
    SELECT 'timer', 'key-' || i, 'ghost', i, i, 1, 'armed',
        '2030-01-01 00:00:00.000000',
        '2030-01-01 00:00:00.000000', 0, 5, NULL, 'some words on what went wrong ' || i,
        '2025-01-01 00:00:00.000000', '2025-01-01 00:00:00.000000' FROM n
"""
MEASURED = """
import re, sys
from liveness.cmd.manage import main
code = main(sys.argv[1:])
sys.stderr.write(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["table", "json"])
def test_a_long_list_is_not_held_in_memory(synced, form):
    """Held as rows, these are more than 200 MB."""

    def megabytes(*argv):
        words = ["deadline", "list", "--connection", synced, "-f", form, *argv]
        with subprocess.Popen(
            [sys.executable, "-c", MEASURED, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as process:
            count = sum(line.count(b"key-") for line in process.stdout)
            peak = process.stderr.read()
        assert process.returncode == 0
        return count, int(peak) / 1024

    run(synced, FILL)
    few, little = megabytes("--limit", "3000")
    many, much = megabytes()
    assert (few, many) == (3000, MANY)
    assert much - little < 30


# --- formats ------------------------------------------------------------------------


def test_hostile_text_cannot_move_the_cursor_but_is_exact_for_programs(synced, lite):
    lite.live.arm("timer", "k", due_in=60)
    hostile = "a\x1b[2Jb\nc"
    engine = sa.create_engine(synced)
    with engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE liveness_deadline SET key = :key"), {"key": hostile}
        )
    engine.dispose()
    argv = ["deadline", "list", "-c", "key", "--connection", synced, "-f"]
    for form in ("table", "value"):
        text = managed(*argv, form).out
        assert "a\\x1b[2Jb\\nc" in text
        assert "\x1b" not in text
    assert json.loads(managed(*argv, "json").out) == [{"key": hostile}]
    read = csv.reader(io.StringIO(managed(*argv, "csv").out))
    assert list(read)[1:] == [[hostile]]


def test_json_of_a_list_is_what_json_is_with_and_without_indent(synced, lite):
    argv = ["deadline", "list", "-f", "json", "--connection", synced]
    for more in ([], ["--noindent"]):
        assert managed(*argv, *more).out == "[]\n"
    for n in range(3):
        lite.live.arm("timer", f"k{n}", due_in=60)
    whole, flat = managed(*argv, "-c", "key"), managed(*argv, "-c", "key", "--noindent")
    names = [{"key": f"k{n}"} for n in range(3)]
    assert whole.out == json.dumps(names, indent=2) + "\n"
    assert flat.out == json.dumps(names) + "\n"


def test_a_table_fits_the_terminal(synced, lite):
    lite.live.arm("timer", "k" * 200, due_in=60)
    result = ask(synced, "deadline", "list", "--max-width", "120")
    lines = result.out.splitlines()
    assert {len(line) for line in lines} == {120}
    assert "…" in result.out


def test_widths_are_as_wide_as_needed_and_no_narrower_than_may_be():
    assert output._shrunk([10, 40, 20], 60) == [10, 30, 20]
    assert output._shrunk([10, 40, 20], 70) == [10, 40, 20]
    assert output._shrunk([10, 40, 20], 5) == [8, 8, 8]
    assert output._shrunk([3, 40], 5) == [3, 8]


@pytest.mark.parametrize("form", list(output.FORMATS))
def test_an_error_before_the_first_row_writes_nothing_to_stdout(sqlite_url, form):
    text = one_line(ask(sqlite_url, "deadline", "list", "-f", form))
    assert "db sync" in text


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["engine", "show", "nobody"], ["nobody", "no such engine"]),
        (["engine", "fence", "nobody", "-y"], ["no such engine"]),
        (["engine", "drain", "nobody", "-y"], ["no such engine"]),
        (["engine", "drain", "x", "--wait", "nan"], ["--wait", "nan"]),
        (["engine", "list", "--state", "dead"], ["dead", "fenced"]),
        (["deadline", "show", "timer", "x"], ["no deadline timer/x"]),
        (["deadline", "show", "timer", "\udcff"], ["no deadline"]),
        (["deadline", "disarm", "timer", "\udcff", "-y"], ["no deadline"]),
        (["deadline", "retry", "timer", "x", "-y"], ["no deadline timer/x"]),
        (["deadline", "retry", "timer"], ["KIND and KEY"]),
        (["deadline", "retry", "-y"], ["KIND and KEY"]),
        (["deadline", "retry", "a", "b", "--all"], ["or --all"]),
        (["deadline", "retry", "a", "b", "--kind", "x"], ["--all"]),
        (["deadline", "park", "timer", "x", "-y"], ["no deadline timer/x"]),
        (["deadline", "list", "--limit", "0"], ["--limit", "'0'"]),
        (["deadline", "list", "--limit", "1e9"], ["--limit"]),
        (["deadline", "list", "--overdue", "soon"], ["soon"]),
        (["deadline", "list", "-c", "colour"], ["colour", "owner_state"]),
        (["deadline"], ["deadline list"]),
    ],
)
def test_what_is_typed_wrong_is_one_line(synced, argv, words):
    where = ["--connection", synced] if len(argv) > 1 else []
    text = one_line(managed(*argv, *where))
    for word in words:
        assert word in text


# --- verbs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["deadline", "park", "timer", "k"],
        ["deadline", "disarm", "timer", "k"],
        ["engine", "fence", "ID", "--force"],
        ["engine", "drain", "ID"],
    ],
)
def test_a_verb_without_yes_and_without_a_terminal_does_nothing(synced, lite, argv):
    lite.live.arm("timer", "k", due_in=60)
    before = run(synced, "SELECT * FROM liveness_deadline", "SELECT state FROM"
                 " liveness_engine")  # fmt: skip
    argv = [lite.id if word == "ID" else word for word in argv]
    text = one_line(ask(synced, *argv, patch=_stdin_is_null))
    assert "--yes" in text
    after = run(synced, "SELECT * FROM liveness_deadline", "SELECT state FROM"
                " liveness_engine")  # fmt: skip
    assert before == after


def _stdin_is_null():
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(0, closefd=False)


@pytest.mark.parametrize(
    ("answer", "code", "left"), [("n", 1, 1), ("", 1, 1), ("y", 0, 0)]
)
def test_a_verb_asks_on_a_terminal(synced, lite, answer, code, left):
    lite.live.arm("timer", "k", due_in=60)
    ours, theirs = pty.openpty()

    def on_terminal():
        os.dup2(theirs, 0)
        sys.stdin = open(0, closefd=False)

    os.write(ours, f"{answer}\n".encode())
    result = ask(synced, "deadline", "disarm", "timer", "k", patch=on_terminal)
    os.close(ours)
    os.close(theirs)
    assert result.code == code
    assert "will be removed for good" in result.err
    assert len(rows(synced)) == left


def test_a_parked_deadline_is_retried_and_only_a_parked_one(schema_url, engine):
    engine.live.arm("timer", "k", due_in=600)
    retry = ["deadline", "retry", "timer", "k", "--yes"]
    assert "is armed, not parked" in one_line(ask(schema_url, *retry))
    assert ask(schema_url, "deadline", "park", "timer", "k", "-y", "--reason", "why")
    (row,) = rows(schema_url)
    assert (row.state, row.owner_id) == ("parked", None)
    assert row.last_error.startswith("by operator ")
    assert row.last_error.endswith(": why")
    again = one_line(ask(schema_url, "deadline", "park", "timer", "k", "-y"))
    assert "parked already" in again
    assert ask(schema_url, *retry).code == 0
    (row,) = rows(schema_url)
    assert (row.state, row.attempts, row.owner_id) == ("armed", 0, None)


@pytest.mark.parametrize("verb", ["park", "disarm"])
def test_an_operator_can_end_what_nobody_owns(schema_url, engine, verb):
    engine.live.arm("timer", "k", due_in=600)
    run(schema_url, "UPDATE liveness_deadline SET owner_id = NULL")
    result = ask(schema_url, "deadline", verb, "timer", "k", "--yes")
    assert (result.code, result.err) == (0, "")
    assert [row.state for row in rows(schema_url)] == ["parked"] * (verb == "park")


def test_a_parked_deadline_can_be_disarmed(schema_url, engine):
    engine.live.arm("timer", "k", due_in=600)
    run(schema_url, "UPDATE liveness_deadline SET state = 'parked', owner_id = NULL")
    assert ask(schema_url, "deadline", "disarm", "timer", "k", "--yes").code == 0
    assert rows(schema_url) == []


def test_all_parked_deadlines_of_a_kind_are_retried(schema_url, engine):
    engine.live.add_handler(Recorder("other"))
    for key in "ab":
        engine.live.arm("timer", key, due_in=600)
    engine.live.arm("other", "c", due_in=600)
    run(schema_url, "UPDATE liveness_deadline SET state = 'parked', owner_id = NULL")
    result = ask(schema_url, "deadline", "retry", "--all", "--kind", "timer", "-y")
    assert "2 deadlines are armed again" in result.out
    assert [row.state for row in rows(schema_url)] == ["armed", "armed", "parked"]


@pytest.mark.parametrize("verb", ["park", "disarm"])
def test_what_a_running_handler_does_counts_for_nothing_after_the_operator(
    schema_url, verb
):
    gate = Gate()
    recorder = Recorder("timer")
    recorder.answer = gate
    engine = Driven(schema_url, handlers=(recorder,))
    engine.live.arm("timer", "k", due_in=0)
    engine.turn()
    engine.turn()
    assert gate.entered.wait(10)
    result = ask(schema_url, "deadline", verb, "timer", "k", "--yes")
    assert (result.code, result.err) == (0, "")
    gate.open.set()
    engine.settle()
    assert [row.state for row in rows(schema_url)] == ["parked"] * (verb == "park")
    engine.abandon()


@pytest.mark.parametrize("verb", ["park", "disarm", "retry"])
def test_a_deadline_that_changes_while_the_operator_is_asked_is_left_alone(
    synced, lite, verb
):
    """The write presents the token that was read."""
    from liveness.db.deadlines import Deadlines

    value = lite.live.arm("timer", "k", due_in=600)
    if verb == "retry":
        ask(synced, "deadline", "park", "timer", "k", "-y")

    def in_between():
        find = Deadlines.find

        def found(self, connection, kind, key):
            row = find(self, connection, kind, key)
            run(synced, "UPDATE liveness_deadline SET token = token + 1")
            return row

        Deadlines.find = found

    text = one_line(ask(synced, "deadline", verb, "timer", "k", "-y", patch=in_between))
    assert "moved on" in text
    (row,) = rows(synced)
    assert row.token != value.token


def test_a_living_engine_is_fenced_only_by_force_and_learns_of_it(schema_url, engine):
    engine.live.arm("timer", "k", due_in=600)
    fence = ["engine", "fence", engine.id, "--yes", "--reason", "fire"]
    text = one_line(ask(schema_url, *fence))
    assert "may well be alive" in text
    assert engine.beat()
    result = ask(schema_url, *fence, "--force")
    assert (result.code, result.err) == (0, "")
    row = engine.row()
    assert (row.state, row.fenced_by) == ("fenced", None)
    assert row.fence_evidence.startswith("operator ")
    assert row.fence_evidence.endswith(": fire")
    assert not engine.beat()
    assert engine.trust.fenced
    assert "is fenced already" in one_line(ask(schema_url, *fence))


def _beat_meanwhile(url, times):
    """Have the engine beat between the operator's look and the fence."""
    from liveness.db.engines import Engines

    fence, left = Engines.fence, [times]

    def late(self, connection, victim, by, evidence):
        if left[0]:
            left[0] -= 1
            run(url, "UPDATE liveness_engine SET beat_seq = beat_seq + 1")
        return fence(self, connection, victim, by, evidence)

    return lambda: setattr(Engines, "fence", late)


def test_an_engine_that_beats_meanwhile_is_not_fenced_without_force(synced, lite):
    run(synced, "UPDATE liveness_engine SET beat_at = '2020-01-01 00:00:00.000000'")
    fence = ["engine", "fence", lite.id, "--yes"]
    text = one_line(ask(synced, *fence, patch=_beat_meanwhile(synced, 1)))
    assert "has beaten since" in text
    assert lite.row().state == "live"
    forced = ask(synced, *fence, "--force", patch=_beat_meanwhile(synced, 3))
    assert forced.code == 0
    assert lite.row().state == "fenced"


def test_the_prompt_says_what_fencing_a_living_engine_will_do(synced, lite):
    lite.live.arm("timer", "k", due_in=600)
    argv = ["engine", "fence", lite.id, "--force"]
    text = one_line(ask(synced, *argv, patch=_stdin_is_null))
    for words in ("take over its 1 deadlines", "at its next beat", "done once more"):
        assert words in text


def test_an_engine_of_another_process_drains_when_asked(schema_url):
    live = Liveness(Settings.of(connection=schema_url, sweep_interval=0.1))
    live.add_handler(Recorder("timer"))
    live.start()
    try:
        live.arm("timer", "k", due_in=600)
        # No fork of this process: a thread of the engine may have SQLite's mutex.
        drain = ["engine", "drain", live.engine_id, "--yes", "--wait", "60"]
        argv = [sys.executable, "-m", "liveness.cmd.manage", *drain]
        result = subprocess.run(
            [*argv, "--connection", schema_url],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.endswith("It is stopped.\n")
        (row,) = rows(schema_url)
        assert (row.owner_id, row.state) == (None, "armed")
        wait_until(lambda: not live.trusted)
    finally:
        live.stop()


def test_draining_is_said_not_to_have_ended_in_time(synced, lite):
    argv = ["engine", "drain", lite.id, "--yes", "--wait", "0"]
    result = ask(synced, *argv)
    assert result.code == 1
    assert "still drains" in result.err
    assert lite.row().state == "draining"
    assert lite.beat()


# --- config -------------------------------------------------------------------------


def test_config_check_lists_every_option_and_no_password(tmp_path):
    path = tmp_path / "x.conf"
    secret = "s3cr3t"
    path.write_text(
        f"[liveness]\nconnection = mysql+pymysql://u:{secret}@h/x\nttl = 40\n"
    )
    result = managed("config", "check", "--config-file", str(path), "-f", "json")
    assert (result.code, result.err) == (0, "")
    assert secret not in result.out
    found = {row["option"]: row for row in json.loads(result.out)}
    assert found["ttl"]["value"] == 40.0
    assert found["ttl"]["source"] == "set"
    assert found["beat_interval"]["source"] == "default"
    path.write_text("[liveness]\nttl = 5\n")
    text = one_line(managed("config", "check", "--config-file", str(path)))
    assert "ttl (5 s)" in text


# --- in another program -------------------------------------------------------------


def test_the_verbs_work_in_a_host_programs_parser(synced, lite, capsys):
    import argparse

    lite.live.arm("timer", "k", due_in=600)
    parser = argparse.ArgumentParser(prog="heat-manage liveness")
    settings = Settings.of(connection=synced)
    embed.embed(parser, manage.COMMANDS, lambda: settings)
    args = parser.parse_args(["deadline", "disarm", "timer", "k", "--yes"])
    assert args.run(args) == 0
    assert capsys.readouterr().out == "timer/k is gone.\n"
    args = parser.parse_args(["deadline", "list", "--overdue", "-f", "json"])
    assert args.run(args) == 0
    assert json.loads(capsys.readouterr().out) == []
