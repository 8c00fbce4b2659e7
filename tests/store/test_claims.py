"""Claims: who may take what, on every database and by both ways of claiming."""

import types
from datetime import timedelta

import pytest
import sqlalchemy as sa

from liveness import exceptions
from liveness.db import claims as claims_module
from liveness.model import Deadline, DeadlineState
from tests.store.conftest import ME, Store

MICRO = 0.000_001
ARMED, CLAIMED, PARKED = (
    DeadlineState.ARMED,
    DeadlineState.CLAIMED,
    DeadlineState.PARKED,
)

PATHS = [
    ("sqlite", "compare-and-set"),
    ("mariadb", "lock"),
    ("mariadb", "compare-and-set"),
    ("postgresql", "lock"),
    ("postgresql", "compare-and-set"),
]


@pytest.fixture(params=PATHS, ids="-".join)
def path(request, monkeypatch) -> tuple[str, str]:
    if request.param[1] == "compare-and-set":
        monkeypatch.setattr(
            claims_module, "has_bounded_locks", lambda *args, **kwargs: False
        )
    return request.param


@pytest.fixture
def backend(path) -> str:
    return path[0]


def claim_own(store: Store, *found: Deadline) -> list[Deadline]:
    with store.connect() as connection:
        return store.claims.claim_own(connection, ME, found)


def claim_overdue(store: Store, *found: Deadline, grace=6.0) -> list[Deadline]:
    with store.connect() as connection:
        return store.claims.claim_overdue(connection, ME, found, grace)


def claim_orphans(store: Store, *found: Deadline) -> list[Deadline]:
    with store.connect() as connection:
        return store.claims.claim_orphans(connection, ME, found)


def adopt_orphans(store: Store, *found: Deadline) -> list[Deadline]:
    with store.connect() as connection:
        return store.claims.adopt_orphans(connection, ME, found)


def adopt_lost(store: Store, *found: Deadline) -> list[Deadline]:
    with store.connect() as connection:
        return store.claims.adopt_lost(connection, ME, found)


def park(store: Store, found: Deadline, reason="hopeless", grace=None) -> bool:
    with store.connect() as connection:
        return store.claims.park(connection, found, reason, grace)


def park_one(store: Store, *found: Deadline) -> list[Deadline]:
    return [value for value in found if park(store, value)]


def changes(before: Deadline, after: Deadline) -> dict:
    old, new = before._asdict(), after._asdict()
    return {name: new[name] for name in new if new[name] != old[name]}


@pytest.fixture
def sent(store):
    """The statements that are sent, in order."""
    statements: list[str] = []

    def note(connection, cursor, statement, *rest):
        statements.append(" ".join(statement.split()))

    sa.event.listen(store.pool, "before_cursor_execute", note)
    yield statements
    sa.event.remove(store.pool, "before_cursor_execute", note)


def test_the_way_under_test_is_the_way_taken(store, path, sent):
    value = store.released()
    sent.clear()
    assert claim_orphans(store, value)
    if path[1] == "lock":
        begin, lock, update, commit = sent
        assert (begin, commit) == ("BEGIN", "COMMIT")
        assert lock.endswith("FOR UPDATE SKIP LOCKED")
    else:
        (update,) = sent
    assert update.startswith("UPDATE")


@pytest.mark.parametrize(
    "name, mariadb, version, locks",
    [
        ("postgresql", False, (9, 5), True),
        ("mysql", True, (10, 6), True),
        ("mysql", True, (10, 5, 29), False),
        ("mysql", False, (8, 0, 40), False),
        ("sqlite", False, (3, 40, 1), False),
    ],
)
def test_rows_are_locked_where_a_hung_client_cannot_keep_them(
    name, mariadb, version, locks
):
    dialect = types.SimpleNamespace(
        name=name, is_mariadb=mariadb, server_version_info=version
    )
    assert claims_module.has_bounded_locks(dialect) is locks


