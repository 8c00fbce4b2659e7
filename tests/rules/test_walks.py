"""How survivors share what one engine had, when that is very much."""

import types

import pytest
import sqlalchemy as sa

from liveness import sweep, walks
from liveness.db import tables
from tests.fleet import Recorder
from tests.rules.faults import Fault, Meanwhile

D, E = tables.deadline, tables.engine
HOUR = 3600.0
COUNT = 60


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    monkeypatch.setattr(sweep, "PAGE", 4)
    monkeypatch.setattr(walks, "PAGE", 6)


def armed(owner, count=COUNT, kind="timer", name=""):
    for number in range(count):
        owner.live.arm(kind, f"{kind}{name}{number}", due_in=HOUR)


def watched(engine):
    """What its walks find, page by page."""
    finder = engine.parts._sweep._finder
    find, pages = finder.orphans_of, []

    def found(*args):
        page = find(*args)
        pages.append([value.key for value in page])
        return page

    finder.orphans_of = found
    return pages


def taken_by(fleet, engine, count):
    """Another survivor was quicker: the first ``count`` are its own."""
    some = [row.id for row in fleet.rows()][:count]
    values = {"owner_id": engine.id, "token": D.c.token + 1}
    fleet.execute(sa.update(D).where(D.c.id.in_(some)).values(values))


def owners(fleet):
    return {row.owner_id for row in fleet.rows()}


def test_survivors_walk_through_slices_of_their_own(fleet):
    dead, *survivors = (fleet(batch_size=4) for _ in range(4))
    armed(dead)  # all due at the same time
    fleet.bury(dead)
    pages = [watched(engine) for engine in survivors]
    for engine in survivors:
        engine.parts._claims.adopt_orphans = (
            lambda *args: []
        )  # all look before any takes
        engine.turn()
        del engine.parts._claims.adopt_orphans
    (one,), (two,), (three,) = pages
    assert len({*one, *two, *three}) == 18
    for _ in range(12):
        for engine in survivors:
            engine.turn()
    assert owners(fleet) == {engine.id for engine in survivors}


def test_what_is_taken_is_not_read_again(fleet):
    dead, engine = fleet(), fleet(batch_size=4)
    armed(dead)
    fleet.bury(dead)
    pages = watched(engine)
    while engine.parts.loop.turn() == 0:
        pass
    assert owners(fleet) == {engine.id}
    assert [len(page) for page in pages] == [6] * 9 + [2]


def test_a_page_begins_where_the_last_one_ended(fleet):
    dead, engine = fleet(), fleet(batch_size=4)
    armed(dead)
    fleet.bury(dead)
    pages, finder = watched(engine), engine.parts._sweep._finder
    places, find = [], finder.orphans_of
    finder.orphans_of = lambda *args: places.append(args[3].id) or find(*args)
    for _ in range(3):
        engine.turn()
    ids = {row.key: row.id for row in fleet.rows()}
    assert places == [0, ids[pages[0][-1]], ids[pages[1][-1]]]


def test_a_walk_keeps_no_other_dead_engines_deadlines_waiting(fleet):
    action = Recorder("action", when_orphaned="retrigger")
    kinds = (action, Recorder())
    dead, other, engine = fleet(*kinds), fleet(*kinds), fleet(*kinds, batch_size=4)
    armed(dead)
    fleet.bury(dead)
    engine.turn()
    armed(other, 1, "action")
    fleet.bury(other)
    engine.turn()
    engine.settle()
    assert action.keys == ["action0"]
    assert dead.id in owners(fleet)


def test_what_is_to_be_done_at_once_is_done_on_the_way(fleet):
    action = Recorder("action", when_orphaned="retrigger")
    kinds = (action, Recorder())
    dead, engine = fleet(*kinds), fleet(*kinds, batch_size=4)
    armed(dead, 8)
    armed(dead, 2, "action")
    armed(dead, 8, name="later")
    fleet.bury(dead)
    for _ in range(10):
        engine.turn()
        engine.settle()
    assert sorted(action.keys) == ["action0", "action1"]
    assert owners(fleet) == {engine.id}


