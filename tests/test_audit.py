"""liveness-audit: each finding just before and just after it is one; exit codes."""

from __future__ import annotations

import configparser
import csv
import dataclasses
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from liveness import Settings, audit
from liveness.audit import REMEDIES, Audit
from liveness.clock import Clock
from liveness.cmd import audit as command
from liveness.db.report import opened
from liveness.identity import Identity
from tests.clock import SettableClock
from tests.commands import Command, managed, one_line
from tests.fleet import Driven, Recorder
from tests.test_cli_sweep import with_handlers
from tests.test_migrations import run

ROOT = Path(__file__).parent.parent
TIMER = Recorder("timer")


class StillClock(SettableClock):
    """The database's and this host's clock, and how far this host's is off."""

    off = 0.0

    def host_now(self):
        return self.utc + timedelta(seconds=self.off)


@pytest.fixture
def clock():
    return StillClock()


@pytest.fixture
def engine(schema_url, clock):
    made = Driven(schema_url, clock, handlers=(TIMER,), machine="far")
    yield made
    made.abandon()


def look(url, clock, kinds=(), schema=False):
    looks = Audit(clock, Settings.of(connection=url), kinds)
    if not schema:  # which takes longer than all the rest
        looks._schema = lambda: iter(())
    with opened(url, 5.0) as connection:
        return list(looks.findings(connection))


def codes(url, clock, kinds=()):
    return sorted(f.code for f in look(url, clock, kinds))


def set_all(url, table, values):
    run(url, f"UPDATE liveness_{table} SET {values}")


# --- all is well ----------------------------------------------------------------------


def test_nothing_is_found_where_nothing_is_wrong(schema_url, clock, engine):
    engine.live.arm("timer", "k", due_in=600)
    engine.live.arm("timer", "now", due_in=0)
    assert look(schema_url, clock, ["timer"], schema=True) == []


def test_an_empty_database_is_in_order(schema_url, clock):
    assert look(schema_url, clock) == []


# --- engines --------------------------------------------------------------------------


def test_an_engine_is_silent_once_its_lease_is_over(schema_url, clock, engine):
    clock.utc += timedelta(seconds=30) - timedelta(milliseconds=1)
    assert codes(schema_url, clock) == []
    clock.utc += timedelta(milliseconds=1)
    (finding,) = look(schema_url, clock)
    assert (finding.code, finding.severity) == ("engine-silent", "critical")
    assert finding.subject == f"engine {engine.id}"
    assert "last beat 30.0 s ago" in finding.message
    engine.beat()
    assert codes(schema_url, clock) == []


def test_a_dead_process_on_this_host_is_seen_at_once(schema_url, clock):
    engine = Driven(schema_url, clock)
    assert codes(schema_url, clock) == []
    set_all(schema_url, "engine", "process_start = 1")
    (finding,) = look(schema_url, clock)
    assert finding.code == "engine-dead"
    assert "another process" in finding.message
    engine.abandon()


def test_deadlines_without_any_living_engine(schema_url, clock, engine):
    engine.live.arm("timer", "k", due_in=600)
    assert codes(schema_url, clock) == []
    with engine.connect() as connection:
        engine.parts.engines.resign(connection, engine.id)
    assert codes(schema_url, clock) == ["engine-none"]
    set_all(schema_url, "deadline", "state = 'parked', owner_id = NULL")
    assert codes(schema_url, clock) == ["deadline-parked"]


@pytest.mark.parametrize(
    ("fences", "ago", "found"), [(2, 0, 0), (3, 899, 1), (3, 901, 0), (4, 0, 1)]
)
def test_a_program_whose_engines_are_fenced_again_and_again_flaps(
    synced, clock, fences, ago, found
):
    for _ in range(fences):
        engine = Driven(synced, clock, machine="far")
        with engine.connect() as connection:
            assert engine.parts.engines.fence(connection, engine.row(), None, "gone")
        engine.abandon()
    clock.utc += timedelta(seconds=ago)
    assert codes(synced, clock) == ["engine-flapping"] * found


def test_engines_that_stop_in_good_order_do_not_flap(synced, clock):
    for _ in range(4):
        engine = Driven(synced, clock, machine="far")
        with engine.connect() as connection:
            engine.parts.engines.resign(connection, engine.id)
        engine.abandon()
    assert codes(synced, clock) == []


