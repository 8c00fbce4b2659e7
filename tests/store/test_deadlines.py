"""The deadline table keeps its promises to owners, on every database."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from liveness import Arm, exceptions
from liveness.db import arming, tables
from liveness.db.connection import transaction
from liveness.db.rows import REASON_LIMIT
from liveness.model import Deadline, DeadlineState
from tests.fleet import Driven, Recorder
from tests.store.conftest import ME, Store

D = tables.deadline

ARMED, CLAIMED, PARKED = (
    DeadlineState.ARMED,
    DeadlineState.CLAIMED,
    DeadlineState.PARKED,
)


def complete(store: Store, *values: Deadline, again: bool = False) -> set[int]:
    with store.connect() as connection:
        return store.deadlines.complete(connection, values, again=again)


def extend(store: Store, value: Deadline, due=60.0, token=99) -> Deadline:
    with store.connect() as connection:
        return store.deadlines.extend(connection, value, due, token)


# --- arm --------------------------------------------------------------------


def test_an_armed_deadline_is_the_row_as_it_is(store):
    value = store.arm(
        "k", kind="timer", due=12.25, payload='{"a": [1, null]}', max_attempts=3
    )
    now = store.clock.utc
    assert value == store.row()
    assert value == Deadline(
        id=value.id,
        kind="timer",
        key="k",
        owner_id=ME,
        token=value.arm_token,
        arm_token=value.arm_token,
        epoch=1,
        state=ARMED,
        due_at=now + timedelta(seconds=12.25),
        expires_at=now + timedelta(seconds=12.25),
        attempts=0,
        max_attempts=3,
        payload={"a": [1, None]},
        last_error=None,
    )


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 5, 6, 7, 8, 9, 1, tzinfo=UTC),
        datetime(2026, 5, 6, 7, 8, 9, 999999, tzinfo=UTC),
        datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        datetime(2999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 2, 1, tzinfo=UTC).astimezone(),
    ],
)
def test_moments_survive_to_the_microsecond(store, moment):
    assert store.arm(due=moment).due_at == moment
    assert store.row().expires_at == moment


def test_arming_again_after_a_lost_answer_gives_the_same_row(store):
    new = store.new(due=5.0)
    with store.connect() as connection:
        first = store.deadlines.arm(connection, new)
        store.clock.advance(1)
        assert store.deadlines.arm(connection, new) == first
    assert store.keys() == ["k"]


def test_arming_again_gives_nobody_the_token_of_a_claim_made_since(store):
    new = store.new(due=0.0)
    with store.connect() as connection:
        first = store.deadlines.arm(connection, new)
        (claimed,) = store.claims.claim_own(connection, ME, [first])
        again = store.deadlines.arm(connection, new)
    assert complete(store, again) == {claimed.id}
    assert complete(store, claimed) == set()


@pytest.mark.parametrize("state", ["arm", "claimed", "parked", "released"])
def test_arming_never_overwrites(store, state):
    before = getattr(store, state)(owner="other")
    with store.connect() as connection:
        with pytest.raises(exceptions.AlreadyArmed) as caught:
            store.deadlines.arm(connection, store.new(due=99.0))
        assert store.deadlines.find(connection, "timer", "k") == store.row()
    assert caught.value.facts["state"] == before.state
    assert caught.value.facts["owner_id"] == before.owner_id
    assert store.row() == before._replace(expired=False)


@pytest.mark.parametrize(
    "one, two", [("k", "K"), ("e", "é"), ("ß", "ss"), ("😀", "😁"), ("a", "a" * 255)]
)
def test_keys_are_compared_letter_by_letter(store, one, two):
    store.arm(one)
    store.arm(two)
    assert store.find(one).key == one and store.find(two).key == two


def test_one_key_may_live_once_in_each_kind(store):
    one, two = store.arm(kind="timer"), store.arm(kind="action")
    assert store.row(kind="timer") == one and store.row(kind="action") == two


def test_what_is_not_there_is_not_found(store):
    assert store.find("nothing") is None


def test_a_key_can_be_armed_again_when_it_is_done(store):
    first = store.arm()
    assert complete(store, first) == set()
    second = store.arm()
    assert second.id != first.id and second.token != first.token
    assert complete(store, first, again=True) == set()
    assert store.row() == second


def test_row_ids_are_never_given_out_twice(store):
    seen = []
    for _ in range(3):
        value = store.arm()
        seen.append(value.id)
        complete(store, value)
    assert seen == sorted(set(seen))


@pytest.mark.parametrize(
    "payload",
    [None, True, "text ☃ 😀", [], {"a": {"b": [1.5, -3]}}, {"x": "y" * 100_000}],
)
def test_a_payload_comes_back_as_it_was(store, payload):
    text = None if payload is None else json.dumps(payload)
    assert store.arm(payload=text).payload == payload
    row = store.row()
    assert row.payload == payload and row.problem is None


def test_a_payload_that_is_not_json_is_a_problem_of_its_row_alone(store):
    good = store.arm("good", payload="{}")
    bad = store.arm("bad")
    store.set_row(bad, payload="{")
    assert store.row("bad").problem and store.row("bad").payload is None
    assert store.row("good") == good


# --- arm_many ---------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 999, 2500])
def test_many_are_armed_in_the_order_given(store, size):
    news = [
        store.new(f"k{n % 97:02}-{n}", due=float(n), kind=f"kind{n % 3}")
        for n in range(size)
    ]
    values = store.arm_many(*news)
    assert [(v.kind, v.key, v.token) for v in values] == [
        (n.kind, n.key, n.token) for n in news
    ]
    with store.connect() as connection:
        rows = {row.id: row for row in connection.execute(sa.select(D))}
    assert len(rows) == len({value.id for value in values}) == size
    for value in values:
        assert rows[value.id].token == value.token
    for value in (values[0], values[-1]):
        assert store.row(value.key, value.kind) == value


def test_many_are_armed_with_everything_that_one_has(store):
    new = store.new("k", due=1.5, payload='{"a": 1}', max_attempts=2)
    (value,) = store.arm_many(new)
    assert value == store.row()
    assert value.due_at == store.clock.utc + timedelta(seconds=1.5)
    assert value.payload == {"a": 1} and value.max_attempts == 2


@pytest.mark.parametrize("size, place", [(3, 0), (3, 1), (1201, 1200)])
def test_many_are_armed_or_none_and_the_taken_key_is_named(store, size, place):
    before = store.arm("taken", owner="other")
    news = [store.new(f"k{n}") for n in range(size)]
    news[place] = store.new("taken")
    with pytest.raises(exceptions.AlreadyArmed) as caught:
        store.arm_many(*news)
    assert store.keys() == ["taken"] and store.row("taken") == before
    assert caught.value.facts["key"] == "taken"
    assert caught.value.facts["owner_id"] == "other"


@pytest.mark.parametrize("distance", [1, 1100])
def test_a_key_given_twice_in_a_batch_is_refused_by_name(store, distance):
    news = [store.new(f"k{n}") for n in range(1, distance + 1)]
    with pytest.raises(exceptions.AlreadyArmed) as caught:
        store.arm_many(*news, store.new("k1"))
    assert store.keys() == []
    assert caught.value.facts["key"] == "k1"


def test_many_large_payloads_are_more_than_one_statement(store):
    # MariaDB's servers take no statement of more than 16 MiB.
    payload = json.dumps("x" * (64 << 10))
    news = [store.new(f"k{n:03}", payload=payload) for n in range(270)]
    values = store.arm_many(*news)
    assert [value.key for value in values] == store.keys()
    assert store.row("k269") == values[-1]


def test_many_armed_again_after_a_lost_answer_are_the_same(store):
    news = [store.new(f"k{n}", due=5.0) for n in range(50)]
    first = store.arm_many(*news)
    store.clock.advance(1)
    assert store.arm_many(*news) == first


# --- where INSERT has no RETURNING, as on MySQL ------------------------------


without = pytest.mark.parametrize("backend", ["sqlite", "mariadb"], indirect=True)


@pytest.fixture
def without_returning(store, monkeypatch):
    with store.connect():
        pass  # what the database can do is looked up when it is first connected to
    monkeypatch.setattr(store.pool.dialect, "insert_returning", False)


@without
def test_an_armed_deadline_is_read_without_returning(store, without_returning):
    assert store.arm(due=5.0) == store.row()


@without
def test_many_are_read_without_returning(store, without_returning):
    values = store.arm_many(store.new("b", kind="x"), store.new("a"), store.new("c"))
    assert values == [store.row("b", "x"), store.row("a"), store.row("c")]


@without
def test_nobody_sees_many_before_they_are_read(store, without_returning, monkeypatch):
    seen = []

    def read(connection, news):
        seen.extend(store.keys())
        return ids(connection, news)

    ids = arming._ids
    monkeypatch.setattr(arming, "_ids", read)
    values = store.arm_many(store.new("a"), store.new("b"))
    assert len(values) == 2 and seen == []


# --- by the engine, in a transaction of its host ----------------------------


@pytest.fixture
def driven(store):
    engine = Driven(store.url, store.clock, (Recorder("timer"),))
    yield engine
    engine.abandon()


def test_a_session_of_the_orm_can_be_the_connection(store, driven):
    engine = sa.create_engine(store.url, poolclass=sa.NullPool)
    with Session(engine) as session:
        one = driven.live.arm("timer", "one", due_in=60, connection=session)
        many = driven.live.arm_many([Arm("timer", "two", due_in=60)], session)
        session.rollback()
        assert store.keys() == []
        one = driven.live.arm("timer", "one", due_in=60, connection=session)
        many = driven.live.arm_many([Arm("timer", "two", due_in=60)], session)
        session.commit()
        assert [store.row("one"), store.row("two")] == [one, *many]
        driven.live.disarm(one, connection=session)
        session.commit()
    assert store.keys() == ["two"]


def test_many_arms_in_a_callers_transaction_are_all_or_none(store, driven):
    store.arm("k1500", owner="other")
    arms = [Arm("timer", f"k{n}", due_in=60) for n in range(1501)]
    with store.host() as host:
        with pytest.raises(exceptions.AlreadyArmed):
            driven.live.arm_many(arms, host)
        driven.live.arm("timer", "more", due_in=60, connection=host)
        host.commit()
    assert store.keys() == ["k1500", "more"]


# --- extend -----------------------------------------------------------------


def test_extending_moves_the_promise_and_changes_the_token(store):
    value = store.arm(due=5.0)
    store.clock.advance(1)
    extended = extend(store, value, 60.0, 99)
    when = store.clock.utc + timedelta(seconds=60)
    assert extended == store.row()
    assert extended == value._replace(due_at=when, expires_at=when, token=99)


def test_a_moment_can_be_extended_to(store):
    when = datetime(2027, 1, 1, 0, 0, 0, 5, tzinfo=UTC)
    assert extend(store, store.arm(), when).due_at == when


def test_extending_again_after_a_lost_answer_gives_the_same_value(store):
    value = store.arm()
    first = extend(store, value, 60.0, 99)
    store.clock.advance(1)
    assert extend(store, value, 60.0, 99) == first


def test_the_value_before_an_extension_changes_nothing(store):
    value = store.arm()
    newer = extend(store, value)
    with pytest.raises(exceptions.StaleDeadline):
        extend(store, value, 90.0, 100)
    assert complete(store, value) == {value.id}
    with store.connect() as connection:
        assert not store.deadlines.rearm(connection, value, 101, 90.0)
    assert store.row() == newer


@pytest.mark.parametrize("state", ["claimed", "parked", "released"])
def test_only_an_armed_deadline_of_ones_own_can_be_extended(store, state):
    armed = store.arm("a")
    other = getattr(store, state)("b")
    with pytest.raises(exceptions.StaleDeadline):
        extend(store, other._replace(owner_id=ME))
    assert store.row("b").due_at == other.due_at
    assert extend(store, armed)


def test_a_deadline_that_is_gone_cannot_be_extended(store):
    value = store.arm()
    complete(store, value)
    with pytest.raises(exceptions.StaleDeadline):
        extend(store, value)


def test_somebody_elses_deadline_cannot_be_extended(store):
    value = store.arm(owner="other")
    with pytest.raises(exceptions.StaleDeadline):
        extend(store, value._replace(owner_id=ME))
    assert store.row() == value


# --- complete ---------------------------------------------------------------


@pytest.mark.parametrize("state", ["arm", "claimed"])
def test_completing_removes_the_row_and_no_other(store, state):
    value, other = getattr(store, state)("a"), store.arm("b")
    assert complete(store, value) == set()
    assert store.keys() == ["b"] and store.row("b") == other


@pytest.mark.parametrize(
    "change", [{"token": 1}, {"owner_id": "other"}, {"owner_id": None}]
)
def test_a_value_that_is_not_the_newest_completes_nothing(store, change):
    value = store.arm()
    store.set_row(value, **change)
    assert complete(store, value) == {value.id}
    assert complete(store, value, again=True) == {value.id}
    assert store.keys() == ["k"]


def test_a_row_that_was_gone_before_the_first_try_is_stale(store):
    value = store.arm()
    assert complete(store, value) == set()
    assert complete(store, value) == {value.id}


def test_a_row_that_is_gone_after_a_lost_answer_is_done(store):
    value = store.arm()
    assert complete(store, value) == set()
    assert complete(store, value, again=True) == set()


def test_of_a_batch_only_the_stale_ones_stay(store):
    values = store.arm_many(*(store.new(f"k{n}") for n in range(6)))
    store.set_row(values[1], token=1)
    store.set_row(values[4], owner_id="other")
    assert complete(store, *values) == {values[1].id, values[4].id}
    assert store.keys() == ["k1", "k4"]


@pytest.mark.parametrize("change", [{"token": 1}, {"owner_id": "other"}])
def test_of_what_was_claimed_at_once_only_the_stale_ones_stay(store, change):
    values = store.claimed_at_once(*(f"k{n}" for n in range(6)))
    store.set_row(values[1], **change)
    again = store.claimed_at_once("another")[0]
    store.set_row(values[4], token=again.token - again.id + values[4].id)
    assert complete(store, *values) == {values[1].id, values[4].id}
    assert store.keys() == ["another", "k1", "k4"]


def test_what_was_claimed_at_once_and_its_answer_lost_is_done(store):
    values = store.claimed_at_once("a", "b", "c")
    assert complete(store, *values) == set()
    assert complete(store, *values, again=True) == set()


def test_no_row_goes_that_is_not_presented(store):
    """It was claimed at once with those that are."""
    values = store.claimed_at_once("a", "b", "c")
    assert complete(store, *values[:2]) == set()
    assert store.keys() == ["c"]


def test_a_batch_whose_answer_was_lost_is_done(store):
    values = store.arm_many(*(store.new(f"k{n}") for n in range(3)))
    assert complete(store, *values) == set()
    assert complete(store, *values, again=True) == set()


def test_a_batch_partly_gone_is_done_for_what_is_gone(store):
    values = store.arm_many(*(store.new(f"k{n}") for n in range(3)))
    complete(store, values[0])
    store.set_row(values[1], token=1)
    assert complete(store, *values) == {values[1].id}
    assert store.keys() == ["k1"]


def test_a_stale_value_cannot_hide_in_a_batch_behind_another_rows_token(store):
    """Rows claimed together were written with one number: a stale value of one of them
    must not be taken for the new one because the other's token is in the statement."""
    old, other = store.arm("old"), store.arm("other")
    with store.connect() as connection:
        claimed = store.claims.claim_own(connection, ME, [old, other])
    assert len({value.token for value in claimed}) == 2
    assert complete(store, old, claimed[1]) == {old.id}
    assert store.keys() == ["old"]
    assert complete(store, claimed[0]) == set()


