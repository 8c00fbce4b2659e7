"""The demo: a whole run on real databases, and that its checker can find fault."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from liveness.demo import journal
from liveness.demo.check import judge
from liveness.demo.database import Observer
from liveness.demo.life import Facts, Row
from liveness.demo.main import main
from liveness.demo.plan import PREFIX, Plan
from tests.fleet import Driven, Recorder, wait_until

DEMO = [sys.executable, "-m", "liveness.demo.main"]


@pytest.fixture
def refused(capfd) -> Callable[..., str]:
    """Runs the demo, which refuses; gives the one line with which it did."""

    def run(*arguments: str) -> str:
        try:
            code = main(arguments)
        except SystemExit as ended:
            code = ended.code
        said = capfd.readouterr()
        assert (code, said.out) == (2, ""), said
        assert said.err.startswith("liveness-demo: ")
        assert said.err.count("\n") == 1, said
        return said.err

    return run


# --- whole runs -----------------------------------------------------------------


@pytest.fixture(scope="module")
def sqlite_file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo") / "demo.sqlite"


@pytest.fixture(scope="module")
def sqlite_run(sqlite_file) -> Iterator[subprocess.Popen[str]]:
    """A run that has begun. It takes its time whatever else goes on meanwhile."""
    arguments = ["--database", f"sqlite:///{sqlite_file}", "--format", "json"]
    arguments += ["--seed", "3", "--deadlines", "120"]
    with subprocess.Popen(
        [*DEMO, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.terminate()


@pytest.mark.slow
def test_a_run_on_mariadb_in_a_terminal_loses_nothing(sqlite_run, mariadb_url):
    arguments = ["--database", mariadb_url, "--deadlines", "60", "--engines", "2"]
    output, code = in_a_terminal([*DEMO, *arguments])
    assert code == 0, output
    assert "Nothing was lost." in output
    for word in ("next: ", "lease", "is killed", "is frozen", "fences", "takes over"):
        assert word in output
    password = sa.make_url(mariadb_url).password
    assert password and password not in output
    assert "Traceback" not in output


def in_a_terminal(command: list[str]) -> tuple[str, int]:
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(command, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        output = b""
        while True:
            try:
                output += os.read(ours, 1 << 16)
            except OSError:  # the last writer has closed it
                break
    os.close(ours)
    return output.decode(errors="replace"), process.returncode


@pytest.mark.slow
def test_a_run_on_sqlite_loses_nothing_and_its_numbers_add_up(sqlite_run, sqlite_file):
    output, progress = sqlite_run.communicate(timeout=110)
    numbers = json.loads(output)
    assert sqlite_run.returncode == 0, (numbers, progress)
    assert output.count("\n") == 1
    assert (numbers["lost"], numbers["early"], numbers["double_held"]) == (0, 0, 0)
    assert (numbers["moved"], numbers["problems"], numbers["ok"]) == (0, [], True)
    assert (numbers["engines"], numbers["seed"], numbers["planned"]) == (3, 3, 120)
    # An engine that is killed while a stack begins arms some of its deadlines never.
    assert 100 <= numbers["armed"] <= 120
    ends = ("completed", "parked", "waiting", "lost")
    assert numbers["armed"] == sum(numbers[end] for end in ends)
    assert numbers["completed"] == numbers["disarmed"] + numbers["handled"]
    assert numbers["restarted"] > 0 and numbers["retriggered"] > 0
    assert 0 <= numbers["first_takeover_seconds"] <= numbers["last_takeover_seconds"]
    # A frozen engine is there, so only its silence can tell: a lease, and no less.
    assert numbers["frozen_first_takeover_seconds"] > 4
    assert numbers["refused"] > 0
    assert "SIGKILL" in progress and "SIGSTOP" in progress
    with sa.create_engine(f"sqlite:///{sqlite_file}").connect() as connection:
        for table in ("liveness_engine", "liveness_deadline"):
            assert connection.scalar(sa.text(f"SELECT COUNT(*) FROM {table}")) == 0


# --- processes ------------------------------------------------------------------


class Running:
    """A demo that has begun, and everything that it started."""

    def __init__(self, tmp_path: Path) -> None:
        database = f"sqlite:///{tmp_path}/demo.sqlite"
        self.process = subprocess.Popen(
            [*DEMO, "--database", database, "--engines", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        self.children = descendants(self.process.pid)

    def all_gone(self) -> bool:
        return not any(is_running(pid) for pid in self.children)

    def clean_up(self) -> None:
        """End what a failed test has left over."""
        for pid in (self.process.pid, *self.children):
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def running(tmp_path) -> Iterator[Running]:
    started = Running(tmp_path)
    yield started
    started.clean_up()


def descendants(pid: int) -> list[int]:
    """The processes below ``pid``: the launchers, and the engines below them."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(after_name[1])
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found[1:]


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_ctrl_c_ends_every_engine_and_leaves_nothing_behind(running, tmp_path):
    assert len(running.children) >= 4, running.first_line
    running.process.send_signal(signal.SIGINT)
    output, _ = running.process.communicate(timeout=30)
    assert running.process.returncode == 130
    assert output.endswith("liveness-demo: interrupted; every engine was ended\n")
    assert "Traceback" not in output
    assert running.all_gone()
    assert not list(tmp_path.glob("liveness-demo-*"))