def test_rows_of_engines_that_nobody_purged_are_stale(schema_url, clock, engine):
    former = Driven(schema_url, clock, machine="far")
    with former.connect() as connection:
        former.parts.engines.resign(connection, former.id)
    age = 2 * 3600 + 4 * 30
    for seconds, found in ((age, []), (0.001, ["engine-stale"])):
        clock.utc += timedelta(seconds=seconds)
        engine.beat()
        assert codes(schema_url, clock) == found
    former.abandon()


def test_a_beat_in_the_future_shows_clocks_apart(schema_url, clock, engine):
    clock.utc -= timedelta(seconds=1)
    assert codes(schema_url, clock) == []
    clock.utc -= timedelta(milliseconds=1)
    assert codes(schema_url, clock) == ["clock-database"]


@pytest.mark.parametrize("off", [1.0, -1.0])
def test_a_hosts_clock_may_be_off_by_so_much(synced, clock, off):
    clock.off = off
    assert codes(synced, clock) == []
    clock.off = off * 1.001
    (finding,) = look(synced, clock)
    assert finding.code == "clock-host"
    assert socket.gethostname() in finding.subject


def test_a_changed_table_is_found(schema_url, owned_url, clock, backend):
    on = " ON liveness_engine" if backend == "mariadb" else ""
    run(owned_url, f"DROP INDEX ix_liveness_engine_ended{on}")
    (finding,) = look(schema_url, clock, schema=True)
    assert finding.code == "schema-differs"
    assert "ix_liveness_engine_ended" in finding.message


# --- deadlines ------------------------------------------------------------------------


@pytest.mark.parametrize("owner", ["fenced", "nobody", "missing"])
def test_an_orphan_is_found_when_nobody_took_it_for_a_whole_ttl(
    schema_url, clock, engine, owner
):
    other = Driven(schema_url, clock, handlers=(TIMER,), machine="far")
    other.live.arm("timer", "k", due_in=6000)
    if owner == "fenced":
        clock.advance(5)
        with other.connect() as connection:
            other.parts.engines.fence(connection, other.row(), None, "gone")
    elif owner == "missing":
        run(schema_url, f"DELETE FROM liveness_engine WHERE id = '{other.id}'")
    else:
        set_all(schema_url, "deadline", "owner_id = NULL")
        run(schema_url, f"DELETE FROM liveness_engine WHERE id = '{other.id}'")
    for seconds, found in ((30, []), (0.001, ["deadline-orphaned"])):
        clock.advance(seconds)
        engine.beat()
        assert codes(schema_url, clock) == found
    (finding,) = look(schema_url, clock)
    assert (finding.subject, finding.count) == ("kind timer", 1)
    assert finding.message.endswith(": k.")
    other.abandon()


def test_an_overdue_deadline_is_found_after_head_start_and_a_ttl(
    schema_url, clock, engine
):
    engine.live.arm("timer", "k", due_in=10)
    for seconds, found in ((10 + 5 + 1 + 29.999, []), (0.001, ["deadline-overdue"])):
        clock.advance(seconds)
        engine.beat()
        assert codes(schema_url, clock) == found


def test_a_deadline_that_is_claimed_too_long_is_found(schema_url, clock, engine):
    engine.live.arm("timer", "k", due_in=0)
    set_all(schema_url, "deadline", "state = 'claimed'")
    for seconds, found in ((300 + 30, []), (0.001, ["deadline-claimed"])):
        clock.advance(seconds)
        engine.beat()
        assert codes(schema_url, clock) == found


def test_parked_deadlines_are_one_finding_a_kind_with_the_reason(
    schema_url, clock, engine
):
    engine.live.add_handler(Recorder("other"))
    for n in range(5):
        engine.live.arm("timer", f"k{n}", due_in=n)
    engine.live.arm("other", "o", due_in=5)
    set_all(
        schema_url,
        "deadline",
        "state = 'parked', owner_id = NULL, last_error = 'no such region'",
    )
    other, timer = look(schema_url, clock)
    assert (other.subject, timer.subject) == ("kind other", "kind timer")
    assert (other.count, timer.count) == (1, 5)
    assert "k0, k1, k2, …" in timer.message
    assert timer.message.endswith("because no such region")
    assert "deadline retry" in timer.remedy