def test_nothing_found_is_nothing_sent(store, sent):
    for take in (claim_own, claim_overdue, claim_orphans, adopt_orphans, adopt_lost):
        assert take(store) == []
    assert sent == []


# --- claim_own --------------------------------------------------------------


def test_a_claim_is_counted_and_gives_a_newer_value(store):
    value = store.arm(payload='{"a": 1}')
    (claimed,) = claim_own(store, value)
    assert claimed == store.row()
    assert changes(value, claimed) == {
        "token": claimed.token,
        "state": CLAIMED,
        "epoch": 2,
        "attempts": 1,
    }
    with store.connect() as connection:
        assert store.deadlines.complete(connection, [value]) == {value.id}
        assert store.deadlines.complete(connection, [claimed]) == set()


@pytest.mark.parametrize("due, won", [(0.0, 1), (MICRO, 0)])
def test_an_own_deadline_is_claimed_when_it_is_due_and_not_before(store, due, won):
    value = store.arm(due=due)
    assert len(claim_own(store, value)) == won
    assert store.row().state == (CLAIMED if won else ARMED)


def test_what_is_due_is_claimed_and_the_rest_of_the_batch_is_left(store):
    values = store.arm_many(
        *(store.new(f"k{n}", due=0.0 if n % 2 else 9.0) for n in range(10))
    )
    claimed = claim_own(store, *values)
    assert [value.key for value in claimed] == ["k1", "k3", "k5", "k7", "k9"]
    for value in values:
        assert store.row(value.key).state == (
            CLAIMED if value in values[1::2] else ARMED
        )


def test_a_row_is_claimed_once(store):
    value = store.arm()
    assert claim_own(store, value)
    before = store.row()
    assert claim_own(store, value) == []
    assert store.row() == before


@pytest.mark.parametrize(
    "change",
    [
        {"owner_id": "other"},
        {"owner_id": None},
        {"state": CLAIMED},
        {"state": PARKED},
        {"token": 1},
    ],
)
def test_what_is_no_longer_ones_own_is_not_claimed(store, change):
    value = store.arm()
    store.set_row(value, **change)
    before = store.row()
    assert claim_own(store, value) == []
    assert store.row() == before


def test_an_extension_between_find_and_claim_wins(store):
    value = store.arm()
    with store.connect() as connection:
        store.deadlines.extend(connection, value, -1.0, 99)
    assert claim_own(store, value) == []
    assert store.row().state == ARMED


def test_a_stale_value_does_not_hide_behind_another_rows_token(store):
    """Rows adopted together were written with one number, and values may be found at
    different times."""
    old, other = store.arm("old"), store.arm("other", owner="gone")
    store.set_row(old, owner_id="gone")
    adopted = adopt_orphans(store, store.row("old"), other)
    assert len({value.token for value in adopted}) == 2
    claimed = claim_own(store, old, adopted[1])
    assert [value.key for value in claimed] == ["other"]
    assert store.row("old").state == ARMED


# --- chain ------------------------------------------------------------------


def chain(store: Store, done, found, again=False):
    with store.connect() as connection:
        return store.claims.chain(connection, ME, done, again, found)


def test_what_is_done_goes_and_what_is_due_is_claimed(store):
    done = [store.claimed(f"done{n}") for n in range(3)]
    due = store.arm_many(*(store.new(f"due{n}", due=0.0) for n in range(3)))
    stale, claimed = chain(store, done, due)
    assert stale == set()
    assert claimed == [store.row(value.key) for value in due]
    assert {value.state for value in claimed} == {CLAIMED}
    assert [store.find(value.key) for value in done] == [None] * 3


def test_a_chain_tells_which_of_them_were_stale(store, done):
    store.set_row(done[-1], owner_id="other", token=99)
    before = store.row(done[-1].key)
    due = store.arm("due")
    stale, claimed = chain(store, done, [due])
    assert stale == {done[-1].id}
    assert store.row(done[-1].key) == before
    assert claimed == [store.row("due")]


