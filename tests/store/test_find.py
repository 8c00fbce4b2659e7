"""What an engine finds to do, at each boundary, on every database."""

import dataclasses
from datetime import timedelta

import pytest

from liveness.clock import Clock
from liveness.db.finding import FIRST, Finder, Found, Place, Scope, Since
from liveness.model import Deadline, DeadlineState
from tests.store.conftest import ME, Store

MICRO = 0.000_001


def keys(values: list[Deadline]) -> list[str]:
    return [value.key for value in values]


def sorts(found: Found) -> dict[str, list[str]]:
    """The sorts of work that are not empty."""
    parts = (
        (part.name, getattr(found, part.name)) for part in dataclasses.fields(found)
    )
    return {
        name: keys(values)
        for name, values in parts
        if isinstance(values, list) and values
    }


def test_in_an_empty_table_nothing_is_found(store):
    assert sorts(store.find_work(["dead"])) == {}


# --- own --------------------------------------------------------------------


@pytest.mark.parametrize("due, found", [(3.0, ["k"]), (3.0 + MICRO, [])])
def test_own_deadlines_are_found_up_to_the_horizon(store, due, found):
    store.arm(due=due)
    assert keys(store.find_work(horizon=3.0).own) == found


def test_of_ones_own_only_armed_rows_are_due(store):
    value = store.arm("armed")
    store.claimed("claimed")
    store.parked("parked")
    store.arm("others", owner="other")
    store.released("released")
    due = value._replace(expired=True, due=True)
    assert store.find_work().own == [due]


def test_own_deadlines_come_by_due_time_and_then_by_row(store):
    for key, due in [("c", 2.0), ("a", 1.0), ("b", 1.0), ("d", -1.0)]:
        store.arm(key, due=due)
    assert keys(store.find_work().own) == ["d", "a", "b", "c"]
    assert keys(store.find_work(own_limit=2).own) == ["d", "a"]


def test_an_own_deadline_of_a_kind_without_a_handler_is_ones_own(store):
    store.arm(kind="unknown")
    assert keys(store.find_work().own) == ["k"]


# --- held -------------------------------------------------------------------


def test_what_one_holds_is_found_whatever_its_due_time(store):
    value = store.claimed("k")
    store.set_row(value, due_at=store.clock.utc + timedelta(days=9))
    store.claimed("others", owner="other")
    assert sorts(store.find_work()) == {"held": ["k"]}
    assert keys(store.find_work(limit=1, fresh_only=True).held) == ["k"]
    assert store.find_work(held=False).held == []


# --- orphans ----------------------------------------------------------------


def test_released_rows_are_orphans_whatever_their_due_time(store):
    store.released("late", due=1e6)
    store.released("soon", due=-1.0)
    found = store.find_work()
    assert sorts(found) == {"orphans": ["soon", "late"]}
    assert [value.expired for value in found.orphans] == [True, False]


def test_what_the_dead_had_is_orphaned_armed_and_claimed_alike(store):
    store.arm("armed", owner="dead", due=1e6)
    store.claimed("claimed", owner="dead")
    store.arm("gone", owner="gone", due=1e6)
    store.arm("alive", owner="alive", due=1e6)
    store.parked("parked")
    assert sorted(keys(store.find_work(["dead", "gone"]).orphans)) == [
        "armed",
        "claimed",
        "gone",
    ]
    assert keys(store.find_work(["gone"]).orphans) == ["gone"]
    assert sorts(store.find_work([])) == {}


@pytest.mark.parametrize("dead", [[], ["dead"]])
def test_orphans_come_in_pages(store, dead):
    for number in range(5):
        if dead:
            store.arm(f"k{number}", owner="dead", due=1e6)
        else:
            store.released(f"k{number}", due=1e6 + number)
    pages = [
        keys(store.find_work(dead, offset=offset, limit=2).orphans)
        for offset in (0, 2, 4, 6)
    ]
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert sorted(sum(pages, [])) == [f"k{number}" for number in range(5)]


def test_the_page_of_orphans_moves_nothing_else(store):
    store.arm("own")
    store.claimed("held")
    store.arm("overdue", owner="other", due=-9.0)
    assert sorts(store.find_work(offset=100)) == {
        "own": ["own"],
        "held": ["held"],
        "overdue": ["overdue"],
    }


