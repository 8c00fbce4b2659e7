"""A standby is promoted, and what the old primary acknowledged last is gone.

Nothing can bring it back, and no engine notices by itself that it is. What holds all
the same: nothing that is there is lost, run early, or settled by two; nobody is fenced
for what is gone; and what was done and is forgotten is done again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from liveness import Rearm
from liveness.db import tables
from liveness.model import DeadlineState, EngineState
from tests.clock import SettableClock
from tests.cluster.conftest import LONG, NAME
from tests.fleet import Driven, Recorder
from tests.proc import until
from tests.standby import Pair
from tests.store.conftest import Store

D, E = tables.deadline, tables.engine
ARMED, CLAIMED = DeadlineState.ARMED, DeadlineState.CLAIMED


class Fleet:
    """Engines by way of the pair's address, on one clock, each on its own machine."""

    def __init__(self, pair: Pair, clock: SettableClock) -> None:
        self.pair, self.clock = pair, clock
        self.url = pair.url(NAME)
        self.store = Store(self.url, clock)
        self.store.clear()
        self._engines: list[Driven] = []

    def __call__(
        self, *handlers: Any, url: str | None = None, timeout: float = 5.0
    ) -> Driven:
        made = Driven(
            url or self.url,
            self.clock,
            handlers or (Recorder(),),
            machine=f"machine-{len(self._engines)}",
            database_timeout=timeout,
        )
        self._engines.append(made)
        return made

    def live(self, seconds: float, *engines: Driven) -> None:
        """Let so much time pass in which these engines beat and sweep."""
        for _ in range(round(seconds / 2)):
            self.clock.advance(2)
            for engine in engines:
                assert until(engine.beat, 10)
                engine.turn()

    def lose(self) -> None:
        """What is acknowledged from now on does not survive the next failover."""
        self.pair.stop_stream()

    def fail_over(self, *engines: Driven) -> None:
        """Promote, and have the engines find their way."""
        self.pair.fail_over()
        self.store.close()
        self.store = Store(self.url, self.clock)
        for engine in self._engines:
            engine.parts._pool.dispose()  # its host's next write would be a second one
        for engine in engines:
            engine.turn()

    def keys(self) -> list[str]:
        return self.store.keys()

    def close(self) -> None:
        for engine in self._engines:
            engine.abandon()
        self.store.close()


@pytest.fixture
def fleet(pair: Pair, clock: SettableClock) -> Iterator[Fleet]:
    made = Fleet(pair, clock)
    yield made
    made.close()


def test_an_arm_that_was_lost_is_lost_for_everybody(fleet):
    """With the host's own rows of the same moment. The owner is told when it asks."""
    timer = Recorder()
    engine = fleet(timer)
    kept = engine.live.arm("timer", "kept", due_in=60)
    fleet.lose()
    lost = engine.live.arm("timer", "lost", due_in=60)
    fleet.fail_over(engine)
    assert fleet.keys() == ["kept"]
    fleet.live(62, engine)
    engine.settle()
    assert engine.live.find("timer", "lost") is None
    assert fleet.keys() == []
    assert timer.keys == ["kept"]
    assert kept.token != lost.token
    with pytest.raises(Exception, match="lost"):
        engine.live.disarm(lost)


def test_an_engine_whose_beats_were_lost_goes_on(fleet):
    """The row's number goes back, and no number is sent twice."""
    engine, other = fleet(), fleet()
    fleet.live(4, engine, other)
    fleet.lose()
    fleet.live(6, engine, other)
    ahead = engine.row().beat_seq
    fleet.fail_over(engine, other)
    assert fleet.store.engine_row(engine.id).beat_seq < ahead
    fleet.live(40, engine, other)
    assert engine.row().beat_seq > ahead
    assert {e.row().state for e in (engine, other)} == {EngineState.LIVE}


def test_a_failover_starts_every_observation_anew(fleet):
    """On the server that comes after it, the silence so far is another's word."""
    observer, silent = fleet(), fleet()
    observer.turn()
    fleet.live(28, observer)
    fleet.fail_over(observer)
    fleet.live(30, observer)
    assert silent.row().alive
    fleet.live(6, observer)
    assert not silent.row().alive


def test_who_was_fenced_by_a_fence_that_is_lost_stays_dead_and_is_fenced_again(fleet):
    """Its row says that it is alive. What was taken over from it comes back to it, is
    taken over a lease later, and done once more; the first who did it is told."""
    action = Recorder("action", when_orphaned="retrigger")
    observer, victim = fleet(action), fleet(action)
    deadline = victim.live.arm("action", "k", due_in=3600)
    observer.turn()
    fleet.lose()
    fleet.live(34, observer)
    assert action.keys == ["k"] and not victim.beat()
    assert victim.trust.fenced
    fleet.fail_over(observer)
    row = fleet.store.row(kind="action")
    assert (row.owner_id, row.token) == (victim.id, deadline.token)
    assert fleet.store.engine_row(victim.id).alive
    assert not victim.beat() and victim.trust.fenced
    fleet.live(30, observer)
    assert action.keys == ["k"]
    fleet.live(6, observer)
    observer.settle()
    assert action.keys == ["k", "k"]
    assert fleet.keys() == []


