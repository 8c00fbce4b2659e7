"""How late deadlines were claimed: counted in memory, written once a minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liveness.clock import Clock
from liveness.db import tables
from liveness.db.events import EventLog, Sought
from liveness.db.report import Report
from liveness.events import What
from liveness.lateness import BOUNDS, Counted, Minute, by_minute
from tests.test_history import _fleet, recorded, silence, statements

NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def fleet(schema_url):
    yield from _fleet(schema_url)


@pytest.fixture
def lite(synced):
    yield from _fleet(synced)


def minutes(reader):
    events = recorded(reader, what=[What.LATENESS])
    return by_minute(event.detail for event in events)


def minute(*late):
    made = Minute()
    made.add(NOON, [NOON - timedelta(seconds=each) for each in late])
    return made


# --- a minute -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("late", "place"), [(0.0, 0), (0.01, 0), (0.010001, 1), (1000.0, 10), (1001.0, 11)]
)
def test_a_bound_counts_what_is_just_as_late(late, place):
    assert minute(late).counts.index(1) == place


def test_half_of_them_were_not_later_than_this():
    assert minute(0.005, 0.02, 0.02, 7.0).within(0.5) == 0.03
    assert minute(0.005, 0.02, 0.02, 7.0).within(0.99) == 7.0
    assert minute(0.002).within(0.5) == 0.002
    assert minute(5000.0).within(0.5) == 5000.0
    assert Minute().within(0.5) == 0.0


lates = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


@settings(max_examples=100, deadline=None)
@given(lates, lates)
def test_what_two_engines_wrote_is_what_one_would_have_written(mine, theirs):
    read = by_minute([minute(*mine).line(NOON), minute(*theirs).line(NOON)])
    both = minute(*mine, *theirs)
    assert read[NOON].counts == both.counts
    assert read[NOON].most == pytest.approx(both.most, abs=0.0006)


def test_a_line_always_fits_its_column():
    longest = Minute([99_999] * (len(BOUNDS) + 1), 999_999.0).line(NOON)
    assert len(longest) <= tables.DETAIL_LENGTH
    assert by_minute([longest])[NOON].claimed == 99_999 * (len(BOUNDS) + 1)


def test_what_is_no_line_is_passed_by():
    lines = [
        None,
        "",
        "<script>",
        "2026-13-01T12:00Z: 1 claimed, at most 0.000 s late (0.01 s: 1)",
        "2026-01-01T12:00Z: 1 claimed, at most 0.000 s late (7 s: 1, more: x)",
    ]
    assert {m: read.claimed for m, read in by_minute(lines).items()} == {NOON: 0}


def test_a_minute_is_over_when_the_next_begins_or_the_clock_was_set_back():
    counted, second = Counted(), timedelta(seconds=1)
    counted.add(NOON, [NOON - second])
    assert counted.over(NOON + 59.999 * second) == []
    assert len(counted.over(NOON + 60 * second)) == 1
    assert counted.over(None) == []
    counted.add(NOON, [NOON])
    assert len(counted.over(NOON - second)) == 1
    counted.add(NOON, [NOON])
    assert len(counted.over(None)) == 1


# --- what engines write ---------------------------------------------------------------


def test_an_engine_writes_down_how_late_its_own_deadlines_were(fleet):
    engine = fleet("engine")
    for key, due in (("a", 10.0), ("b", 10.0), ("c", 3.0)):
        engine.live.arm("timer", key, due_in=due)
    engine.turn()
    fleet.clock.advance(10.5)
    engine.beat()
    engine.turn()
    engine.turn()
    engine.settle()
    assert minutes(engine) == {}
    fleet.clock.advance(60)
    engine.beat()
    engine.turn()
    ((at, read),) = minutes(engine).items()
    assert (at.second, read.claimed) == (0, 3)
    assert read.most == pytest.approx(7.5)
    assert read.within(0.5) == 1  # 0.5 s, as well as the bounds say it
    assert "lateness" not in [event.what for event in recorded(engine)]


def test_what_was_taken_over_counts_if_it_was_due(lite):
    dead, heir = lite("dead"), lite("heir")
    for kind, key, due in (
        ("timer", "restarted", 600),
        ("timer", "expired", 36),
        ("action", "retriggered", 600),
    ):
        dead.live.arm(kind, key, due_in=due)
    silence(lite.clock, heir)
    lite.clock.advance(60)
    heir.beat()
    heir.turn()
    read = Minute()
    for each in minutes(heir).values():
        read.merge(each)
    assert read.claimed == 1
    assert read.most == pytest.approx(4.0)


def test_what_its_living_owner_let_lie_counts(lite):
    owner, other = lite("owner"), lite("other")
    owner.live.arm("timer", "k", due_in=1)
    lite.clock.advance(9)
    owner.beat()
    other.beat()
    other.turn()
    lite.clock.advance(60)
    other.beat()
    other.turn()
    ((_, read),) = minutes(other).items()
    assert (read.claimed, read.most) == (1, pytest.approx(8.0))


def test_an_engine_that_ends_writes_what_it_has_counted(lite):
    engine, reader = lite("engine"), lite("reader")
    engine.live.arm("timer", "k", due_in=0)
    engine.turn()
    engine.turn()
    engine.settle()
    with engine.connect() as connection:
        engine.parts._resign(connection, "engine")
    assert sum(read.claimed for read in minutes(reader).values()) == 1


def test_off_counts_nothing(lite):
    engine = lite("engine", history="off")
    engine.live.arm("timer", "k", due_in=0)
    for _ in range(3):
        engine.turn()
        lite.clock.advance(60)
        engine.beat()
    assert minutes(engine) == {}


def test_a_minute_costs_one_statement_however_many_were_claimed(lite):
    engine = lite("engine")

    def sent(claims):
        for n in range(claims):
            engine.live.arm("timer", f"{claims}-{n}", due_in=5)
        lite.clock.advance(5)
        engine.turn()
        with statements(engine) as claiming:
            engine.turn()
        engine.settle()
        lite.clock.advance(60)
        engine.beat()
        with statements(engine) as writing:
            engine.turn()
        inserted = [s for s in writing if s.startswith("INSERT")]
        return [s for s in claiming if "liveness_event" in s], len(inserted)

    assert sent(1) == ([], 1)
    assert sent(20) == ([], 1)


# --- what is late now -----------------------------------------------------------------


def test_what_is_due_for_longest_is_found(fleet):
    engine = fleet("engine")

    def longest():
        with engine.connect() as connection:
            return Report(fleet.clock).longest_due(connection)

    assert longest() is None
    engine.live.arm("timer", "a", due_in=10)
    engine.live.arm("timer", "b", due_in=20)
    assert longest() is None
    fleet.clock.advance(10)
    assert longest() == 0.0
    fleet.clock.advance(20)
    assert longest() == pytest.approx(20.0)


def test_no_more_windows_are_read_than_said(lite, monkeypatch):
    from liveness.db import events
    from liveness.events import Event

    monkeypatch.setattr(events, "WINDOW", 2)
    engine = lite("engine")
    with engine.connect() as connection:
        for n in range(9):
            EventLog(Clock()).add(connection, [Event(What.RETRIED, key=f"k{n}")])
        found = EventLog(Clock()).newest_first(connection, Sought(), windows=3)
        assert [event.key for event in found] == [f"k{n}" for n in range(8, 2, -1)]
