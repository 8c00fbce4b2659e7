"""The lease: how long an engine may trust itself."""

import dataclasses

import pytest

from liveness import exceptions
from liveness.trust import Trust
from tests.clock import SettableClock
from tests.rules.faults import Fault, Meanwhile

MICRO = 1e-6
LEASE = 29.0  # ttl less the margin, in every engine of these tests


@pytest.fixture
def trust(clock: SettableClock) -> Trust:
    return Trust(clock, "me")


def test_a_new_trust_is_not_good(trust):
    assert not trust.good
    with pytest.raises(exceptions.Suspended):
        trust.check()


def test_the_lease_counts_from_before_the_send_and_ends_to_the_microsecond(
    trust, clock
):
    sent = clock.monotonic()
    clock.advance(3)
    trust.renew(sent, clock.monotonic(), 10)
    assert trust.left == pytest.approx(7)
    clock.advance(7 - MICRO)
    assert trust.good
    trust.check()
    clock.advance(MICRO)
    assert not trust.good
    with pytest.raises(exceptions.Suspended, match="for 10.0 s"):
        trust.check()


def test_a_beat_counts_from_before_it_was_sent(fleet, clock):
    engine = fleet()
    Meanwhile(engine.parts.engines, "beat", lambda: clock.advance(4))
    assert engine.beat()
    assert engine.trust.left == pytest.approx(LEASE - 4)


def test_the_registration_counts_from_before_it_was_sent(fleet, clock, monkeypatch):
    from liveness.db.engines import Engines

    real = Engines.register

    def slow(self, *args):
        clock.advance(4)
        real(self, *args)
        clock.advance(2)

    monkeypatch.setattr(Engines, "register", slow)
    assert fleet().trust.left == pytest.approx(LEASE - 6)


def test_the_lease_is_the_ttl_less_the_margin(fleet, clock):
    engine = fleet(ttl=30, lease_margin=2)
    clock.advance(28 - MICRO)
    assert engine.live.trusted
    clock.advance(MICRO)
    assert not engine.live.trusted
    assert fleet.engine_row(engine).ttl == 30


def test_suspended_is_not_dead_a_beat_brings_it_back(fleet, clock):
    engine = fleet()
    fault = Fault(engine.parts.engines, "beat", before=3)
    for _ in range(3):
        clock.advance(20)
        assert not engine.beat()
    with pytest.raises(exceptions.Suspended):
        engine.live.check()
    assert not engine.trust.fenced
    assert engine.beat()
    engine.live.check()
    assert engine.trust.left == pytest.approx(LEASE)
    assert fault.calls == 4


def test_a_beat_whose_answer_was_lost_renews_nothing(fleet, clock):
    engine = fleet()
    clock.advance(10)
    Fault(engine.parts.engines, "beat", after=1)
    assert not engine.beat()
    assert fleet.engine_row(engine).beat_seq == 2
    assert engine.trust.left == pytest.approx(LEASE - 10)


def test_fenced_is_final_whatever_beat_is_answered_later(trust, clock):
    trust.renew(clock.monotonic(), clock.monotonic(), 10)
    assert trust.end("first reason")
    assert not trust.end("second reason")
    trust.renew(clock.monotonic(), clock.monotonic(), 10)
    assert trust.fenced
    assert not trust.good
    with pytest.raises(exceptions.Fenced, match="first reason"):
        trust.check()
    with pytest.raises(exceptions.Fenced):
        trust.check_not_fenced()


def test_a_stopped_engine_trusts_itself_no_more_although_it_beats(trust, clock):
    trust.renew(clock.monotonic(), clock.monotonic(), 10)
    trust.drop()
    trust.renew(clock.monotonic(), clock.monotonic(), 10)
    assert not trust.good
    with pytest.raises(exceptions.NotRunning):
        trust.check()
    trust.check_not_fenced()


# --- another ttl --------------------------------------------------------------


def _with_ttl(engine, ttl):
    return dataclasses.replace(engine.live.settings, ttl=ttl)


def test_a_shorter_ttl_is_trusted_before_the_beat_that_announces_it(fleet, clock):
    engine = fleet()
    engine.live.configure(_with_ttl(engine, 24))
    assert fleet.engine_row(engine).ttl == 30  # announced by the next beat only
    clock.advance(23 - MICRO)
    assert engine.live.trusted
    clock.advance(MICRO)
    assert not engine.live.trusted


def test_a_longer_ttl_is_trusted_only_after_the_beat_that_announces_it(fleet, clock):
    engine = fleet()
    engine.live.configure(_with_ttl(engine, 60))
    assert engine.trust.left == pytest.approx(LEASE)
    Fault(engine.parts.engines, "beat", after=1)
    assert not engine.beat()
    assert fleet.engine_row(engine).ttl == 60
    assert engine.trust.left == pytest.approx(LEASE)
    assert engine.beat()
    assert engine.trust.left == pytest.approx(59)


def test_a_ttl_shortened_while_a_beat_is_in_flight_is_not_forgotten(fleet, clock):
    """The beat in flight announces the long ttl, and may be trusted so far; the next
    one announces the short one, and from before its send nothing longer counts."""
    engine = fleet()
    beats = engine.parts.engines
    Meanwhile(beats, "beat", lambda: engine.live.configure(_with_ttl(engine, 24)))
    assert engine.beat()
    assert fleet.engine_row(engine).ttl == 30
    Fault(beats, "beat", after=1)
    assert not engine.beat()  # committed, the answer lost
    assert fleet.engine_row(engine).ttl == 24
    assert engine.trust.left <= 23


def test_one_beat_is_of_one_set_of_settings(fleet, clock):
    """Its lease and the ttl that it announces are read together: when both change in
    between, the row must not say less than what is trusted."""
    engine = fleet()
    heart = engine.parts.heart
    short = _with_ttl(engine, 24)

    class ChangedWhileRead:
        def __getattr__(self, name):
            value = getattr(old, name)
            if name == "lease_margin":
                heart.configure(short)
            return value

    old, heart._settings = heart._settings, ChangedWhileRead()
    assert engine.beat()
    assert engine.trust.left <= fleet.engine_row(engine).ttl


# --- what an observer may conclude from its own beats -------------------------


def _beat(trust, at, took=0.0, lease=29.0):
    trust.renew(at, at + took, lease)


def test_inherited_beats_give_no_trust(trust, clock):
    trust.inherit([(990.0, 990.1), (995.0, 995.1)])
    assert not trust.good


def test_beats_since_a_moment_begin_with_the_last_one_before_it(trust):
    for at in (1000, 1005, 1010):
        _beat(trust, at, took=1)
    all_of_them = [(1000, 1001), (1005, 1006), (1010, 1011)]
    assert trust.beats_since(1006) == all_of_them[1:]
    assert trust.beats_since(1006 - MICRO) == all_of_them
    assert trust.beats_since(1011) == all_of_them[2:]
