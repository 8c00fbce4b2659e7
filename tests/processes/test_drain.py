"""SIGTERM: an engine that stops hands everything back, and settles nothing more."""

from __future__ import annotations

import signal

from tests.processes.conftest import on
from tests.processes.crew import Crew, eventually

# So long that no wait for a lease can be in time for a test.
LONG = {"ttl": 600.0, "beat_interval": 5.0}


@on("sqlite", "postgresql")
def test_a_stopped_engine_hands_its_deadlines_back_at_once(crew: Crew):
    leaving = crew.start("leaving", linger=True, **LONG)
    heir = crew.start("heir", **LONG)
    leaving.arm("timer", "later", due_in=500)
    leaving.arm("action", "job", due_in=500)
    leaving.arm("timer", "running", due_in=0, payload={"steps": 20})
    leaving.await_event("effect", key="running")
    assert heir.engine_id

    leaving.kill(signal.SIGTERM)
    leaving.await_event("stopped")
    # Its program goes on, so no proof of death is to be had: the row says it.
    assert crew.row_of(leaving)["state"] == "stopped"
    crew.await_settled("job", "running")
    eventually(
        lambda: crew.owners() == {"later": heir.engine_id}, lambda: crew.owners()
    )
    assert len(leaving.events("effect", key="running")) == 20
    assert leaving.await_event("settled", key="running")
    assert not heir.events("called", key="running")
    crew.check_invariants()


@on("sqlite", "mariadb")
def test_work_that_outlasts_the_drain_is_handed_over_and_settled_by_the_heir(
    crew: Crew,
):
    leaving = crew.start("leaving", linger=True, drain_timeout=1.0, **LONG)
    heir = crew.start("heir", **LONG)
    endless = {"steps": 10_000, "only": "leaving"}
    leaving.arm("timer", "running", due_in=0, payload=endless)
    leaving.arm("timer", "hangs", due_in=0, payload={"hang": True, "only": "leaving"})
    leaving.tell("guard", key="guarded", due_in=500)
    leaving.await_event("effect", key="running")
    leaving.await_event("called", key="hangs")
    leaving.await_event("effect", key="guarded")
    assert heir.engine_id

    leaving.kill(signal.SIGTERM)
    stopped = leaving.await_event("stopped")
    crew.await_settled("running", "hangs", "guarded")
    leaving.tell("release")
    for key in ("running", "hangs"):
        leaving.await_event("refused", key=key)
    leaving.await_event("unfinished", key="guarded")

    for key in ("running", "hangs", "guarded"):
        assert heir.await_event("settled", key=key)
        for called in heir.events("called", key=key):
            late = leaving.events("effect", key=key)
            assert not [e for e in late if e["checked"] > called["at"]], key
    assert not leaving.events("settled")
    assert not leaving.events("moved")
    assert crew.row_of(leaving)["state"] == "stopped"
    assert stopped["at"] >= leaving.events("called")[0]["at"]
    crew.check_invariants()