# --- overdue ----------------------------------------------------------------


@pytest.mark.parametrize("due, found", [(-6.0, ["k"]), (-6.0 + MICRO, [])])
def test_the_owner_has_a_head_start_of_the_grace(store, due, found):
    store.arm(owner="other", due=due)
    assert keys(store.find_work(grace=6.0).overdue) == found


def test_a_claimed_row_is_not_due_for_others_while_its_owner_lives(store):
    value = store.claimed(owner="other")
    store.set_row(value, due_at=store.clock.utc - timedelta(days=9))
    assert sorts(store.find_work()) == {}


def test_whoever_else_owns_it_what_is_overdue_is_overdue(store):
    """What is one's own, or nobody's, is found as such."""
    store.arm("own", due=-7.0)
    store.arm("others", owner="other", due=-8.0)
    store.arm("gone", owner="gone", due=-9.0)
    store.released("released", due=-10.0)
    store.parked("parked", due=-11.0)
    found = store.find_work()
    assert keys(found.overdue) == ["gone", "others"]
    assert keys(found.own) == ["own"] and keys(found.orphans) == ["released"]
    assert keys(store.find_work(["gone"]).orphans) == ["released", "gone"]


def test_what_others_own_is_left_alone_while_the_clock_is_in_doubt(store):
    store.arm("own", due=-9.0)
    store.arm("others", owner="other", due=-9.0)
    store.released("released", due=-9.0)
    found = store.find_work(foreign_due=False)
    assert sorts(found) == {"own": ["own"], "orphans": ["released"]}


# --- which of them ----------------------------------------------------------


def arm_each(store: Store, due: float, kind: str = "timer") -> list[Deadline]:
    """One row that each of the three parts for other engines' rows can find."""
    return [
        store.released(f"{kind}-released", due=due, kind=kind),
        store.arm(f"{kind}-dead", due=due, kind=kind, owner="dead"),
        store.arm(f"{kind}-other", due=due, kind=kind, owner="other"),
    ]


@pytest.mark.parametrize("due, seen", [(-60.0, True), (-60.0 + MICRO, False)])
def test_an_unknown_kind_is_left_to_others_for_a_while(store, due, seen):
    arm_each(store, due, "unknown")
    found = store.find_work(["dead"], unknown_grace=60.0)
    each = ["unknown-dead", "unknown-released"]
    assert sorted(keys(found.orphans)) == (each if seen else [])
    assert found.overdue == []  # its owner lives, and may know the kind


def test_a_known_kind_is_found_at_once_among_unknown_ones(store):
    for kind in ("one", "two", "three"):
        arm_each(store, -7.0, kind)
    found = store.find_work(["dead"], kinds=("one", "three"))
    assert {value.kind for value in found.orphans + found.overdue} == {"one", "three"}
    assert sorted(keys(found.orphans)) == [
        "one-dead",
        "one-released",
        "three-dead",
        "three-released",
    ]
    assert sorted(keys(found.overdue)) == [
        "one-dead",
        "one-other",
        "three-dead",
        "three-other",
    ]


def test_an_engine_without_handlers_finds_only_what_nobody_took(store):
    arm_each(store, -7.0)
    arm_each(store, -61.0, "old")
    found = store.find_work(["dead"], kinds=())
    assert sorted(keys(found.orphans)) == ["old-dead", "old-released"]
    assert found.overdue == []


def test_fresh_only_leaves_what_was_claimed_before(store):
    for value in [*arm_each(store, -7.0), store.arm("own")]:
        store.set_row(value, attempts=1)
    fresh = [*arm_each(store, -7.0, "action"), store.arm("fresh")]
    kinds = ("timer", "action")
    found = store.find_work(["dead"], kinds=kinds, fresh_only=True)
    seen = {*keys(found.own), *keys(found.orphans), *keys(found.overdue)}
    assert seen == {value.key for value in fresh}
    found = store.find_work(["dead"], kinds=kinds)
    seen = {*keys(found.own), *keys(found.orphans), *keys(found.overdue)}
    assert len(seen) == 8


def test_a_released_row_that_is_overdue_is_found_once(store):
    store.released(due=-9.0)
    assert sorts(store.find_work()) == {"orphans": ["k"]}