def test_a_chain_tells_which_of_them_were_claimed(store):
    done = store.claimed("done")
    due = [store.arm("due", due=0.0), store.arm("later", due=9.0)]
    taken = store.arm("taken")
    store.set_row(taken, token=99)
    stale, claimed = chain(store, [done], [*due, taken])
    assert stale == set()
    assert claimed == [store.row("due")]
    assert chain(store, [done], due[1:], again=True) == (set(), [])
    assert store.row("later").state == ARMED


def test_a_chain_that_was_sent_before_changes_nothing(store):
    done, due = store.claimed("done"), store.arm("due")
    _, claimed = chain(store, [done], [due])
    assert chain(store, [done], [due], again=True) == (set(), [])
    assert [store.row("due")] == claimed


# --- claim_overdue ----------------------------------------------------------


@pytest.mark.parametrize("due, won", [(-6.0, 1), (-6.0 + MICRO, 0)])
def test_the_grace_is_over_at_its_end_and_not_before(store, due, won):
    store.engine("other")
    value = store.arm(owner="other", due=due)
    claimed = claim_overdue(store, value)
    assert len(claimed) == won
    assert store.row().owner_id == (ME if won else "other")


def test_the_grace_passes_with_the_databases_clock(store):
    value = store.arm(owner="other", due=10.0)
    store.clock.advance(16 - MICRO)
    assert claim_overdue(store, value) == []
    store.clock.advance(MICRO)
    assert claim_overdue(store, value)


def test_an_overdue_claim_takes_the_row_over(store):
    store.engine("other")
    value = store.arm(owner="other", due=-9.0)
    (claimed,) = claim_overdue(store, value)
    assert claimed == store.row()
    assert changes(value, claimed) == {
        "owner_id": ME,
        "token": claimed.token,
        "state": CLAIMED,
        "epoch": 2,
        "attempts": 1,
    }


def test_a_claimed_row_is_not_claimed_again_while_its_owner_lives(store):
    store.engine("other")
    value = store.claimed(owner="other")
    store.clock.advance(1e6)
    assert claim_overdue(store, value) == []
    assert claim_overdue(store, value._replace(state=ARMED)) == []
    assert store.row() == value


# --- orphans ----------------------------------------------------------------


def make_owner(store: Store, life: str) -> str | None:
    """An owner who is in that state; None for a row without one."""
    if life == "released":
        return None
    if life != "missing":
        getattr(store, life)("owner")
    return "owner"


def owned_by(store: Store, owner: str | None, state: str = "arm", **fields) -> Deadline:
    if owner is None:
        return store.released(**fields)
    return getattr(store, state)(owner=owner, **fields)


NOBODY = ["fenced", "stopped", "missing", "released"]
SOMEBODY = ["engine", "draining"]


@pytest.mark.parametrize("state", ["arm", "claimed"])
@pytest.mark.parametrize("life", NOBODY)
def test_what_nobody_alive_owns_is_claimed(store, life, state):
    value = owned_by(store, make_owner(store, life), state)
    (claimed,) = claim_orphans(store, value)
    assert claimed == store.row()
    assert claimed.state == CLAIMED and claimed.owner_id == ME
    assert claimed.epoch == value.epoch + 1
    assert claimed.attempts == value.attempts + 1
    assert (claimed.due_at, claimed.expires_at) == (value.due_at, value.expires_at)


@pytest.mark.parametrize("life", NOBODY)
def test_what_nobody_alive_owns_is_adopted_and_due_as_promised(store, life):
    value = owned_by(store, make_owner(store, life), due=100.0)
    store.set_row(value, attempts=3, expires_at=store.clock.utc + timedelta(seconds=7))
    value = store.row()
    store.clock.advance(1)
    (adopted,) = adopt_orphans(store, value)
    assert adopted == store.row()
    after = changes(value, adopted)
    assert after.pop("token") == adopted.token
    if life != "released" or value.owner_id != ME:
        assert after.pop("owner_id") == ME
    assert after == {
        "epoch": value.epoch + 1,
        "attempts": 0,
        "due_at": value.expires_at,
    }