def test_a_kind_that_nobody_knows_is_found_where_the_known_ones_are_told(
    schema_url, clock, engine
):
    engine.live.add_handler(Recorder("email"))
    engine.live.arm("timer", "k", due_in=600)
    engine.live.arm("email", "e", due_in=600)
    assert codes(schema_url, clock) == []
    assert codes(schema_url, clock, ["timer", "email"]) == []
    (finding,) = look(schema_url, clock, ["timer"])
    assert (finding.code, finding.subject) == ("kind-unknown", "kind email")


@pytest.mark.parametrize(("rows", "said"), [(4, "4 deadlines"), (5, "5 or more")])
def test_a_check_reads_no_more_than_so_many_rows(
    schema_url, clock, engine, monkeypatch, rows, said
):
    monkeypatch.setattr(audit, "MOST", 5)
    monkeypatch.setattr(Audit._some, "__defaults__", (5,))
    for n in range(rows + (rows == 5)):
        engine.live.arm("timer", f"k{n}", due_in=600)
    set_all(schema_url, "deadline", "state = 'parked', owner_id = NULL")
    (finding,) = look(schema_url, clock)
    assert finding.count == rows
    assert said in finding.message


def test_hostile_keys_and_reasons_stay_on_their_line(synced, clock):
    engine = Driven(synced, clock, handlers=(TIMER,), machine="far")
    engine.live.arm("timer", "k", due_in=600)
    set_all(
        synced,
        "deadline",
        "state = 'parked', owner_id = NULL, key = 'a' || char(10, 27) || 'b',"
        " kind = 'c' || char(10), last_error = 'x' || char(10, 27) || 'y'",
    )
    (finding,) = look(synced, clock)
    for text in (finding.subject, finding.message):
        assert text.isprintable()
    engine.abandon()


# --- the program ----------------------------------------------------------------------


def audited(url, *argv, **how):
    return Command(command.main, "--connection", url, *argv, **how).result()


def test_it_is_silent_and_exits_with_0_when_all_is_well(schema_url):
    result = audited(schema_url)
    assert (result.code, result.out, result.err) == (0, "", "")
    result = audited(schema_url, "-f", "json")
    assert (result.code, json.loads(result.out)) == (0, {"findings": []})


def park_one(url):
    engine = Driven(url, handlers=(TIMER,), machine="far")
    engine.live.arm("timer", "k", due_in=600)
    set_all(url, "deadline", "state = 'parked', owner_id = NULL, last_error = 'why'")
    engine.abandon()


def test_findings_exit_with_1_in_every_format(schema_url):
    park_one(schema_url)
    result = audited(schema_url)
    assert (result.code, result.err) == (1, "")
    assert re.fullmatch(
        r"WARNING deadline-parked kind timer: 1 deadlines .* Remedy: .*\n", result.out
    )
    result = audited(schema_url, "-f", "json")
    (finding,) = json.loads(result.out)["findings"]
    assert {"code", "severity", "subject", "message", "remedy"} <= finding.keys()
    (row,) = csv.DictReader(io.StringIO(audited(schema_url, "-f", "csv").out))
    assert row["code"] == finding["code"] == "deadline-parked"
    assert audited(schema_url, "--ignore", "deadline-parked").code == 0
    assert managed("audit", "--connection", schema_url).code == 1


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--nonsense"], ["--nonsense", "liveness-audit --help"]),
        (["more"], ["more"]),
        (["-f", "xml"], ["xml", "json"]),
        (["--ignore", "nonsense"], ["nonsense", "engine-silent"]),
        (["--timeout", "nan"], ["nan"]),
        (["--timeout"], ["--timeout"]),
        (["--wait"], ["--recover"]),
        (["--config-file", "/nowhere/x"], ["/nowhere/x"]),
        (["--connection", "nonsense://"], ["nonsense"]),
        (["--connection", "sqlite:////nowhere/x"], ["cannot be used"]),
    ],
)
def test_what_keeps_it_from_looking_is_one_line_and_exit_code_2(synced, argv, words):
    text = one_line(audited(synced, *argv), code=2)
    assert text.startswith("liveness-audit: ")
    for word in words:
        assert word in text