def test_a_page_of_ones_own_overdue_rows_hides_others_for_a_while_only(store):
    """They are claimed in the same turn; the next page has the others."""
    store.arm("own", due=-9.0)
    store.arm("others", owner="other", due=-8.0)
    found = store.find_work(limit=1)
    assert sorts(found) == {"own": ["own"]}
    with store.connect() as connection:
        assert store.claims.claim_own(connection, ME, found.own)
    assert sorts(store.find_work(limit=1)) == {"held": ["own"], "overdue": ["others"]}


# --- what is said about them ------------------------------------------------


@pytest.mark.parametrize("ahead, expired", [(0.0, True), (MICRO, False)])
def test_a_row_has_expired_when_its_promise_has_passed(store, ahead, expired):
    for value in (store.arm("own"), store.claimed("held"), store.released("free")):
        when = store.clock.utc + timedelta(seconds=ahead)
        store.set_row(value, expires_at=when)
    found = store.find_work()
    for values in (found.own, found.held, found.orphans):
        assert [value.expired for value in values] == [expired]


def test_what_is_found_is_the_row_as_it_is(store):
    for owner in (ME, "other"):
        store.arm(owner, owner=owner, payload='{"a": 1}', due=-9.0, max_attempts=2)
    found = store.find_work()
    facts = {"expired": True, "due": True}
    assert found.own == [store.row(ME)._replace(**facts)]
    assert found.overdue == [store.row("other")._replace(**facts)]


@pytest.mark.parametrize("due, expires", [(0.0, 0.0), (0.0, 9.0), (2.0, 9.0)])
def test_what_is_found_says_why_a_handler_would_be_called(store, due, expires):
    """Due, but not to the promise: that is the retry of an orphan."""
    for value in (store.arm("own"), store.released("free"), store.claimed("held")):
        now = store.clock.utc
        store.set_row(
            value,
            due_at=now + timedelta(seconds=due),
            expires_at=now + timedelta(seconds=expires),
        )
    found = store.find_work()
    for (value,) in (found.own, found.orphans, found.held):
        assert value.due is (due == 0)
        assert value.expired is (expires == 0)
        assert value.orphaned is (expires > 0 or value.key == "free")


def test_a_payload_that_cannot_be_read_hides_no_row(store):
    for key in ("a", "b", "c"):
        store.arm(key)
    store.set_row(store.row("b"), payload="[1,")
    found = store.find_work().own
    assert keys(found) == ["a", "b", "c"]
    assert [bool(value.problem) for value in found] == [False, True, False]


# --- one finder, many passes ------------------------------------------------

# --- marks --------------------------------------------------------------------


def _ago(store, own: float, overdue: float) -> Since:
    now = store.clock.utc
    return Since(now - timedelta(seconds=own), now - timedelta(seconds=overdue))


def test_what_was_due_before_a_mark_is_not_looked_for(store):
    for owner in (ME, "other"):
        for number, due in enumerate((-20.0, -20.0 + MICRO, -10.0, -10.0 + MICRO)):
            store.arm(f"{owner}-{number}", owner=owner, due=due)
    found = store.find_work(since=_ago(store, own=10.0, overdue=20.0 - MICRO))
    assert keys(found.own) == [f"{ME}-2", f"{ME}-3"]
    assert keys(found.overdue) == ["other-1", "other-2", "other-3"]


def test_what_has_no_owner_or_a_dead_one_is_found_before_any_mark(store):
    store.arm("dead", owner="dead", due=-20.0)
    store.released("released", due=-20.0)
    store.claimed("held", due=-20.0)
    found = store.find_work(["dead"], since=_ago(store, own=0.0, overdue=0.0))
    assert sorted(keys(found.orphans)) == ["dead", "released"]
    assert keys(found.held) == ["held"]


@pytest.mark.parametrize("owner", [ME, "other", None])
def test_since_when_something_is_overdue_is_told_whoever_owns_it(store, owner):
    assert store.find_work(grace=6.0).overdue_from is None
    store.arm("later", owner="other", due=-7.0)
    value = store.arm("first", due=-8.0)
    store.set_row(value, owner_id=owner)
    assert store.find_work(grace=6.0).overdue_from == value.due_at


SCOPE = Scope(
    horizon=0.0,
    grace=6.0,
    kinds=("timer",),
    unknown_grace=60.0,
    limit=10,
    own_limit=10,
)