# --- rearm, retry, release, park --------------------------------------------


def rearm(store: Store, value: Deadline, token=99) -> bool:
    with store.connect() as connection:
        return store.deadlines.rearm(connection, value, token, 30.0)


def retry(store: Store, value: Deadline, token=99, reason="because") -> bool:
    with store.connect() as connection:
        return store.deadlines.retry(connection, value, token, 30.0, reason)


def release(store: Store, value: Deadline, token=99, reason="because") -> bool:
    with store.connect() as connection:
        return store.deadlines.release(connection, value, token, reason)


def park(store: Store, value: Deadline, token=99, reason="because") -> bool:
    with store.connect() as connection:
        return store.deadlines.park(connection, value, token, reason)


MOVES = [rearm, retry, release, park]
move = pytest.mark.parametrize("move", MOVES, ids=lambda write: write.__name__)


def changes(before: Deadline, after: Deadline) -> dict:
    old, new = before._asdict(), after._asdict()
    return {name: new[name] for name in new if new[name] != old[name]}


def test_rearm_is_a_new_promise_with_no_attempts(store):
    value = store.claimed()
    store.set_row(value, last_error="earlier")
    store.clock.advance(7)
    assert rearm(store, value)
    when = store.clock.utc + timedelta(seconds=30)
    assert changes(value, store.row()) == {
        "token": 99,
        "state": ARMED,
        "due_at": when,
        "expires_at": when,
        "attempts": 0,
    }


