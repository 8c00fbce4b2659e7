"""The heart: beats, knows when it is over, and beats only for an engine that works."""

import dataclasses
import logging
import os
import queue
import signal

import pytest
import sqlalchemy as sa

from liveness import Liveness, Retry, Settings, exceptions
from liveness.db import tables
from tests.fleet import Recorder, wait_until
from tests.rules.faults import Away, Fault

E = tables.engine
MICRO = 1e-6
TTL = 30.0


def seq_in_row(fleet, engine, seq):
    fleet.execute(sa.update(E).where(E.c.id == engine.id).values(beat_seq=seq))


# --- zero rows: over, for good ------------------------------------------------


def test_a_beat_that_changed_no_row_is_the_end_of_the_engine(fleet):
    engine = fleet()
    assert engine.beat()
    fleet.bury(engine)
    assert not engine.beat()
    assert engine.trust.fenced
    with pytest.raises(exceptions.Fenced):
        engine.live.check()


def test_an_engine_whose_row_is_gone_is_over(fleet):
    engine = fleet()
    fleet.execute(sa.delete(E))
    assert not engine.beat()
    assert engine.trust.fenced


def test_the_callbacks_are_called_once_all_of_them_even_if_one_raises(fleet, caplog):
    engine = fleet()
    called = []

    def fails(reason):
        called.append("fails")
        raise RuntimeError("callback")

    engine.live.on_fenced(fails)
    engine.live.on_fenced(lambda reason: called.append(reason))
    fleet.bury(engine)
    for _ in range(3):
        engine.beat()
    assert called == [
        "fails",
        "its row was fenced, removed, or beaten by another process",
    ]
    assert "the others are called" in caplog.text
    assert caplog.text.count(f"Engine {engine.id} was fenced") == 1


def test_a_callback_that_wants_to_exit_does_not_silence_the_others(fleet):
    engine = fleet()
    called = []

    def leaves(reason):
        raise SystemExit(1)

    engine.live.on_fenced(leaves)
    engine.live.on_fenced(called.append)
    fleet.bury(engine)
    engine.beat()
    assert len(called) == 1


def test_the_thread_of_the_heart_ends_when_the_engine_is_over(fleet):
    engine = fleet()
    fleet.bury(engine)
    heart = engine.parts.heart
    heart.start()
    heart._thread.join(10)
    assert not heart._thread.is_alive()
    assert engine.trust.fenced


# --- lost answers -------------------------------------------------------------


@pytest.mark.parametrize("committed", [1, 2, 3])
def test_any_beat_sent_since_the_last_answer_may_be_the_one_in_the_row(
    fleet, committed
):
    engine = fleet()  # beat 1 is the registration
    Fault(engine.parts.engines, "beat", before=2)
    engine.beat()
    engine.beat()
    seq_in_row(fleet, engine, committed)
    assert engine.beat()
    assert fleet.engine_row(engine).beat_seq == 4


@pytest.mark.parametrize("beaten", [4, 5])
def test_a_beat_that_this_engine_never_sent_is_somebody_elses(fleet, beaten):
    engine = fleet()
    Fault(engine.parts.engines, "beat", before=2)
    engine.beat()
    engine.beat()
    seq_in_row(fleet, engine, beaten)
    assert not engine.beat()
    assert engine.trust.fenced
    assert fleet.engine_row(engine).beat_seq == beaten


def test_a_failover_that_lost_its_last_beats_does_not_end_an_engine(fleet):
    engine = fleet()
    assert engine.beat()
    assert engine.beat()
    seq_in_row(fleet, engine, 1)
    assert engine.beat()
    assert not engine.trust.fenced
    assert fleet.engine_row(engine).beat_seq == 4


def test_an_old_process_does_not_beat_in_the_row_of_a_new_one(fleet):
    engine = fleet()
    fleet.execute(sa.update(E).where(E.c.id == engine.id).values(token=1))
    assert not engine.beat()
    assert engine.trust.fenced


def test_no_beat_number_is_sent_twice(fleet):
    engine = fleet()
    numbers = []
    beats = engine.parts.engines
    real = beats.beat

    def noted(connection, me, token, sent, seq, ttl):
        numbers.append(seq)
        return real(connection, me, token, sent, seq, ttl)

    beats.beat = noted
    Fault(beats, "beat", before=0, after=2)
    for _ in range(5):
        engine.beat()
    assert numbers == [2, 3, 4, 5, 6]
    assert not engine.trust.fenced


