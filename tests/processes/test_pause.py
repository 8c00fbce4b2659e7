"""SIGSTOP and SIGCONT: the engine that comes back from the dead, and the one that
only nodded."""

from __future__ import annotations

import time

from tests.processes.conftest import on
from tests.processes.crew import Crew, eventually
from tests.processes.journal import now

LOCKS = "FOR UPDATE"


@on("sqlite", "mariadb")
def test_an_engine_paused_past_its_lease_is_over_and_knows_it(crew: Crew):
    victim = crew.start("victim", again=True)
    survivor = crew.start("survivor")
    old = victim.engine_id
    victim.arm("timer", "own", due_in=500)
    victim.arm("timer", "running", due_in=0, payload={"steps": 10_000, "first": True})
    victim.tell("guard", key="guarded", due_in=500)
    victim.await_event("effect", key="running")
    victim.await_event("effect", key="guarded")
    assert survivor.engine_id

    victim.pause()
    row = crew.await_state(victim, "fenced")
    taken = crew.journal.events
    eventually(
        lambda: (
            taken("called", who="survivor", key="running")
            and taken("called", who="survivor", key="guarded")
        ),
        "the survivor takes over",
    )
    back = now()
    victim.resume()

    victim.await_event("unfinished", key="guarded")
    victim.await_event("refused", key="running")
    victim.await_event("fenced", engine=old)
    eventually(lambda: len(victim.events("started")) == 2, "a new incarnation")
    crew.await_settled("running", "guarded")

    assert row["fenced_by"] == survivor.engine_id
    assert row["fence_evidence"].startswith("silent for ")
    new = victim.events("started")[1]["engine"]
    assert new != old
    assert crew.engines()[new]["state"] == "live"
    assert crew.engines()[old]["state"] == "fenced"
    assert not [e for e in victim.events("effect") if e["checked"] > back], "an effect"
    assert not victim.events("settled", engine=old)
    assert not victim.events("moved", engine=old)
    crew.check_invariants()


def test_a_pause_shorter_than_the_lease_changes_nothing(crew: Crew):
    options = {"ttl": 12.0, "beat_interval": 0.5}
    victim = crew.start("victim", **options)
    observer = crew.start("observer", **options)
    victim.arm("timer", "running", due_in=0, payload={"steps": 40})
    victim.tell("guard", key="guarded", due_in=500)
    victim.await_event("effect", key="running")
    victim.await_event("effect", key="guarded")
    assert observer.engine_id

    victim.pause()
    time.sleep(1.5)
    victim.resume()
    crew.await_settled("running")
    crew.await_beats(victim)
    victim.tell("end", key="guarded")
    victim.await_event("finished", key="guarded")

    assert {row["state"] for row in crew.engines().values()} == {"live"}
    assert not victim.events("refused")
    assert not observer.events("called")
    crew.check_invariants()


def test_an_observer_that_was_paused_fences_nobody(crew: Crew):
    options = {"ttl": 5.0}
    observer, other = crew.start("observer", **options), crew.start("other", **options)
    crew.await_beats(observer, other)

    # The observer has seen the other's last beat, then both stand still. To the
    # observer the other is silent; the silence was its own.
    other.pause()
    time.sleep(1)
    observer.pause()
    time.sleep(6)
    observer.resume()
    crew.await_beats(observer, count=6)  # it trusts itself, and has swept
    other.resume()
    crew.await_beats(observer, other, count=4)

    assert {row["state"] for row in crew.engines().values()} == {"live"}


@on("mariadb", "postgresql")
def test_rows_locked_by_a_paused_claimer_are_free_after_the_servers_timeout(crew: Crew):
    armer = crew.start("armer")
    armer.arm("action", "one", "two", due_in=500)
    # One lease so long that only the server's timeout can be in time.
    claimer = crew.start("claimer", ttl=600.0, beat_interval=0.3)
    claimer.tell("stop_at", statement=LOCKS)
    claimer.await_event("listening")
    armer.kill()
    claimer.await_event("stopping")
    eventually(lambda: claimer.process.state == "T", f"{claimer} stopped")

    survivor = crew.start("survivor")
    crew.await_settled("one", "two")
    assert claimer.process.state == "T"
    assert len(survivor.events("effect")) == 2

    claimer.resume()
    crew.await_beats(claimer)
    assert crew.row_of(claimer)["state"] == "live"
    assert not claimer.events("called")
    crew.check_invariants()


def test_a_pause_is_not_taken_for_a_hung_sweep(crew: Crew):
    alone = crew.start("alone")
    crew.await_beats(alone)
    alone.pause()
    time.sleep(4)
    alone.resume()
    crew.await_beats(alone)
    assert "stops beating" not in alone.output()