def test_retry_is_later_for_the_same_owner_with_the_same_promise(store):
    value = store.claimed()
    store.clock.advance(7)
    assert retry(store, value)
    assert changes(value, store.row()) == {
        "token": 99,
        "state": ARMED,
        "due_at": store.clock.utc + timedelta(seconds=30),
        "last_error": "because",
    }


def test_release_leaves_nobody_as_the_owner_and_the_attempt_counted(store):
    value = store.claimed()
    store.clock.advance(7)
    assert release(store, value)
    assert changes(value, store.row()) == {
        "token": 99,
        "state": ARMED,
        "owner_id": None,
        "last_error": "because",
    }


def test_release_without_a_reason_keeps_the_last_error(store):
    value = store.claimed()
    store.set_row(value, last_error="earlier")
    assert release(store, store.row(), reason="")
    assert store.row().last_error == "earlier"


def test_park_keeps_the_row_with_the_reason(store):
    value = store.claimed()
    assert park(store, value)
    assert changes(value, store.row()) == {
        "token": 99,
        "state": PARKED,
        "owner_id": None,
        "last_error": "because",
    }


@move
def test_a_move_can_be_sent_again_after_a_lost_answer(store, move):
    value = store.claimed()
    assert move(store, value)
    after = store.row()
    store.clock.advance(5)
    assert move(store, value)
    assert store.row() == after