def test_a_database_without_tables_cannot_be_looked_at(database_url):
    assert "db sync" in one_line(audited(database_url), code=2)


def test_help_and_version():
    result = Command(command.main, "--help").result()
    assert (result.code, result.err) == (0, "")
    assert "usage: liveness-audit [" in result.out
    assert "\n  liveness-audit -f json --timeout 20" in result.out
    assert Command(command.main, "--version").result().out.startswith("liveness-audit ")


def test_it_gives_up_in_time_on_a_database_that_hangs():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        url = f"postgresql+psycopg://u:s3cr3t@127.0.0.1:{port}/x"
        text = one_line(audited(url, "--timeout", "0.5"), code=2)
    assert "more than 0.5 s" in text


def test_it_needs_no_more_than_the_right_to_read(schema_url, backend, server):
    if backend == "sqlite":
        path = schema_url.partition(":///")[2]
        park_one(schema_url)
        run(schema_url, "PRAGMA wal_checkpoint(TRUNCATE)")
        url = f"sqlite:///file:{path}?mode=ro&uri=true"
        assert audited(url).code == 1
        return
    park_one(schema_url)
    name = schema_url.rpartition("/")[2].partition("?")[0]
    user = "'auditor'@'%'" if backend == "mariadb" else "auditor"
    create = "CREATE USER {} IDENTIFIED BY 's'" if backend == "mariadb" else (
        "CREATE ROLE {} LOGIN PASSWORD 's'"
    )  # fmt: skip
    server.admin(create.format(user))
    try:
        for table in ("engine", "deadline", "alembic_version"):
            where = f"`{name}`.liveness_{table}" if backend == "mariadb" else (
                f"liveness_{table}"
            )  # fmt: skip
            server.admin(f"GRANT SELECT ON {where} TO {user}", name)
        result = audited(server.url(name, user="auditor", password="s"))
        assert (result.code, result.err) == (1, "")
        assert "deadline-parked" in result.out
    finally:
        server.restore()
        if backend == "postgresql":
            server.admin(f"DROP OWNED BY {user}", name)
        server.admin(f"DROP {create.split()[1]} {user}")


def test_two_at_once_do_no_harm(schema_url):
    park_one(schema_url)
    both = [
        Command(command.main, "--connection", schema_url, "-f", "json") for _ in "ab"
    ]
    results = [each.result() for each in both]
    assert [result.code for result in results] == [1, 1]
    assert results[0].out == results[1].out


# --- recovery -------------------------------------------------------------------------

OPTIONS = {
    "ttl": 1.0,
    "beat_interval": 0.2,
    "sweep_interval": 0.1,
    "lease_margin": 0.1,
    "database_timeout": 0.3,
}


@pytest.fixture
def config(synced, tmp_path):
    path = tmp_path / "x.conf"
    lines = [f"{name} = {value}" for name, value in OPTIONS.items()]
    path.write_text("\n".join(["[liveness]", f"connection = {synced}", *lines]))
    return str(path)


def recovering(config, *argv):
    return Command(
        command.main,
        "--config-file",
        config,
        "--recover",
        *argv,
        patch=with_handlers(TIMER),
    )


def test_recovery_of_what_a_dead_process_left(synced, config):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as process:
        engine = Driven(synced, handlers=(TIMER,), **OPTIONS)
        engine.live.arm("timer", "k", due_in=0)
        with open(f"/proc/{process.pid}/stat") as file:
            start = file.read().rpartition(")")[2].split()[19]
        set_all(synced, "engine", f"pid = {process.pid}, process_start = {start}")
        process.send_signal(signal.SIGKILL)
    result = recovering(config, "-f", "json").result()
    assert (result.code, json.loads(result.out)) == (
        0,
        {"findings": [], "recovered": {"fenced": 1, "expired": 1}, "skipped": []},
    )
    assert run(synced, "SELECT * FROM liveness_deadline") == [[]]
    engine.abandon()


