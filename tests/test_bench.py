"""The benchmark's arithmetic, and that its parts are what the command line says."""

import importlib
import sys

import pytest

from bench import __main__ as bench
from bench import report, rounds
from bench.counters import Counted
from bench.crew import Lost, Worker
from bench.peers import catalogue, death, home, install, meters, reporter, rest
from bench.peers.catalogue import PEERS, Peer
from tests.servers import ServerError


@pytest.mark.parametrize("part", bench.PARTS)
def test_every_part_has_both_sizes(part):
    module = importlib.import_module(f"bench.{part}")
    assert module.SIZES.keys() == {"quick", "full"}
    assert type(module.SIZES["quick"]) is type(module.SIZES["full"])
    assert callable(module.run)


def test_a_part_that_there_is_not(capsys):
    assert bench.main(["speed"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_ratio_is_formed_round_by_round():
    made = rounds.row(
        "x", "sqlite", "/s", [10, 30, 50], [20, 30, 40], goal="ratio >= 0.8"
    )
    assert (made.value, made.floor, made.ratio) == (30, 30, 1.0)
    assert made.spread == (0.5, 1.25)
    assert made.met is True


def test_a_goal_is_met_at_its_limit_and_not_beyond():
    def met(value):
        return rounds.row("x", "sqlite", "ms", [value], goal="value <= 5").met

    assert met(5) is True
    assert met(5.001) is False


def test_a_ratio_without_a_floor_is_not_judged():
    assert rounds.row("x", "sqlite", "/s", [1], goal="ratio >= 0.8").met is None


@pytest.mark.parametrize("goal", ["ratio > 1", "speed >= 1", "ratio >= fast"])
def test_no_goal(goal):
    with pytest.raises(ValueError):
        rounds.Goal.parse(goal)


def test_rounds_take_turns_at_being_first():
    called = []
    found = rounds.interleave(
        3, {name: lambda name=name: called.append(name) or 1.0 for name in "ab"}
    )
    assert called == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [1.0] * 3, "b": [1.0] * 3}


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 51), (0.99, 100), (1.0, 100)]
)
def test_percentiles_are_values_that_were_measured(share, expected):
    assert rounds.percentile(range(1, 101), share) == expected


def test_counters_are_told_apart_one_by_one():
    difference = Counted(3, 20, 7, 5, 6, 2.5) - Counted(1, 5, 7, 1, 1, 0.5)
    assert difference == Counted(2, 15, 0, 4, 5, 2.0)


def test_results_of_other_databases_stay(tmp_path):
    def save(database, value):
        made = [rounds.row("x", database, "/s", [value], [4.0])]
        return report.save("part", {"at": "now"}, made, tmp_path)

    save("sqlite", 1.0)
    save("mariadb", 2.0)
    path = save("sqlite", 3.0)
    found = {made.database: made.value for made in report.load(path)}
    assert found == {"sqlite": 3.0, "mariadb": 2.0}


def test_tables_have_aligned_columns():
    made = [
        rounds.row("one", "sqlite", "/s", [1234.5]),
        rounds.row("another", "mariadb", "ms", [0.5], [0.25], goal="ratio <= 1.5"),
    ]
    head, first, second = report.table(made).splitlines()
    assert head.index("unit") == first.index("/s") == second.index("ms")
    assert "1,234" in first and "NO" in second
    assert report.markdown(made).count("|---") == len(report.HEADS) - 1


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_has_a_program(name):
    folder = catalogue.NODE if PEERS[name].node else catalogue.HERE
    ends = "js" if PEERS[name].node else "py"
    assert (folder / f"{name}.{ends}").exists()


def test_what_the_peers_are_is_pinned():
    lines = (catalogue.HERE / "requirements.txt").read_text().splitlines()
    assert all("==" in line for line in lines if not line.startswith("#"))


def test_a_slow_peer_is_measured_with_fewer_jobs():
    slow = Peer("slow", "", True, jobs=100)
    assert slow.enough(20_000, processes=1) == 100
    assert slow.enough(50, processes=1) == 50