@move
@pytest.mark.parametrize(
    "change", [{"token": 1}, {"owner_id": "other"}, {"owner_id": None}]
)
def test_a_stale_move_changes_nothing_and_says_so(store, move, change):
    value = store.claimed()
    store.set_row(value, **change)
    before = store.row()
    assert not move(store, value)
    assert store.row() == before


@move
def test_a_move_of_a_row_that_is_gone_is_refused(store, move):
    value = store.claimed()
    complete(store, value)
    assert not move(store, value)


@move
def test_a_move_touches_no_other_row_and_spends_the_value(store, move):
    other, value = store.arm("other"), store.claimed("k")
    assert move(store, value)
    assert store.row("other") == other
    assert complete(store, value) == {value.id}
    for another in MOVES:
        assert not another(store, value, token=100)


@pytest.mark.parametrize("write", [retry, release, park])
@pytest.mark.parametrize("length", [0, REASON_LIMIT, REASON_LIMIT + 1])
def test_a_reason_is_kept_up_to_a_limit(store, write, length):
    assert write(store, store.claimed(), reason="ñ" * length)
    assert store.row().last_error == ("ñ" * min(length, REASON_LIMIT) or None)


# --- hand_back --------------------------------------------------------------


def hand_back(store: Store, engine_id=ME, limit=100) -> int:
    with store.connect() as connection:
        return store.deadlines.hand_back(connection, engine_id, limit)