def test_a_late_beat_does_not_undo_a_newer_one(every_fleet):
    engine = every_fleet()
    assert engine.beat()  # number 2
    Fault(engine.parts.engines, "beat", before=1)
    engine.beat()  # number 3 is still on its way
    assert engine.beat()  # number 4
    with engine.connect() as connection:
        token = engine.parts.heart._token
        late = engine.parts.engines.beat(connection, engine.id, token, 2, 3, TTL)
        assert not late
    assert every_fleet.engine_row(engine).beat_seq == 4


# --- errors -------------------------------------------------------------------


def test_an_outage_is_told_once_and_so_is_its_end(fleet, clock, caplog):
    caplog.set_level(logging.INFO)
    engine = fleet()
    Fault(engine.parts.engines, "beat", before=5)
    for _ in range(5):
        clock.advance(10)
        engine.beat()
    assert caplog.text.count("could not beat") == 1
    assert "trusts itself for another 19.0 s" in caplog.text
    assert caplog.text.count("is suspended") == 1
    assert engine.beat()
    assert caplog.text.count("beats again and goes on") == 1


def test_a_broken_connection_is_not_used_again(every_fleet):
    engine = every_fleet()
    assert engine.beat()
    heart = engine.parts.heart
    before = heart._connection.connection.dbapi_connection
    before.close()
    assert not engine.beat()
    assert engine.beat()
    assert heart._connection.connection.dbapi_connection is not before


@pytest.mark.parametrize("error", [Away(), ValueError("a bug")])
def test_no_error_of_a_beat_ends_the_heart(fleet, error):
    engine = fleet()
    real = engine.parts.engines.beat
    errors = [error, error]

    def failing(*args):
        if errors:
            raise errors.pop()
        return real(*args)

    engine.parts.engines.beat = failing
    heart = engine.parts.heart
    heart.configure(_often(engine))
    heart.start()
    wait_until(lambda: fleet.engine_row(engine).beat_seq > 2)
    assert heart._thread.is_alive()
    heart.stop()


def test_not_even_the_watchdog_can_end_the_heart(fleet, caplog):
    engine = fleet()

    def broken(seconds):
        raise RuntimeError("watchdog")

    heart = engine.parts.heart
    works, heart._works = heart._works, broken
    assert heart._step() > 0
    assert fleet.engine_row(engine).beat_seq == 1
    assert "The heart stumbled; it goes on" in caplog.text
    heart._works = works
    heart._step()
    assert fleet.engine_row(engine).beat_seq == 2


def test_a_failed_beat_is_tried_again_sooner(fleet):
    engine = fleet()
    heart = engine.parts.heart
    Fault(engine.parts.engines, "beat", before=1)
    assert 0.8 * 5 / 4 <= heart._step() <= 5 / 4
    assert 0.8 * 5 <= heart._step() <= 5


def test_the_retries_of_a_fast_heart_do_not_spin(fleet):
    engine = fleet(beat_interval=0.05)
    Fault(engine.parts.engines, "beat", before=1)
    assert engine.parts.heart._step() >= 0.04


# --- nothing is shared --------------------------------------------------------


def test_the_heart_needs_no_connection_of_anybody_else(every_fleet):
    engine = every_fleet(connections=2)
    taken = [engine.parts._pool.connect() for _ in range(2)]
    taken.append(engine.parts._sweep_pool.connect())
    try:
        assert engine.beat()
    finally:
        for connection in taken:
            connection.close()


# --- beating proves work ------------------------------------------------------


def test_it_beats_until_the_loop_has_not_come_round_for_a_ttl(fleet, clock):
    engine = fleet()
    engine.turn()
    clock.advance(TTL)
    engine.parts.heart._step()
    assert fleet.engine_row(engine).beat_seq == 2
    clock.advance(MICRO)
    engine.parts.heart._step()
    assert fleet.engine_row(engine).beat_seq == 2


def test_it_says_once_why_it_stops_and_goes_on_if_the_loop_comes_round(
    fleet, clock, caplog
):
    engine = fleet()
    engine.turn()
    clock.advance(31)
    for _ in range(3):
        engine.parts.heart._step()
    assert caplog.text.count("stops beating: its sweep loop has not come round") == 1
    assert "for 31.0 s" in caplog.text
    assert not engine.live.trusted
    engine.turn()
    engine.parts.heart._step()
    assert engine.live.trusted
    clock.advance(31)
    engine.parts.heart._step()
    assert caplog.text.count("stops beating") == 2