def test_what_a_peer_fetched_before_it_began_is_the_smaller_part():
    greedy = Peer("greedy", "", True, jobs=100, batch=1000)
    assert greedy.enough(50, processes=2) == 8000


def test_a_peer_that_is_not_asked_for_is_not_installed(monkeypatch):
    def not_called(*_):
        raise AssertionError("installed all the same")

    for need in ("_node", "_heat", "_redis"):
        monkeypatch.setattr(install, need, not_called)
    monkeypatch.setattr(install, "_python", lambda tell: None)
    assert install.set_up(["dbos"], print) == [PEERS["dbos"]]


def test_what_cannot_be_had_leaves_out_those_that_need_it(monkeypatch, capsys):
    def missing(tell):
        raise install.Missing("there is none")

    monkeypatch.setattr(install, "_redis", missing)
    monkeypatch.setattr(install, "_python", lambda tell: None)
    assert install.set_up(["celery", "dbos", "tooz"], print) == [PEERS["dbos"]]
    assert capsys.readouterr().err.count("there is none") == 1


def test_what_a_server_has_exchanged_with_each_of_its_sockets():
    said = """\
ESTAB 0 0 127.0.0.1:5432 127.0.0.1:40001
\t cubic wscale:7,7 bytes_sent:70 bytes_acked:70 bytes_received:30 segs_out:4
ESTAB 0 0 [::ffff:127.0.0.1]:5432 [::ffff:127.0.0.1]:40002
\t cubic wscale:7,7 segs_out:4
"""
    assert meters.traffic(said) == {"40001": 100.0, "40002": 0.0}


def test_what_redis_says_of_itself():
    said = "# Stats\r\ntotal_commands_processed:12\r\nrole:master\r\nused_cpu:0.5\r\n"
    assert meters.info(said) == {"total_commands_processed": 12.0, "used_cpu": 0.5}


def test_the_process_of_a_connection_tells_its_database():
    found = meters.TITLE.match("postgres: liveness bench_1a2b 127.0.0.1(40001) idle")
    assert found and found.groupdict() == {"database": "bench_1a2b", "port": "40001"}
    assert meters.TITLE.match("postgres: autovacuum worker bench_1a2b") is None


def test_the_question_is_not_part_of_the_answer():
    class Asked:
        """A server that does nothing but answer."""

        def __init__(self):
            self.asked = 0

        def read(self):
            self.asked += 1
            return meters.Reading(self.asked * 2.0, self.asked * 50.0, 0.25)

    server = Asked()
    assert meters.measured(server.read(), server) == meters.Reading(0.0, 0.0, 0.0)


def test_several_stores_of_one_peer_are_added_up():
    class Fixed:
        def read(self):
            return meters.Reading(1.0, 10.0, 0.5)

    both = meters.Together([Fixed(), Fixed()]).read()
    assert both == meters.Reading(2.0, 20.0, 1.0)


def test_what_was_done_in_a_hurry_is_given_at_the_default_pace():
    class Member:
        def ask(self, do):
            return {"cpu": 1.0}

    class Fixed:
        def read(self):
            return meters.Reading(120.0, 1200.0, 0.0)

    none = meters.Reading(0.0, 0.0, 0.0)
    members = [Member(), Member()]
    guests = rest.Guests("x", "redis", Fixed(), members, hurry=6, before=none, own=2.0)
    statements, size, server, own = guests.rows(seconds=10, load=0.0)
    assert (statements.value, size.value, server.value, own.value) == (1, 10, 0, 0)
    assert "6 times" in statements.note


@pytest.mark.parametrize("words", [["fill", "url", "3", "0", "0"], ["recover", "url"]])
def test_a_command_that_a_peer_does_not_have_is_an_error(monkeypatch, words):
    monkeypatch.setattr(reporter.sys, "argv", ["peer", *words])

    def never(*_):
        raise AssertionError("called")

    with pytest.raises(SystemExit):
        reporter.main(never, None, None, never, None)


