"""Handlers that kill their process, hang, or raise what nobody expects."""

from __future__ import annotations

import pytest

from tests.processes.crew import Crew, eventually

INNOCENT = tuple(f"innocent-{n}" for n in range(12))


@pytest.mark.parametrize("deed", [{"exit": 66}, {"segv": True}], ids=["exit", "segv"])
def test_a_handler_that_kills_its_process_is_parked_and_nobody_else(
    crew: Crew, deed: dict
):
    # All due at one moment: the killer is claimed together with the innocent.
    armer = crew.start("armer")
    keys = (*INNOCENT[:6], "killer", *INNOCENT[6:])
    payload = {"key": "killer", **deed}
    armer.arm("timer", *keys, due_in=1.0, max_attempts=2, payload=payload)
    others = [crew.start(f"engine-{n}") for n in range(2)]

    crew.await_settled(*INNOCENT)
    row = eventually(
        lambda: crew.rows()["killer"]["state"] == "parked" and crew.rows()["killer"],
        lambda: "\n".join(crew.story()),
    )
    assert "may kill its engine" in row["last_error"]
    called = crew.journal.events("called", key="killer")
    assert [event["attempts"] for event in called] == [1, 2]
    living = [p for p in (armer, *others) if p.popen.poll() is None]
    assert [crew.row_of(p)["state"] for p in living] == ["live"]
    crew.check_invariants()


def test_a_last_attempt_is_not_shared_with_a_fresh_killer(crew: Crew):
    first = crew.start("first")
    first.arm("timer", "slow", due_in=0, max_attempts=2, payload={"steps": 30})
    first.await_event("effect", key="slow")
    second = crew.start("second")
    first.kill()
    second.await_event("effect", key="slow")
    second.arm("timer", "killer", due_in=0, payload={"exit": 66, "only": "second"})

    third = crew.start("third")
    crew.await_settled("killer")
    crew.await_settled("slow", seconds=10)
    assert third.await_event("settled", key="killer")
    crew.check_invariants()


def test_a_hung_handler_loses_its_deadline_and_stops_nobody(crew: Crew):
    engine = crew.start("engine", handler_timeout=1.0)
    engine.arm("timer", "hangs", due_in=0, payload={"hang": True, "first": True})
    engine.await_event("called", key="hangs", attempts=1)
    engine.arm("timer", *INNOCENT, due_in=0)
    crew.await_settled(*INNOCENT)
    crew.await_settled("hangs")
    (retried,) = engine.events("called", key="hangs", attempts=2)
    (first,) = engine.events("called", key="hangs", attempts=1)
    assert retried["at"] - first["at"] >= 1.0

    # The hung one comes back, asks whether it may act, and learns that it may not.
    engine.tell("release")
    refused = engine.await_event("refused", key="hangs")
    assert (refused["attempts"], refused["error"]) == (1, "StaleDeadline")
    crew.await_beats(engine)
    (settled,) = engine.events("settled", key="hangs")
    assert settled["attempts"] == 2
    crew.check_invariants()


def test_an_engine_whose_threads_all_hang_gives_its_deadlines_to_others(crew: Crew):
    hung = crew.start("hung", handler_threads=2, handler_timeout=1.0)
    hangs = {"payload": {"hang": True, "only": "hung"}, "due_in": 0}
    hung.arm("timer", "hangs-1", "hangs-2", **hangs)
    hung.await_event("called", key="hangs-1")
    hung.await_event("called", key="hangs-2")
    hung.arm("timer", *INNOCENT, due_in=0)
    helper = crew.start("helper")

    crew.await_settled("hangs-1", "hangs-2", *INNOCENT)
    for key in ("hangs-1", "hangs-2", *INNOCENT):
        assert helper.events("effect", key=key), key
    assert crew.row_of(hung)["state"] == "live"

    # When its threads come back, it works again.
    hung.tell("release")
    eventually(lambda: len(hung.events("refused")) == 2, "both are refused")
    helper.kill()
    hung.arm("timer", "again", due_in=0)
    crew.await_settled("again")
    assert hung.events("effect", key="again")
    crew.check_invariants()


def test_a_handler_that_raises_what_nobody_catches_harms_nobody(crew: Crew):
    engine = crew.start("engine", handler_threads=1)
    engine.arm("timer", "raises", due_in=0, payload={"raise": True, "first": True})
    crew.await_settled("raises")
    engine.arm("timer", *INNOCENT, due_in=0)
    crew.await_settled(*INNOCENT)
    assert "Bug: on purpose" in engine.output()
    assert crew.row_of(engine)["state"] == "live"
    crew.check_invariants()