@pytest.mark.parametrize("take", [claim_orphans, adopt_orphans, park_one])
@pytest.mark.parametrize("state", ["arm", "claimed"])
@pytest.mark.parametrize("life", SOMEBODY)
def test_what_somebody_alive_owns_is_not_taken(store, take, life, state):
    value = owned_by(store, make_owner(store, life), state)
    assert take(store, value) == []
    assert store.row() == value


@pytest.mark.parametrize("life", NOBODY)
def test_a_claimed_row_is_not_adopted(store, life):
    """Its handler may have begun: it must run again, or be parked."""
    value = owned_by(store, make_owner(store, life))
    store.set_row(value, state=CLAIMED)
    value = store.row()
    assert adopt_orphans(store, value) == []
    assert store.row() == value


@pytest.mark.parametrize("take", [claim_orphans, adopt_orphans, park_one])
def test_found_dead_but_the_fence_was_lost_by_a_failover(store, take):
    """The orphan was found; then the database went back to before the fence."""
    store.fenced("owner")
    value = store.arm(owner="owner", due=100.0)
    store.set_engine(
        "owner", state="live", ended_at=None, fenced_by=None, fence_evidence=None
    )
    assert take(store, value) == []
    assert store.row() == value


@pytest.mark.parametrize("take", [claim_orphans, adopt_orphans])
def test_of_a_batch_only_what_nobody_alive_owns_is_taken(store, take):
    for life in ("engine", "draining", "fenced", "stopped"):
        getattr(store, life)(life)
    values = [
        store.arm(f"{owner}{number}", owner=owner, due=100.0)
        for number in range(3)
        for owner in ("engine", "draining", "fenced", "stopped", "missing")
    ]
    values.append(store.released("released", due=100.0))
    taken = {value.key for value in take(store, *values)}
    assert taken == {
        value.key for value in values if value.owner_id not in ("engine", "draining")
    }
    for value in values:
        assert (store.row(value.key).owner_id == ME) is (value.key in taken)


@pytest.mark.parametrize("take", [claim_orphans, adopt_orphans, park_one])
@pytest.mark.parametrize(
    "change",
    [
        {"token": 1},
        {"token": 1, "owner_id": "third"},
        {"token": 1, "state": PARKED, "owner_id": None},
    ],
)
def test_a_row_that_has_changed_since_it_was_found_is_not_taken(store, take, change):
    value = owned_by(store, make_owner(store, "fenced"))
    store.set_row(value, **change)
    before = store.row()
    assert take(store, value) == []
    assert store.row() == before


@pytest.mark.parametrize("take", [claim_orphans, adopt_orphans])
def test_what_has_changed_since_is_left_and_the_rest_is_taken(store, take):
    values = [store.arm(f"k{n}", owner="gone", due=100.0) for n in range(4)]
    store.set_row(values[0], token=1)
    with store.connect() as connection:
        store.deadlines.complete(connection, [values[2]])
    assert [value.key for value in take(store, *values)] == ["k1", "k3"]


@pytest.mark.parametrize(
    "take", [claim_own, claim_overdue, claim_orphans, adopt_orphans]
)
def test_of_two_who_found_the_same_one_takes_it(store, take):
    owner = ME if take is claim_own else "gone"
    value = store.arm(owner=owner, due=-9.0)
    (taken,) = take(store, value)
    assert take(store, value) == []
    assert store.row() == taken


def test_a_whole_page_is_taken_at_once(store):
    values = store.arm_many(
        *(store.new(f"k{n}", owner="gone", due=-9.0) for n in range(500))
    )
    taken = claim_orphans(store, *values)
    assert [value.id for value in taken] == [value.id for value in values]
    assert store.row("k499") == taken[499]


@pytest.mark.parametrize("life", NOBODY)
def test_taking_over_and_being_taken_over_is_possible_again_and_again(store, life):
    """Takeover is a state, not an event: whoever adopts may die, too."""
    value = owned_by(store, make_owner(store, life), due=100.0)
    epochs = [value.epoch]
    for _ in range(3):
        (value,) = adopt_orphans(store, value)
        epochs.append(value.epoch)
        store.set_row(value, owner_id="another that is gone", token=value.token + 1)
        value = store.row()
    assert epochs == list(range(1, 5))