def test_a_claim_and_its_completion_that_were_lost_are_made_again(fleet):
    """At least once: the row is as it was before, due and armed."""
    timer = Recorder()
    engine = fleet(timer)
    engine.live.arm("timer", "k", due_in=1)
    engine.turn()
    fleet.lose()
    fleet.live(2, engine)
    engine.settle()
    assert timer.keys == ["k"] and fleet.keys() == []
    fleet.fail_over(engine)
    assert fleet.store.row().state == ARMED
    fleet.live(4, engine)
    engine.settle()
    assert timer.keys == ["k", "k"] and fleet.keys() == []
    first, again = (value for _, value in timer.calls)
    assert first.token != again.token
    assert first.idempotency_key == again.idempotency_key


def test_of_a_claim_that_was_lost_the_outcome_does_not_count(fleet):
    """Claimed before the failover, answered after it: the row has no such token."""
    timer = Recorder()
    timer.answer = lambda deadline: Rearm(due_in=3600)
    owner, other = fleet(timer), fleet(Recorder())
    owner.live.arm("timer", "k", due_in=1)
    owner.turn()
    fleet.lose()
    fleet.clock.advance(2)
    assert owner.beat()
    owner.parts.loop._sweep_now = lambda connection: None
    owner.parts.loop.turn()
    assert until(lambda: not owner.unanswered, 10)
    fleet.fail_over()
    owner.parts.loop.turn()
    owner.parts.loop.turn()
    row = fleet.store.row()
    assert row.epoch == 1 and row.due_at < fleet.clock.utc
    fleet.live(8, other)
    other.settle()
    assert fleet.keys() == []


def test_an_engine_whose_registration_was_lost_is_over_at_its_next_beat(fleet):
    """What it armed is gone with it; what it took over is its old owner's again."""
    action = Recorder("action", when_orphaned="retrigger")
    other = fleet(action)
    fleet.store.arm(owner="gone", kind="action", due=3600.0)
    fleet.store.fenced("gone")
    fleet.lose()
    young = fleet(action)
    young.live.arm("action", "its own", due_in=3600)
    young.turn()
    assert "k" in action.keys
    fleet.fail_over()
    assert young.trust.good
    assert not young.beat() and young.trust.fenced
    assert fleet.keys() == ["k"]
    fleet.live(4, other)
    other.settle()
    assert action.keys == ["k", "k"] and fleet.keys() == []


@LONG
def test_rows_of_an_engine_that_is_missing_wait_for_a_lease(fleet):
    """A primary that crashed may come back without an engine's row; that engine trusts
    itself until its next beat."""
    action = Recorder("action", when_orphaned="retrigger")
    other = fleet(action)
    other.turn()
    young = fleet(action)
    young.live.arm("action", "k", due_in=3600)
    with fleet.store.connect() as connection:
        connection.execute(sa.delete(E).where(E.c.id == young.id))
    fleet.fail_over(other)
    fleet.live(20, other)
    assert action.keys == []
    fleet.live(60, other)
    other.settle()
    assert action.keys == ["k"]


def test_with_a_synchronous_standby_nothing_that_was_acknowledged_is_lost(fleet):
    """What was not acknowledged is unknown to its sender, and looked up."""
    engine = fleet(timeout=1.0)
    fleet.pair.synchronous(True)
    engine.live.arm("timer", "k", due_in=60)
    fleet.lose()
    assert not engine.beat(), "it waits for the standby"
    fleet.fail_over(engine)
    assert fleet.keys() == ["k"]
    assert engine.beat() and engine.row().alive


def test_an_old_primary_that_goes_on_has_engines_that_go_on_with_it(fleet):
    """Split brain: nothing in the database can tell them. So the old primary has to be
    stopped before the new one is promoted, or to be synchronous."""
    action = Recorder("action", when_orphaned="retrigger")
    left = fleet(action, url=fleet.pair.primary.url(NAME))
    left.live.arm("action", "k", due_in=3600)
    fleet.pair.standby.wait_for_stream()
    fleet.pair.fail_over(fenced=False)
    right = fleet(action)
    fleet.live(40, left, right)
    assert left.trust.good, "it beats, where nobody else looks"
    assert right.row(left.id).state == EngineState.FENCED
    assert action.keys == ["k"], "taken over from an engine that lives"


def test_an_old_primary_that_was_synchronous_lets_nobody_go_on(fleet):
    """Its commits wait for a standby that follows no more."""
    fleet.pair.synchronous(True)
    left = fleet(url=fleet.pair.primary.url(NAME), timeout=1.0)
    fleet.pair.fail_over(fenced=False)
    right = fleet()
    right.turn()
    for _ in range(2):
        assert not left.beat()
    fleet.live(40, right)
    assert not left.trust.good
    assert right.row(left.id).state == EngineState.FENCED
