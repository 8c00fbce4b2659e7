"""SIGKILL: what a dead engine had is taken over, and nothing is lost."""

from __future__ import annotations

import os

import pytest

from tests.processes.conftest import on
from tests.processes.crew import Crew, another_pid_namespace, eventually, utc

# Only a proof, not the wait for a lease, can be in time for a test.
LONG = {"ttl": 600.0, "beat_interval": 5.0}
TIMERS = tuple(f"timer-{n}" for n in range(5))
ACTIONS = tuple(f"action-{n}" for n in range(5))


@on("sqlite", "mariadb", "postgresql")
def test_a_sibling_takes_over_by_proof_long_before_the_lease_ends(crew: Crew):
    victim = crew.start("victim", **LONG)
    sibling = crew.start("sibling", **LONG)
    assert sibling.engine_id
    victim.arm("timer", *TIMERS, due_in=4)
    victim.arm("action", *ACTIONS, due_in=500)
    victim.arm("timer", "running", due_in=0, payload={"hang": True, "only": "victim"})
    victim.tell("guard", key="guarded", due_in=500)
    victim.await_event("called", key="running")
    victim.await_event("effect", key="guarded")

    victim.kill()
    crew.await_settled(*ACTIONS, "guarded", "running")
    adopted = crew.owners()
    crew.await_settled(*TIMERS)

    fenced = crew.row_of(victim)
    assert fenced["fenced_by"] == sibling.engine_id
    assert fenced["fence_evidence"].startswith(f"pid {victim.process.pid} ")
    assert {adopted[key] for key in TIMERS} == {sibling.engine_id}
    for key in (*TIMERS, *ACTIONS, "guarded", "running"):
        (armed,) = victim.events("armed", key=key)
        (called,) = sibling.events("called", key=key)
        assert called["expires"] == armed["expires"]
        expired = key in (*TIMERS, "running")
        assert called["method"] == ("expired" if expired else "orphaned")
        assert called["attempts"] == (2 if key == "running" else 1)
    crew.check_invariants()


def test_a_death_wakes_the_sibling_long_before_its_next_sweep(crew: Crew):
    options = {**LONG, "ttl": 3600.0, "sweep_interval": 800.0}
    victim = crew.start("victim", **options)
    victim.arm("action", "job", due_in=500)
    # Its first sweep sees the victim; the second is a quarter of an hour away.
    sibling = crew.start("sibling", **options)
    assert sibling.engine_id
    eventually(lambda: _watches_a_process(sibling), f"{sibling} watches the victim")

    victim.kill()
    crew.await_settled("job")
    crew.check_invariants()


def _watches_a_process(program) -> bool:
    folder = f"/proc/{program.process.pid}/fd"
    return any("pidfd" in os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder))


@on("sqlite", "postgresql")
def test_without_proof_survivors_wait_for_the_whole_lease(crew: Crew):
    victim = crew.start("victim", prefix=another_pid_namespace())
    survivors = [crew.start("one"), crew.start("two")]
    victim.arm("action", *ACTIONS, due_in=500)
    victim.arm("timer", "soon", due_in=500)
    assert all(survivor.engine_id for survivor in survivors)
    crew.await_beats(victim)

    victim.kill()  # and unshare takes the engine with it
    crew.await_settled(*ACTIONS)
    eventually(
        lambda: crew.owners()["soon"] in [s.engine_id for s in survivors],
        lambda: crew.owners(),
    )

    row = crew.row_of(victim)
    assert row["state"] == "fenced"
    assert row["fence_evidence"].startswith("silent for ")
    assert "(ttl 3 s)" in row["fence_evidence"]
    silence = utc(row["ended_at"]) - utc(row["beat_at"])
    assert silence.total_seconds() >= 3.0 * 1.01 + 0.3 - 0.002  # SQLite's milliseconds
    crew.check_invariants()


def test_engines_that_die_every_second_still_take_over(crew: Crew):
    victim = crew.start("victim")
    victim.arm("action", *ACTIONS, due_in=500)
    victim.kill()
    for name in ("one", "two"):
        crew.loop(name, live_for=1.0)
    crew.await_settled(*ACTIONS)
    crew.check_invariants()


def test_engines_that_die_every_second_finish_each_others_observations(crew: Crew):
    # No life is long enough to see the victim silent for its lease.
    victim = crew.start("victim", prefix=another_pid_namespace())
    victim.arm("action", *ACTIONS, due_in=500)
    victim.kill()
    for name in ("one", "two"):
        crew.loop(name, live_for=1.0, state_directory=str(crew.folder))
    crew.await_settled(*ACTIONS)
    assert crew.row_of(victim)["fence_evidence"].startswith("silent for ")
    crew.check_invariants()


def test_a_second_program_with_the_same_engine_id_is_refused(crew: Crew):
    first = crew.start("first", engine_id="the-only-one")
    first.arm("timer", "kept", due_in=500)

    second = crew.start("second", engine_id="the-only-one")
    assert second.wait() == 1
    (line,) = second.output().splitlines()
    assert "the-only-one is already registered" in line
    assert f"pid {first.process.pid}" in line

    crew.await_beats(first)
    assert crew.row_of(first)["state"] == "live"
    assert crew.owners() == {"kept": "the-only-one"}


def test_an_engine_id_does_not_come_back_after_a_crash(crew: Crew):
    first = crew.start("first", engine_id="the-only-one")
    first.arm("timer", "kept", due_in=500)
    first.kill()
    first.wait()

    again = crew.start("again", engine_id="the-only-one")
    assert again.wait() == 1
    assert "the-only-one is already registered" in again.output()


@pytest.mark.parametrize("how", ["end", "exit"])
def test_a_program_ends_without_stop_although_a_handler_hangs(crew: Crew, how: str):
    program = crew.start("program", bare=how)
    program.await_event("called", key="hangs")
    program.tell("end")
    assert program.wait() == (0 if how == "end" else 3)
    assert crew.row_of(program)["state"] == "live"

    survivor = crew.start("survivor")
    crew.await_state(program, "fenced")
    survivor.await_event("called", key="hangs")