class Speaking:
    """A worker that has called these jobs, at these times."""

    def __init__(self, *calls):
        self.calls = list(calls)

    def ask(self, do):
        return {"calls": [[key, 0.0, moment] for key, moment in self.calls]}


class Victim(Speaking):
    """When it is killed, at 100, the other calls these."""

    def __init__(self, other, later, *calls):
        super().__init__(*calls)
        self.other, self.later = other, later

    def kill(self):
        self.other.calls += self.later
        return 100.0


def killed(other, later, calls, held):
    victim = Victim(other, later, *calls)
    return death.kill(victim, [other], held, alive=0.0, patience=0.0)


def test_a_job_that_another_ran_while_its_worker_lived_is_run_twice():
    other = Speaking(("slow", 7.0))
    calls = [("dead", 2.0), ("slow", 1.0)]
    found = killed(other, [("dead", 103.0)], calls, held=2)
    assert (found.run_again, found.again, found.twice) == (2, [3.0], [6.0])


def test_a_job_that_its_worker_began_a_second_time_is_run_twice():
    calls = [("slow", 1.0), ("slow", 7.0)]
    found = killed(Speaking(), [("slow", 103.0)], calls, held=1)
    assert (found.run_again, found.again, found.twice) == (1, [3.0], [6.0])


def test_what_counts_is_the_first_start_after_the_death():
    later = [("job", 103.0), ("job", 109.0)]
    other = Speaking(("job", 7.0))
    assert killed(other, later, [("job", 1.0)], held=1).again == [3.0]


def test_who_finds_one_after_another_is_waited_for():
    found = iter(range(100))
    death.wait(lambda: next(found), wanted=60, patience=2.0)
    assert next(found) == 61


def test_what_nobody_runs_again_within_the_time_is_a_result():
    found = killed(Speaking(), [], [("job", 1.0)], held=1)
    assert found == death.Found(1)


def named(*runs, peer=None):
    return {made.name: made for made in death.rows_of("x", peer, list(runs), load=0.0)}


def test_what_is_documented_is_given_only_where_nothing_was_found():
    peer = Peer("x", "", True, documented=14400.0)
    text = "x: as documented, not measured"
    assert named(death.Found(1), peer=peer)[text].value == 14400
    assert text not in named(death.Found(1, 1, again=[2.0]), peer=peer)


def test_times_are_given_only_if_each_round_has_some():
    once = death.Found(2, 2, again=[1.0, 3.0])
    rows = named(once, death.Found(2))
    assert rows["x: run again, of 2"].value == 1
    assert "x: first, after the death" not in rows
    assert named(once)["x: last, after the death"].value == 3


def test_to_run_a_job_twice_at_the_same_time_misses_the_goal():
    rows = named(death.Found(1, 1, twice=[6.0]))
    assert rows["x: run twice at the same time, of 1"].met is False


@pytest.mark.parametrize("name", PEERS)
def test_what_is_measured_of_a_peer_has_a_name(name):
    assert set(PEERS[name].does) <= {"throughput", "lateness", "idle", "recovery"}
    assert PEERS[name].recovery or "recovery" not in PEERS[name].does


@pytest.mark.parametrize("error", [install.Missing, Lost, ServerError])
def test_a_peer_that_cannot_be_measured_stops_no_other(error, capsys):
    def fails():
        raise error("it is not there")

    assert home.tried(fails) is None
    assert "it is not there" in capsys.readouterr().err


def test_a_worker_that_has_ended_is_lost_and_not_waited_for():
    worker = Worker([sys.executable, "-c", ""])
    worker._popen.wait()
    with pytest.raises(Lost):
        worker.tell("notes")
    worker.close()


def test_a_command_that_does_not_end_is_given_up(monkeypatch):
    monkeypatch.setattr(home, "LIMIT", 0.2)
    forever = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(Peer, "command", lambda *_: forever)
    at = home.Home(Peer("slow", "", True), crew=None, redis=None, url="")
    with pytest.raises(install.Missing):
        at.do("prepare")
