"""Beats share nothing with the rest of the program; but beating proves work."""

from __future__ import annotations

from tests.processes.crew import Crew, eventually


def test_beats_and_handlers_need_none_of_the_host_programs_connections(crew: Crew):
    engine = crew.start("engine", connections=2)
    observer = crew.start("observer")
    engine.tell("guard", key="guarded", due_in=500)
    engine.arm("timer", "due", due_in=2)
    assert observer.engine_id

    engine.tell("exhaust")
    engine.await_event("exhausted")
    crew.await_settled("due")
    crew.await_beats(engine, count=12)  # more than a lease
    engine.tell("arm", kind="timer", keys=["more"], due_in=500)
    assert engine.await_event("failed")["error"] == "DatabaseError"

    assert crew.row_of(engine)["state"] == "live"
    assert engine.await_event("settled", key="due")
    assert not engine.events("refused")


def test_a_bug_in_the_sweep_stops_neither_beats_nor_own_deadlines(crew: Crew):
    engine = crew.start("engine")
    engine.arm("timer", "before", due_in=500)
    engine.tell("break_sweep", how="raise")
    eventually(lambda: len(engine.events("broken")) >= 15, "it goes on sweeping")
    engine.arm("timer", "due", due_in=0)
    crew.await_settled("due")  # by itself: nobody else is there yet
    assert crew.start("observer").engine_id
    crew.await_beats(engine, count=12)  # more than a lease

    assert "RuntimeError: on purpose" in engine.output()
    assert crew.row_of(engine)["state"] == "live"
    assert crew.owners() == {"before": engine.engine_id}
    assert engine.await_event("settled", key="due")


def test_an_engine_that_does_no_work_lets_itself_be_fenced(crew: Crew):
    # One sweep never returns; the other's thread dies of what nothing catches.
    hangs, dies = crew.start("hangs"), crew.start("dies")
    survivor = crew.start("survivor")
    for idle in (hangs, dies):
        idle.arm("action", f"job of {idle.name}", due_in=500)
        idle.tell("guard", key=f"guard of {idle.name}", due_in=500, persist=True)
        idle.await_event("effect")
    assert survivor.engine_id
    hangs.tell("break_sweep", how="hang")
    dies.tell("break_sweep", how="base")

    for idle in (hangs, dies):
        row = crew.await_state(idle, "fenced")
        assert row["fence_evidence"].startswith("silent for ")
        assert row["fenced_by"] == survivor.engine_id
        keys = [f"job of {idle.name}", f"guard of {idle.name}"]
        crew.await_settled(*keys)
        idle.await_event("refused", key=keys[1])
        assert all(survivor.events("effect", key=key) for key in keys)
        assert "stops beating: its sweep loop has not come round" in idle.output()
    assert crew.row_of(survivor)["state"] == "live"
    crew.check_invariants()


def test_an_engine_that_stopped_beating_learns_of_its_fence(crew: Crew):
    engine = crew.start("engine")
    assert engine.engine_id
    engine.tell("break_sweep", how="hang")
    eventually(lambda: "stops beating" in engine.output(), "its heart stops")
    crew.sql("UPDATE liveness_engine SET state = 'fenced', ended_at = beat_at")
    eventually(lambda: engine.events("fenced"), "it learns", seconds=10)


def test_work_that_is_cut_short_by_a_suspension_is_not_forgotten(crew: Crew):
    engine = crew.start("engine")
    engine.tell("guard", key="work", due_in=500)
    engine.await_event("effect")
    engine.tell("break_sweep", how="hang")
    assert engine.await_event("unfinished")["error"] == "Suspended"
    assert crew.owners() == {"work": engine.engine_id}