def test_an_engine_that_does_nothing_is_fenced_in_the_end(fleet, clock):
    stuck, works = fleet(), fleet()
    stuck.turn()
    for _ in range(50):
        clock.advance(2)
        stuck.parts.heart._step()
        works.beat()
        works.turn()
    assert fleet.engine_row(stuck).fenced_by == works.id


@pytest.mark.parametrize("how", ["fenced", "purged", "another's", "not yet"])
def test_an_engine_that_stopped_beating_learns_of_its_fence(fleet, clock, how):
    engine = fleet()
    engine.turn()
    clock.advance(31)
    if how == "fenced":
        fleet.bury(engine)
    elif how == "purged":
        fleet.execute(sa.delete(E))
    elif how == "another's":
        fleet.execute(sa.update(E).values(token=1))
    engine.parts.heart._step()
    assert engine.trust.fenced is (how != "not yet")


def test_an_engine_that_was_paused_as_a_whole_beats_first(fleet, clock):
    """Its loop had no time to come round either; the next step asks again."""
    engine = fleet()
    heart = engine.parts.heart
    heart._expected = clock.monotonic() + 5
    clock.advance(3600)
    heart._step()
    assert fleet.engine_row(engine).beat_seq == 2
    heart._expected = clock.monotonic() + 5
    clock.advance(5)
    heart._step()
    assert fleet.engine_row(engine).beat_seq == 2


@pytest.mark.parametrize("error", [Away(), RuntimeError("a bug")])
def test_a_turn_that_failed_has_come_round(fleet, clock, error):
    engine = fleet()

    def failing(connection):
        raise error

    engine.parts.loop._turn = failing
    clock.advance(31)
    engine.turn()
    engine.parts.heart._step()
    assert fleet.engine_row(engine).beat_seq == 2


def test_a_turn_that_cannot_even_connect_has_come_round(fleet, clock):
    engine = fleet()
    with engine.parts._sweep_pool.connect():
        engine.parts._sweep_pool.pool._timeout = 0.01
        clock.advance(31)
        engine.turn()
    engine.parts.heart._step()
    assert fleet.engine_row(engine).beat_seq == 2


def test_a_long_turn_that_makes_progress_is_work(fleet, clock):
    """Thirty slow settlements in one turn: each statement comes back in time."""
    handler = Recorder()
    handler.answer = Retry("later", due_in=60)
    engine = fleet(handler)
    engine.turn()
    for number in range(30):
        engine.live.arm("timer", f"k{number}", due_in=1)
    clock.advance(1)
    engine.beat()
    engine.turn()
    wait_until(lambda: not engine.unanswered)
    retry = engine.parts.deadlines.retry

    def slow(*args):
        clock.advance(2)
        engine.parts.heart._step()
        return retry(*args)

    engine.parts.deadlines.retry = slow
    engine.turn()
    assert engine.live.trusted


# --- forks, and the end -------------------------------------------------------


def test_a_forks_copy_does_not_beat(fleet):
    engine = fleet()
    heart = engine.parts.heart
    if (pid := os.fork()) == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)  # should it go on for ever
            heart._run()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert fleet.engine_row(engine).beat_seq == 1
    heart.configure(_often(engine))
    heart.start()  # the same in the process that made it
    wait_until(lambda: fleet.engine_row(engine).beat_seq > 1)
    heart.stop()


def test_after_stop_nothing_is_sent(fleet):
    engine = fleet()
    heart = engine.parts.heart
    heart.configure(_often(engine))
    heart.start()
    wait_until(lambda: fleet.engine_row(engine).beat_seq > 1)
    heart.stop()
    assert not heart._thread.is_alive()
    assert heart._connection is None
    heart.stop()


def _often(engine):
    return dataclasses.replace(engine.live.settings, beat_interval=0.05)


def test_a_callback_may_stop_the_engine(quick_url):
    live = Liveness(
        Settings.of(
            connection=quick_url,
            ttl=3,
            beat_interval=0.1,
            sweep_interval=0.2,
            lease_margin=0.1,
            database_timeout=0.9,
        )
    )
    outcome = queue.SimpleQueue()

    def stop(reason):
        try:
            live.stop(0)
            outcome.put("stopped")
        except Exception as error:
            outcome.put(error)

    live.on_fenced(stop)
    live.start()
    engine = sa.create_engine(quick_url)
    with engine.begin() as connection:
        connection.execute(sa.update(E).values(state="fenced"))
    assert outcome.get(timeout=10) == "stopped"