def test_handing_back_gives_up_armed_and_claimed_rows(store):
    armed, claimed = store.arm("armed", due=60.0), store.claimed("claimed")
    parked, others = store.parked("parked"), store.claimed("others", owner="other")
    assert hand_back(store) == 2
    after = store.row("armed")
    assert changes(armed, after) == {"owner_id": None, "token": after.token}
    after = store.row("claimed")
    assert changes(claimed, after) == {
        "owner_id": None,
        "token": after.token,
        "state": ARMED,
    }
    assert store.row("parked") == parked and store.row("others") == others
    assert hand_back(store) == 0


def test_what_was_handed_back_cannot_be_settled_by_the_old_owner(store):
    values = [store.arm("armed"), store.claimed("claimed")]
    hand_back(store)
    assert complete(store, *values) == {value.id for value in values}
    for move in MOVES:
        assert not move(store, values[0])
    with pytest.raises(exceptions.StaleDeadline):
        extend(store, values[0])


def test_handing_back_goes_page_by_page(store):
    store.arm_many(*(store.new(f"k{n}") for n in range(5)))
    assert [hand_back(store, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert all(store.row(f"k{n}").owner_id is None for n in range(5))


# --- unpark -----------------------------------------------------------------


def unpark(store: Store, value: Deadline, token=98) -> bool:
    with store.connect() as connection:
        return store.deadlines.unpark(connection, value, token)


def test_unparking_gives_a_row_back_to_whoever_finds_it(store):
    value = store.arm(due=5.0)
    store.set_row(value, attempts=5)
    park(store, value)
    parked = store.row()
    store.clock.advance(60)
    assert unpark(store, parked)
    after = store.row()
    assert changes(parked, after) == {
        "state": ARMED,
        "token": 98,
        "attempts": 0,
        "due_at": store.clock.utc,
    }
    assert [found.key for found in store.find_work().orphans] == ["k"]


def test_unparking_twice_counts_once(store):
    parked = store.parked()
    assert unpark(store, parked)
    after = store.row()
    store.clock.advance(5)
    assert not unpark(store, parked, 100)
    assert unpark(store, after)  # looked at again after a lost answer: it was us
    assert store.row() == after


@pytest.mark.parametrize("state", ["arm", "claimed", "released"])
def test_only_a_parked_row_can_be_unparked(store, state):
    value = getattr(store, state)()
    before = store.row()
    assert not unpark(store, value)
    assert store.row() == before


def test_a_parked_row_that_has_changed_since_is_not_unparked(store):
    parked = store.parked()
    store.set_row(parked, token=1)
    assert not unpark(store, parked)
    assert store.row().state == PARKED


# --- counts, and the real clock ---------------------------------------------


def test_rows_are_counted_by_kind_and_state(store):
    store.arm("a")
    store.arm("b")
    store.claimed("c")
    store.parked("d", kind="action")
    with store.connect() as connection:
        assert store.deadlines.counts(connection) == {
            ("timer", ARMED): 2,
            ("timer", CLAIMED): 1,
            ("action", PARKED): 1,
        }


def test_the_databases_own_clock_shifts_by_microseconds(real_store):
    """What a statement calls now, and now and a bit, is one moment and that bit."""
    clock = real_store.clock
    with real_store.connect() as connection:
        now, later, before = connection.execute(
            sa.select(
                clock.database_now(),
                clock.database_now(86400.000_001),
                clock.database_now(-0.5),
            )
        ).one()
    exact = timedelta(seconds=86400, microseconds=1)
    if real_store.backend == "sqlite":  # it counts milliseconds
        exact = timedelta(seconds=86400)
    assert later - now == exact
    assert now - before == timedelta(seconds=0.5)
    assert now.tzinfo is UTC


def test_the_databases_clock_goes_on_inside_a_transaction(real_store):
    with real_store.connect() as connection, transaction(connection):
        now = sa.select(real_store.clock.database_now())
        first = connection.execute(now).scalar_one()
        later = connection.execute(now).scalar_one()
        while later == first:
            later = connection.execute(now).scalar_one()
    assert later > first


def test_due_is_judged_by_the_databases_own_clock(real_store):
    store = real_store
    past, future = store.arm("past", due=-0.001), store.arm("future", due=3600.0)
    with store.connect() as connection:
        claimed = store.claims.claim_own(connection, ME, [past, future])
    assert [value.key for value in claimed] == ["past"]
    assert store.row("future").state == ARMED