def test_no_engine_outlives_a_killed_demo_not_even_a_frozen_one(running):
    assert len(running.children) >= 4, running.first_line
    launchers = {pid for pid in running.children if parent(pid) == running.process.pid}
    frozen = next(pid for pid in running.children if parent(pid) in launchers)
    os.kill(frozen, signal.SIGSTOP)
    running.process.kill()
    running.process.communicate(timeout=30)
    wait_until(running.all_gone, 30)


def test_engines_that_do_not_come_up_are_one_line_and_their_logs_are_kept(tmp_path):
    database = f"sqlite:///{tmp_path}/demo.sqlite"
    process = subprocess.Popen(
        [*DEMO, "--database", database, "--engines", "2", "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    wait_until(lambda: len(descendants(process.pid)) >= 2, 60)
    children = descendants(process.pid)
    os.kill(next(c for c in children if parent(c) == process.pid), signal.SIGKILL)
    output, said = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    last = said.splitlines()[-1]
    assert last.startswith("liveness-demo: engine 1 has ended."), said
    assert "Traceback" not in said
    [kept] = tmp_path.glob("liveness-demo-*")
    assert str(kept) in last and (kept / "engine-1.log").exists()
    wait_until(lambda: not any(is_running(child) for child in children), 30)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# --- what it refuses --------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engines", "1"], "must be 2 to 20, not '1'"),
        (["--engines", "21"], "must be 2 to 20, not '21'"),
        (["--deadlines", "19"], "must be 20 to 2000"),
        (["--deadlines", "many"], "not 'many'"),
        (["--seed", "-1"], "--seed"),
        (["--seed", "nan"], "--seed"),
        (["--format", "xml"], "invalid choice: 'xml'"),
        (["--speed", "9"], "unrecognized arguments"),
        (["--database", "nonsense"], "is not a database URL"),
        (["--database", "sqlite://"], "in memory"),
        (["--database", "oracle://a:b@c/d"], "supported are"),
        (["--database", "sqlite:////nowhere/at/all.db"], "cannot be used"),
    ],
)
def test_bad_arguments_are_one_line(refused, arguments, words):
    assert words in refused(*arguments)


@pytest.mark.parametrize("driver", ["mysql+pymysql", "postgresql+psycopg"])
def test_an_unreachable_server_is_one_line_without_its_password(refused, driver):
    line = refused("--database", f"{driver}://me:pass-w0rd@127.0.0.1:1/x")
    assert "cannot be used" in line and "127.0.0.1" in line
    assert "pass-w0rd" not in line