def test_where_others_are_quicker_another_slice_is_taken(fleet):
    dead, one, two = (fleet(batch_size=4) for _ in range(3))
    armed(dead)
    fleet.bury(dead)
    counted = Fault(one.parts._sweep._finder, "count_armed")
    one.turn()
    assert counted.calls == 1
    finder = one.parts._sweep._finder
    Meanwhile(finder, "orphans_of", lambda: taken_by(fleet, two, 50), before=False)
    one.turn()
    one.turn()
    assert counted.calls == 2
    for _ in range(40):
        one.turn()
    assert dead.id not in owners(fleet)


def test_who_loses_its_first_page_goes_on_at_once(fleet):
    dead, one, two = (fleet(batch_size=4) for _ in range(3))
    one.parts._sweep._vain = walks.VAIN  # of an earlier death
    one.turn()  # with nothing to do
    one.parts.loop.sweep_soon()
    armed(dead)
    fleet.bury(dead)
    finder = one.parts._sweep._finder
    Meanwhile(finder, "find", lambda: taken_by(fleet, two, 10), before=False)
    assert one.parts.loop.turn() == 0
    assert one.id in owners(fleet)


def test_who_comes_too_late_for_a_page_of_nobodys_goes_on_at_once(fleet):
    action = Recorder("action", when_orphaned="retrigger")
    drained, one, two = (fleet(action, batch_size=4) for _ in range(3))
    one.turn()  # with nothing to do
    armed(drained, 8, "action")
    fleet.execute(sa.update(D).values(owner_id=None))
    engines = one.parts.engines  # read with which the page is
    Meanwhile(engines, "observe", lambda: taken_by(fleet, two, 4), before=False)
    one.parts.loop.sweep_soon()
    assert one.parts.loop.turn() == 0
    assert one.parts.loop.turn() == 0  # the next page; there is none
    one.parts.loop.turn()
    assert one.id in owners(fleet)


def test_what_nobody_can_take_is_left_until_the_next_sweep(fleet):
    dead, engine = fleet(), fleet(batch_size=4)
    armed(dead)
    fleet.bury(dead)
    engine.parts._claims.adopt_orphans = lambda *args: []  # others have it locked
    delays = [engine.parts.loop.turn() for _ in range(12)]
    assert delays[-1] > 0
    del engine.parts._claims.adopt_orphans
    fleet.live(40, engine)
    assert owners(fleet) == {engine.id}


def test_an_owner_that_is_alive_after_all_loses_nothing_more(fleet):
    dead, engine = fleet(), fleet(batch_size=4)
    armed(dead)
    fleet.bury(dead)
    engine.turn()
    alive = {"state": "live", "ended_at": None}
    fleet.execute(sa.update(E).where(E.c.id == dead.id).values(alive))
    left = sum(row.owner_id == dead.id for row in fleet.rows())
    assert 0 < left < COUNT
    delays = [engine.parts.loop.turn() for _ in range(8)]
    assert delays[-1] > 0
    assert sum(row.owner_id == dead.id for row in fleet.rows()) == left


def test_what_is_to_be_done_at_once_is_not_walked_through(fleet):
    action = Recorder("action", when_orphaned="retrigger")
    kinds = (action, Recorder())
    dead, engine = fleet(*kinds), fleet(*kinds, batch_size=4)
    armed(dead, 10)
    armed(dead, 50, "action")
    fleet.bury(dead)
    pages = watched(engine)
    for _ in range(20):
        engine.turn()
        engine.settle()
    assert [page[0][:5] for page in pages] == ["timer", "actio"]
    assert len(action.calls) == 50


def test_only_the_dead_are_walked_through():
    seen = [types.SimpleNamespace(owner_id=owner) for owner in "aaabbb"]
    found = walks.Walks(None)
    assert found.begin(seen[:3], 4) and found.begin(seen[3:], 4)
    assert not found.begin([*seen[:1], *seen[3:4]], 6)
    assert "a" in found and "b" in found
    found.keep(["b", "c"])
    assert "a" not in found and "b" in found