def test_a_finder_sees_time_pass_and_the_dead_change(store):
    finder = Finder(store.clock, ME)
    store.arm("own", due=5.0)
    store.arm("a", owner="a", due=1e6)
    store.arm("b", owner="b", due=1e6)
    with store.connect() as connection:
        found = finder.find(connection, finder.question(SCOPE, ["a"]))
        assert sorts(found) == {"orphans": ["a"]}
        store.clock.advance(5)
        found = finder.find(connection, finder.question(SCOPE, ["b", "c"]))
        assert sorts(found) == {"own": ["own"], "orphans": ["b"]}
        assert sorts(finder.find(connection, finder.question(SCOPE))) == {
            "own": ["own"]
        }
        assert sorts(
            finder.find(connection, finder.question(SCOPE, ["a", "b"], 1))
        ) == {
            "own": ["own"],
            "orphans": ["b"],
        }


def test_an_owners_armed_rows_are_found_from_place_to_place(store):
    finder = Finder(store.clock, ME)
    for number, due in enumerate((50.0, 60.0, 60.0, 60.0, 60.0, 70.0)):
        store.arm(f"k{number}", owner="dead", due=due)
    store.arm("others", owner="other", due=60.0)
    store.arm("unknown", owner="dead", due=60.0, kind="unknown")
    store.claimed("claimed", owner="dead")
    place, pages = FIRST, []
    with store.connect() as connection:
        while page := finder.orphans_of(connection, SCOPE, "dead", place, 2):
            pages.append(keys(page))
            place = Place(page[-1].due_at, page[-1].id)
    assert pages == [["k0", "k1"], ["k2", "k3"], ["k4", "k5"]]
    assert all(value.orphaned and value.owner_id == "dead" for value in page)


def test_an_owners_armed_rows_are_counted_off(store):
    finder = Finder(store.clock, ME)
    for key, due in (("a", 60.0), ("b", 60.0), ("c", 50.0)):
        store.arm(key, owner="dead", due=due)
    store.claimed("claimed", owner="dead")
    with store.connect() as connection:
        assert finder.count_armed(connection, "dead", 10) == 3
        assert finder.count_armed(connection, "dead", 2) == 2
        places = [finder.place_after(connection, "dead", n) for n in range(5)]
        following = [
            keys(finder.orphans_of(connection, SCOPE, "dead", place, 1))
            for place in places[:4]
        ]
    assert places[0] == FIRST and places[4] is None
    assert following == [["c"], ["a"], ["b"], []]


def test_a_finder_outlives_many_changes_of_its_scope(store):
    finder = Finder(store.clock, ME)
    store.arm(due=10.5)
    with store.connect() as connection:
        seen = []
        for horizon in [*range(20), *range(20)]:
            scope = dataclasses.replace(SCOPE, horizon=float(horizon))
            found = finder.find(connection, finder.question(scope))
            seen.append(bool(found.own))
    assert seen == ([False] * 11 + [True] * 9) * 2


def test_two_engines_share_no_finder_but_a_database(store):
    store.arm("mine")
    store.arm("yours", owner="you")
    mine, yours = Finder(store.clock, ME), Finder(store.clock, "you")
    with store.connect() as connection:
        for finder, own in ((mine, "mine"), (yours, "yours")):
            found = finder.find(connection, finder.question(SCOPE))
            assert keys(found.own) == [own]


def test_the_databases_own_clock_decides(real_store):
    store = real_store
    store.arm("soon", due=30.0)
    store.arm("later", due=3600.0)
    store.arm("others", owner="other", due=-30.0)
    store.arm("others-later", owner="other", due=3600.0)
    finder = Finder(Clock(), ME)
    scope = dataclasses.replace(SCOPE, horizon=600.0)
    with store.connect() as connection:
        found = finder.find(connection, finder.question(scope))
    assert sorts(found) == {"own": ["soon"], "overdue": ["others"]}
    assert [value.expired for value in found.own] == [False]
    assert [value.expired for value in found.overdue] == [True]


def test_finding_changes_nothing(store):
    values = [*arm_each(store, -9.0), store.claimed("held"), store.arm("own")]
    store.find_work(["dead"])
    for value in values:
        assert store.row(value.key) == value
        assert value.state in (DeadlineState.ARMED, DeadlineState.CLAIMED)