def test_the_help_has_every_option_and_examples(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    options = ("--database", "--engines", "--deadlines", "--seed", "--format", "--keep")
    for word in (*options, "examples:", "Exit code"):
        assert word in said


def test_a_database_with_somebody_elses_rows_is_refused_and_left_alone(
    refused, schema_url
):
    other = Driven(schema_url, handlers=(Recorder(),))
    other.live.arm("timer", "theirs", due_in=3600)
    line = refused("--database", schema_url)
    assert "1 engines and 1 deadlines that are not the demo's" in line
    assert "temporary SQLite file" in line
    assert other.row() is not None
    assert other.live.find("timer", "theirs") is not None
    other.abandon()


def test_one_foreign_row_among_a_demos_is_enough_to_refuse(refused, schema_url):
    engine = Driven(schema_url, handlers=(Recorder(),), engine_id=f"{PREFIX}aaa-1-b")
    engine.live.arm("timer", f"{PREFIX}aaa-stack-1", due_in=3600)
    engine.live.arm("timer", f"x{PREFIX}aaa-stack-1", due_in=3600)
    assert "0 engines and 1 deadlines" in refused("--database", schema_url)
    engine.abandon()


def test_a_database_on_which_another_demo_runs_is_refused(refused, schema_url):
    engine = Driven(schema_url, engine_id=f"{PREFIX}aaa-1-b")
    assert "another demo is running" in refused("--database", schema_url)
    engine.abandon()


def test_what_an_earlier_demo_left_is_no_obstacle_and_can_be_removed(schema_url):
    engine = Driven(schema_url, handlers=(Recorder(),), engine_id=f"{PREFIX}aaa-1-b")
    engine.live.arm("timer", f"{PREFIX}aaa-stack-1", due_in=3600)
    with engine.connect() as connection:
        engine.parts.engines.resign(connection, engine.id)
    observer = Observer(sa.make_url(schema_url), f"{PREFIX}bbb-")
    observer.refuse_foreign()
    observer.remove(f"{PREFIX}aaa-")
    whole = Observer(sa.make_url(schema_url), PREFIX)
    assert (whole.snapshot().engines, whole.snapshot().deadlines) == ([], [])
    observer.close()
    whole.close()


# --- looking at the database ----------------------------------------------------


def test_the_observer_sees_rows_on_the_journals_clock(schema_url):
    before = journal.now()
    engine = Driven(
        schema_url, handlers=(Recorder(),), engine_id=f"{PREFIX}aaa-7-b", ttl=30
    )
    engine.live.arm("timer", f"{PREFIX}aaa-stack-1", due_in=100)
    after = journal.now()
    observer = Observer(sa.make_url(schema_url), f"{PREFIX}aaa-")
    observer.read_clock()
    seen = observer.snapshot()
    [one], [deadline] = seen.engines, seen.deadlines
    slack = observer.error
    assert (one.slot, one.state, one.ended) == (7, "live", None)
    assert before - slack <= one.started <= after + slack
    assert one.left <= 30 + slack
    assert before + 100 - slack <= deadline.due <= after + 100 + slack
    assert (deadline.owner, deadline.state) == (one.id, "armed")
    observer.close()
    engine.abandon()


def test_a_frozen_writer_would_be_noticed_on_sqlite(tmp_path):
    url = f"sqlite:///{tmp_path}/x.sqlite"
    observer = Observer(sa.make_url(url), PREFIX)
    writer = sa.create_engine(url, isolation_level="AUTOCOMMIT").connect()
    assert observer.writable()
    writer.exec_driver_sql("BEGIN IMMEDIATE")
    assert not observer.writable()
    writer.exec_driver_sql("ROLLBACK")
    assert observer.writable()
    writer.close()
    observer.close()


# --- the plan ---------------------------------------------------------------------


@pytest.mark.parametrize("engines", [2, 3, 20])
@pytest.mark.parametrize("deadlines", [20, 21, 400])
def test_a_plan_has_exactly_the_deadlines_asked_for(engines, deadlines):
    stacks = Plan("abc", 5, engines, deadlines).stacks()
    assert sum(1 + len(stack.actions) for stack in stacks) == deadlines
    keys = [s.key for s in stacks] + [a.key for s in stacks for a in s.actions]
    assert len(set(keys)) == deadlines
    assert {stack.slot for stack in stacks} <= set(range(1, engines + 1))


def test_the_same_seed_makes_the_same_plan_and_another_one_another():
    assert Plan("a", 1, 3, 100).stacks() == Plan("a", 1, 3, 100).stacks()
    assert Plan("a", 1, 3, 100).stacks() != Plan("a", 2, 3, 100).stacks()


@pytest.mark.parametrize("seed", range(5))
def test_the_killed_and_the_frozen_engine_are_two(seed):
    killed, frozen = Plan("a", seed, 2, 40).victims()
    assert {killed, frozen} == {1, 2}


# --- the checker ------------------------------------------------------------------
#
# One deadline, armed by engine A at 1000 for 1010; times are the journals'.

TIMER, ACTION = "stack_timer", "resource_action"
PROMISE = "2026-01-01T00:00:10+00:00"
ERROR = 0.01


def note(event: str, at: float, engine: str = "A", **facts) -> dict:
    kind = facts.pop("kind", TIMER)
    return {
        "event": event,
        "at": at,
        "engine": engine,
        "kind": kind,
        "key": "k",
    } | facts


def armed(kind: str = TIMER) -> list[dict]:
    return [
        note("arming", 1000.0, kind=kind, due_in=10.0),
        note("armed", 1000.1, kind=kind, epoch=1, promise=PROMISE),
    ]


def run(at: float, engine: str, epoch: int, kind: str = TIMER) -> list[dict]:
    """A handler's run, to its end."""
    about = {"kind": kind, "epoch": epoch}
    return [
        note("started", at, engine, promise=PROMISE, **about),
        note("effect", at + 0.1, engine, **about),
        note("settling", at + 0.2, engine, **about),
    ]


def verdict(notes, row: Row | None = None, ended=(), now: float = 2000.0):
    rows = {} if row is None else {(notes[0]["kind"], "k"): row}
    return judge(notes, Facts(rows, dict(ended), now, ERROR, patience=5.0))


def wrongs(*arguments, **keywords) -> list[str]:
    found = verdict(*arguments, **keywords)
    names = ("lost", "early", "double_held", "moved")
    return [name for name in names if getattr(found, name)]


def test_a_deadline_that_was_disarmed_or_handled_in_time_is_fine():
    disarmed = [note("disarming", 1003.0, epoch=1), note("disarmed", 1003.1, epoch=1)]
    fine = verdict([*armed(), *disarmed])
    assert (fine.wrongs, fine.armed, fine.disarmed, fine.handled) == ([], 1, 1, 0)
    fine = verdict([*armed(), *run(1010.1, "A", 2)])
    assert (fine.wrongs, fine.armed, fine.disarmed, fine.handled) == ([], 1, 0, 1)


def test_a_row_that_vanished_is_lost():
    found = verdict(armed())
    assert len(found.lost) == found.armed == 1
    assert "stack_timer/k: lost: its row is gone" in found.wrongs[0]


def test_a_run_that_never_ended_does_not_excuse_a_row_that_vanished():
    assert wrongs([*armed(), run(1010.1, "A", 2)[0]]) == ["lost"]


def test_a_disarm_whose_answer_died_with_its_engine_is_not_lost():
    assert wrongs([*armed(), note("disarming", 1003.0, epoch=1)]) == []


def test_a_row_that_is_due_and_that_nobody_looks_at_is_lost():
    assert wrongs(armed(), Row("armed", 1010.0), now=1015.0) == []
    assert wrongs(armed(), Row("armed", 1010.0), now=1015.1) == ["lost"]
    assert wrongs(armed(), Row("claimed", 1010.0), now=1015.1) == ["lost"]


def test_parked_and_waiting_rows_are_counted_and_not_lost():
    parked = verdict(armed(), Row("parked", 1010.0))
    assert (parked.wrongs, parked.parked, parked.completed) == ([], 1, 0)
    waiting = verdict(armed(), Row("armed", 1010.0), now=1005.0)
    assert (waiting.wrongs, waiting.waiting, waiting.completed) == ([], 1, 0)


def test_an_arm_that_was_killed_before_its_commit_counts_for_nothing():
    assert verdict([note("arming", 1000.0, due_in=10.0)]).armed == 0


def test_an_arm_that_was_killed_after_its_commit_counts_once_it_was_seen():
    seen = [note("arming", 1000.0, due_in=10.0), note("owned", 1000.1)]
    assert (verdict(seen).armed, wrongs(seen)) == (1, ["lost"])


def test_a_handler_just_before_the_promise_is_early():
    assert wrongs([*armed(), *run(1010.0 - ERROR, "A", 2)]) == []
    assert wrongs([*armed(), *run(1010.0 - ERROR - 1e-6, "A", 2)]) == ["early"]


def test_a_timer_is_early_before_its_promise_even_when_its_owner_is_dead():
    notes = [*armed(), *run(1009.0, "B", 3)]
    assert wrongs(notes, ended={"A": 1005.0}) == ["early"]


def test_an_action_runs_at_once_when_its_owner_is_dead_and_not_before():
    notes = [*armed(ACTION), *run(1005.0, "B", 2, ACTION)]
    assert wrongs(notes, ended={"A": 1005.0 + ERROR}) == []
    late = {"A": 1005.0 + ERROR + 1e-6}
    assert wrongs(notes, ended=late) == ["early", "double_held"]
    assert wrongs(notes) == ["early", "double_held"]


def test_an_action_that_its_own_living_engine_runs_before_the_promise_is_early():
    assert wrongs([*armed(ACTION), *run(1005.0, "A", 2, ACTION)]) == ["early"]


def test_an_action_may_run_when_its_owner_began_to_stop():
    notes = [*armed(ACTION), note("stopping", 1004.0), *run(1005.0, "B", 2, ACTION)]
    assert wrongs(notes) == []


def test_a_run_while_an_earlier_one_stands_is_double_held():
    started = run(1010.1, "A", 2)[0]
    notes = [*armed(), started, *run(1012.0, "B", 3)]
    assert wrongs(notes) == ["double_held"]
    assert wrongs(notes, ended={"A": 1011.0}) == []


def test_a_run_after_an_earlier_one_failed_is_not_double_held():
    started = run(1010.1, "A", 2)[0]
    notes = [*armed(), started, note("failed", 1011.0, epoch=2), *run(1012, "B", 3)]
    assert wrongs(notes) == []


def test_a_run_while_the_engine_that_was_seen_as_owner_stands_is_double_held():
    notes = [*armed(ACTION), note("owned", 1004.0, "B", kind=ACTION)]
    notes += run(1006.0, "C", 3, ACTION)
    assert wrongs(notes, ended={"A": 1003.0}) == ["early", "double_held"]
    assert wrongs(notes, ended={"A": 1003.0, "B": 1005.0}) == []


def test_one_epoch_with_two_runners_is_double_held():
    notes = [*armed(), *run(1010.1, "A", 2), *run(1010.15, "B", 2)]
    assert wrongs(notes, ended={"A": 1010.12}) == ["double_held"]


def test_an_effect_after_somebody_else_began_is_double_held():
    notes = [*armed(ACTION), *run(1005.0, "B", 2, ACTION)]
    before = note("effect", 1004.9, kind=ACTION, epoch=1)
    after = note("effect", 1005.001, kind=ACTION, epoch=1)
    ended = {"A": 1004.95}
    assert wrongs([*notes, before], ended=ended) == []
    assert wrongs([*notes, after], ended=ended) == ["double_held"]


@pytest.mark.parametrize("disarmed_at", [1004.0, 1006.0])
def test_disarmed_and_handled_is_settled_twice(disarmed_at):
    notes = [
        *armed(ACTION),
        *run(1005.0, "B", 2, ACTION),
        note("disarming", 1003.9, kind=ACTION, epoch=1),
        note("disarmed", disarmed_at, kind=ACTION, epoch=1),
    ]
    assert wrongs(notes, ended={"A": 1004.5}) == ["double_held"]


def test_who_left_a_guard_may_be_overtaken_once_fenced_and_not_before():
    notes = [
        *armed(ACTION),
        note("disarming", 1003.9, kind=ACTION, epoch=1),
        *run(1005.0, "B", 2, ACTION),
        note("left", 1006.0, kind=ACTION, epoch=1),
    ]
    assert wrongs(notes, ended={"A": 1004.5}) == []
    assert wrongs(notes) == ["early", "double_held"]


def test_disarmed_twice_is_settled_twice():
    notes = [*armed(), note("disarmed", 1003.0), note("disarmed", 1004.0, "B")]
    assert "double_held" in wrongs(notes)


def test_handled_again_by_the_engine_that_had_handled_it_is_settled_twice():
    notes = [*armed(), *run(1010.1, "A", 2), *run(1011.0, "A", 3)]
    assert wrongs(notes) == ["double_held"]


def test_a_restart_from_scratch_is_moved():
    moved = run(1016.0, "B", 3)
    moved[0]["promise"] = "2026-01-01T00:00:16+00:00"
    assert wrongs([*armed(), *moved], ended={"A": 1005.0}) == ["moved"]


def test_takeovers_are_counted_once_each_and_timed_from_the_blow():
    timer = [*armed(), note("owned", 1005.5, "B"), *run(1010.1, "B", 3)]
    found = verdict(timer, ended={"A": 1005.2})
    assert (found.wrongs, found.restarted, found.retriggered) == ([], 1, 0)
    assert found.delays("A", 1005.0) == [0.5]
    action = [*armed(ACTION), *run(1006.0, "B", 2, ACTION)]
    found = verdict(action, ended={"A": 1005.2})
    assert (found.restarted, found.retriggered) == (0, 1)
    assert found.delays("A", 1005.0) == [1.0]


def test_an_overdue_deadline_of_a_living_owner_is_no_takeover():
    found = verdict([*armed(), *run(1016.0, "B", 2)])
    assert (found.wrongs, found.takeovers, found.handled) == ([], [], 1)


def test_an_arm_that_was_refused_makes_nobody_a_holder_and_promises_nothing():
    first = [note("arming", 990.0, "Z", due_in=10.0), note("unarmed", 991.0, "Z")]
    found = verdict([*first, *armed(), *run(1010.1, "A", 2)], ended={"Z": 992.0})
    assert (found.wrongs, found.takeovers) == ([], [])
    assert wrongs([*first, *armed(), *run(1005.0, "A", 2)]) == ["early"]


# --- the journals -------------------------------------------------------------------


def test_journals_of_all_processes_are_read_in_one_order(tmp_path):
    one = journal.Journal(tmp_path / "one.jsonl", engine="A")
    two = journal.Journal(tmp_path / "two.jsonl", engine="B")
    one.note("arming", key="k")
    two.note("started", key="k")
    one.note("settling", at=0.0, key="k")
    notes = journal.read(tmp_path)
    assert [n["event"] for n in notes] == ["settling", "arming", "started"]
    assert [n["engine"] for n in notes] == ["A", "A", "B"]


def test_a_torn_last_line_spoils_nothing(tmp_path):
    path = tmp_path / "one.jsonl"
    journal.Journal(path, engine="A").note("armed", key="k")
    with path.open("a") as file:
        file.write('{"event": "disar')
    assert [n["event"] for n in journal.read(tmp_path)] == ["armed"]