# --- adopt_lost -------------------------------------------------------------


def test_a_lost_claim_is_held_again_and_not_counted_twice(store):
    claimed = store.claimed()
    (held,) = adopt_lost(store, claimed)
    assert held == store.row()
    assert changes(claimed, held) == {"token": held.token}
    assert held.attempts == 1 and held.epoch == claimed.epoch
    with store.connect() as connection:
        assert store.deadlines.complete(connection, [claimed]) == {claimed.id}


@pytest.mark.parametrize("state", ["arm", "parked", "released"])
def test_only_claimed_rows_are_held_again(store, state):
    value = getattr(store, state)()
    assert adopt_lost(store, value) == []
    assert store.row() == value


def test_another_engines_claim_is_not_a_lost_one_of_ours(store):
    value = store.claimed(owner="other")
    assert adopt_lost(store, value) == []
    assert store.row() == value


def test_of_several_lost_claims_those_that_changed_are_left(store):
    values = [store.claimed(f"k{n}") for n in range(3)]
    store.set_row(values[1], token=1)
    assert [value.key for value in adopt_lost(store, *values)] == ["k0", "k2"]


# --- park -------------------------------------------------------------------


def test_a_parked_row_has_the_reason_and_no_owner(store):
    value = store.arm(owner="gone")
    store.clock.advance(1)
    assert park(store, value, "no handler")
    after = store.row()
    assert changes(value, after) == {
        "token": after.token,
        "state": PARKED,
        "owner_id": None,
        "last_error": "no handler",
    }


@pytest.mark.parametrize("life", NOBODY)
@pytest.mark.parametrize("state", ["arm", "claimed"])
def test_what_nobody_alive_owns_can_be_parked(store, life, state):
    value = owned_by(store, make_owner(store, life), state, due=0.0)
    assert park(store, value)
    assert store.row().state == PARKED


def test_ones_own_can_be_parked_when_it_is_due(store):
    store.engine(ME)
    assert park(store, store.arm(), grace=0.0)
    assert store.row().state == PARKED


@pytest.mark.parametrize("due, parked", [(-6.0, True), (-6.0 + MICRO, False)])
def test_a_living_owner_keeps_its_head_start_before_a_park(store, due, parked):
    store.engine("other")
    value = store.arm(owner="other", due=due)
    assert park(store, value, grace=6.0) is parked
    assert store.row().state == (PARKED if parked else ARMED)


def test_a_claim_of_a_living_owner_is_not_parked_however_late(store):
    store.engine("other")
    value = store.claimed(owner="other")
    store.clock.advance(1e6)
    assert not park(store, value, grace=6.0)
    assert not park(store, value)
    assert store.row() == value


def test_a_parked_row_is_parked_once(store):
    value = store.arm(owner="gone")
    assert park(store, value, "first")
    before = store.row()
    assert not park(store, value, "second")
    assert store.row() == before


# --- what holders of old values can do after a takeover ---------------------


@pytest.mark.parametrize("take", [claim_orphans, adopt_orphans, claim_overdue])
def test_after_a_takeover_the_old_owner_settles_nothing(store, take):
    store.fenced("owner")
    value = store.arm(owner="owner", due=-9.0)
    (taken,) = take(store, value)
    with store.connect() as connection:
        assert store.deadlines.complete(connection, [value]) == {value.id}
        assert not store.deadlines.rearm(connection, value, 99, 60.0)
        assert not store.deadlines.retry(connection, value, 99, 60.0, "")
        assert not store.deadlines.release(connection, value, 99, "")
        assert not store.deadlines.park(connection, value, 99, "no")
        with pytest.raises(exceptions.StaleDeadline):
            store.deadlines.extend(connection, value, 60.0, 99)
    assert store.row() == taken