def test_recovery_says_what_only_waiting_can_judge(synced, config):
    engine = Driven(synced, handlers=(TIMER,), machine="far", **OPTIONS)
    set_all(synced, "engine", "beat_at = '2020-01-01 00:00:00.000000'")
    result = recovering(config).result()
    assert result.code == 1
    assert f"Skipped engine {engine.id}: only --wait" in result.out
    assert "CRITICAL engine-silent" in result.out
    assert engine.row().state == "live"
    result = recovering(config, "--wait").result()
    assert result.code == 0, result
    assert "A sweep by hand: 1 fenced" in result.out
    assert engine.row().state == "fenced"
    engine.abandon()


def test_recovery_leaves_alone_what_no_sweep_can_cure(synced, config):
    park_one(synced)
    set_all(synced, "engine", "state = 'stopped', ended_at = beat_at")
    before = run(synced, "SELECT * FROM liveness_engine")
    assert recovering(config).result().code == 1
    assert run(synced, "SELECT * FROM liveness_engine") == before


def test_two_recoveries_at_once_do_everything_once(synced, config, tmp_path):
    engine = Driven(synced, handlers=(TIMER,), machine="far", **OPTIONS)
    for n in range(30):
        engine.live.arm("timer", f"k{n}", due_in=0)
    set_all(synced, "engine", "beat_at = '2020-01-01 00:00:00.000000'")
    results = [each.result() for each in [recovering(config, "--wait", "-f", "json")
                                          for _ in "ab"]]  # fmt: skip
    done = [json.loads(result.out).get("recovered") or {} for result in results]
    assert sum(each.get("fenced", 0) for each in done) == 1, results
    assert sum(each.get("expired", 0) for each in done) == 30, results
    assert run(synced, "SELECT * FROM liveness_deadline") == [[]]
    engine.abandon()


# --- the samples ----------------------------------------------------------------------


def parsed(words):
    """The sample's command, as the program reads it."""
    from liveness.cmd.app import Single

    assert words[:2] == ["/usr/bin/env", "liveness-audit"]
    program = Single("liveness-audit", "", "audit", "liveness.cmd.audit:Audit")
    return command.Audit(program, None).get_parser("x").parse_args(words[2:])


def test_the_sample_for_cron_runs_a_command_that_can_be_read():
    *_, line = (ROOT / "etc/cron.d/liveness-audit").read_text().splitlines()
    *when, user, rest = line.split(maxsplit=6)
    assert (when, user) == (["*/5", "*", "*", "*", "*"], "liveness")
    assert parsed(rest.split()).timeout == 60


def test_the_units_run_a_command_that_can_be_read_and_belong_together():
    units = {}
    for name in ("service", "timer"):
        units[name] = configparser.ConfigParser()
        units[name].optionxform = str
        units[name].read(ROOT / f"etc/systemd/liveness-audit.{name}")
    service = units["service"]["Service"]
    args = parsed(service["ExecStart"].split())
    assert args.timeout < float(service["TimeoutStartSec"])
    assert service["Type"] == "oneshot"
    assert units["timer"]["Timer"]["OnUnitActiveSec"] == "5min"


# --- nothing is left out --------------------------------------------------------------


def test_every_code_is_found_by_some_test_and_in_the_documentation():
    tests = Path(__file__).read_text()
    page = (ROOT / "doc" / "source" / "audit.rst").read_text()
    text = " ".join(page.split()).replace("``", "").replace("'", "")
    for code, (severity, remedy) in REMEDIES.items():
        assert f'"{code}"' in tests
        assert f"\n   * - ``{code}``\n     - {severity}\n" in page, code
        assert remedy.replace("'", "") in text, code
    assert set(audit.BY_SWEEP) <= REMEDIES.keys()


def test_the_identity_is_that_of_the_process_that_looks(synced, clock):
    engine = Driven(synced, clock)
    set_all(synced, "engine", "process_start = 1")
    elsewhere = dataclasses.replace(Identity.of_this_process(), boot_id="far")
    settings = Settings.of(connection=synced)
    with opened(synced, 5.0) as connection:
        assert not list(Audit(clock, settings, (), elsewhere).findings(connection))
    engine.abandon()


def test_the_limit_leaves_no_alarm_behind():
    assert threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGALRM)
    with command.limited(5):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before
    assert Clock().host_now().tzinfo is not None
