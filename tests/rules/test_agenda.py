"""The agenda is a hint; the row is the truth."""

import logging

import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import strategies

from liveness.agenda import FEW, SOON, TRIES, Agenda, Entry
from liveness.db import tables
from liveness.db.rows import new_token
from liveness.model import Deadline
from tests.fleet import Recorder
from tests.rules.faults import Fault

D = tables.deadline


def value(row_id=1, token=1, attempts=0):
    names = dict.fromkeys(Deadline._fields)
    return Deadline(**{**names, "id": row_id, "token": token, "attempts": attempts})


def test_what_is_due_comes_in_order_and_once():
    agenda = Agenda()
    agenda.add(Entry(due, value(row_id)) for row_id, due in ((1, 3.0), (2, 1.0)))
    assert agenda.next_due == 1.0
    assert agenda.take_due(1.0 - 1e-9, 10) == []
    assert [entry.value.id for entry in agenda.take_due(1.0, 10)] == [2]
    assert [entry.value.id for entry in agenda.take_due(9.0, 10)] == [1]
    assert agenda.take_due(9.0, 10) == []
    assert agenda.next_due == float("inf")
    assert len(agenda) == 0


def test_no_more_is_taken_than_asked_for():
    agenda = Agenda()
    agenda.add(Entry(1.0, value(row_id)) for row_id in range(5))
    assert len(agenda.take_due(1.0, 2)) == 2
    assert agenda.take_due(1.0, 0) == []
    assert len(agenda.take_due(1.0, 9)) == 3


@hypothesis.given(strategies.lists(strategies.integers(0, 9), max_size=40))
def test_few_are_due_when_some_are_and_not_more_than_a_few(times):
    agenda = Agenda()
    agenda.add(Entry(float(due), value(row_id)) for row_id, due in enumerate(times))
    for now in range(10):
        due = sum(time <= now for time in times)
        assert agenda.few_due(float(now)) == (0 < due <= FEW)


def test_a_newer_value_takes_the_place_of_an_older_one():
    agenda = Agenda()
    agenda.add([Entry(1.0, value(token=1))])
    agenda.add([Entry(5.0, value(token=2))])
    assert agenda.take_due(4.0, 10) == []
    assert agenda.next_due == 5.0
    assert [entry.value.token for entry in agenda.take_due(5.0, 10)] == [2]


def test_what_is_known_is_not_put_off_by_the_next_sweep():
    agenda = Agenda()
    agenda.add([Entry(1.0, value())])
    agenda.add([Entry(5.0, value())])
    assert len(agenda) == 1
    assert agenda.next_due == 1.0


def test_what_is_discarded_is_forgotten():
    agenda = Agenda()
    agenda.add([Entry(1.0, value())])
    agenda.discard(1)
    agenda.discard(7)
    assert agenda.next_due == float("inf")
    assert agenda.take_due(9.0, 9) == []


def test_a_claim_that_came_to_nothing_is_tried_again_sooner_then_later_then_never():
    agenda = Agenda()
    agenda.add([Entry(0.0, value())])
    now = waited = 0.0
    for tries in range(TRIES):
        (entry,) = agenda.take_due(now, 9)
        agenda.postpone([entry], now)
        assert agenda.next_due == pytest.approx(now + SOON * 2**tries)
        waited += agenda.next_due - now
        now = agenda.next_due
    (entry,) = agenda.take_due(now, 9)
    agenda.postpone([entry], now)
    assert len(agenda) == 0
    assert 0.1 < waited < 0.2


def test_what_was_armed_anew_meanwhile_is_not_undone_by_a_late_retry():
    agenda = Agenda()
    agenda.add([Entry(0.0, value(token=1))])
    (entry,) = agenda.take_due(0.0, 9)
    agenda.add([Entry(7.0, value(token=2))])
    agenda.postpone([entry], 0.0)
    assert agenda.next_due == 7.0


# --- in an engine -------------------------------------------------------------


@pytest.mark.parametrize("change", ["gone", "moved", "taken", "renewed"])
def test_a_row_that_changed_does_not_run(every_fleet, change):
    fleet, timer = every_fleet, Recorder()
    engine = fleet(timer)
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    if change == "gone":
        fleet.execute(sa.delete(D))
    else:
        owner = "other" if change == "taken" else engine.id
        values = {"token": new_token(), "owner_id": owner}
        if change == "moved":
            values["due_at"] = fleet.clock.utc.replace(year=2030)
        fleet.execute(sa.update(D).values(**values))
    before = fleet.rows()
    fleet.clock.advance(1)
    for _ in range(3):
        engine.parts.loop.turn()
    assert fleet.rows() == before
    assert timer.calls == []


def test_too_early_by_the_databases_clock_is_tried_again_soon(fleet):
    """The conversion between the clocks is off by some of the round trip."""
    timer = Recorder()
    engine = fleet(timer)
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    fleet.clock.jump(-0.01)
    start = fleet.clock.monotonic()
    fleet.clock.advance(1)
    delay = engine.parts.loop.turn()
    while fleet.row("k").state == "armed":
        assert fleet.clock.monotonic() < start + 1.1
        fleet.clock.advance(delay + 1e-6)
        delay = engine.parts.loop.turn()
    assert fleet.clock.utc >= fleet.row("k").due_at
    engine.settle()
    assert timer.keys == ["k"]


def test_what_the_agenda_gave_up_is_found_by_the_next_sweep(fleet):
    timer = Recorder()
    engine = fleet(timer)
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    fleet.clock.jump(-0.9)
    fleet.live(1.0, engine, step=0.01)
    assert fleet.row("k").state == "armed"
    assert timer.calls == []
    fleet.live(1.0, engine, step=0.1)
    engine.settle()
    assert timer.keys == ["k"]


def test_an_error_of_the_claim_costs_a_sweep_not_the_deadline(fleet, caplog):
    caplog.set_level(logging.ERROR)
    timer = Recorder()
    engine = fleet(timer)
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    Fault(engine.parts._claims, "claim_own", before=1)
    fleet.clock.advance(1)
    for _ in range(3):
        engine.parts.loop.turn()
    engine.settle()
    assert timer.keys == ["k"]
    assert caplog.text == ""


def test_what_was_disarmed_is_not_even_asked_for(fleet):
    engine = fleet()
    engine.turn()
    deadline = engine.live.arm("timer", "k", due_in=1)
    engine.live.disarm(deadline)
    assert engine.parts._agenda.next_due == float("inf")


def test_what_was_extended_fires_at_its_new_time_only(fleet):
    timer = Recorder()
    engine = fleet(timer)
    engine.turn()
    deadline = engine.live.arm("timer", "k", due_in=1)
    engine.live.extend(deadline, due_in=2)
    fleet.clock.advance(2 - 1e-6)
    engine.parts.loop.turn()
    assert fleet.row("k").state == "armed"
    fleet.clock.advance(2e-6)
    engine.parts.loop.turn()
    engine.settle()
    assert timer.keys == ["k"]
