"""Claims from the head of a line: what is claimed, and what is left, on every database
and of both lines. (MariaDB's own line too: it works, though it is not used.)"""

import contextlib
import types
from datetime import timedelta

import pytest
import sqlalchemy as sa

from liveness.db import tables
from liveness.db.connection import is_database_error
from liveness.db.events import EventLog
from liveness.db.heads import MANY, Ask, Heads, Line
from liveness.db.prepared import Prepared
from liveness.db.rows import EPOCH_LIMIT
from liveness.events import Event, What
from liveness.model import Deadline, DeadlineState
from tests.rules.faults import Lost
from tests.store.conftest import ME, Store

D, V = tables.deadline, tables.event

MICRO = 0.000_001
ARMED, CLAIMED, PARKED = (
    DeadlineState.ARMED,
    DeadlineState.CLAIMED,
    DeadlineState.PARKED,
)

TOLD = Event(What.EXPIRED, ME, detail="it had no owner")


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def backend(request) -> str:
    return request.param


@pytest.fixture(params=list(Line), ids=lambda line: line.name.lower())
def line(request) -> Line:
    return request.param


@pytest.fixture
def heads(store) -> Heads:
    return Heads(store.clock, EventLog(store.clock))


@pytest.fixture
def claim(store, heads, line):
    """Claims from the head of ``line``: what was stale, and what was claimed."""

    def call(
        limit: int = 10, done=(), again=False, kinds=("timer",), event=None, line=line
    ) -> tuple[set[int], list[Deadline]]:
        ask = Ask(ME, line, tuple(kinds), limit, event)
        with store.connect() as connection:
            stale, claimed = heads.claim(connection, ask, done, again)
        return stale, list(claimed)

    return call


@pytest.fixture
def put(store, line):
    """Puts an armed deadline in ``line``."""

    def call(key: str = "k", due: float = 0.0, line=line, **fields) -> Deadline:
        names = ("kind", "payload", "max_attempts")
        words = {name: fields.pop(name) for name in names if name in fields}
        value = store.arm(key, due=due, **words)
        if line is Line.NOBODYS:
            fields = {"owner_id": None, **fields}
        if fields:
            store.set_row(value, **fields)
        return store.row(key, value.kind)

    return call


def as_claimed(store: Store, line: Line, key: str, **facts) -> Deadline:
    """The value that a claim has to give of a row that it claimed."""
    facts = {"orphaned": line is Line.NOBODYS, "expired": True, "due": True, **facts}
    return store.row(key)._replace(**facts)


def keys(values: list[Deadline]) -> list[str]:
    return sorted(value.key for value in values)


def changes(before: Deadline, after: Deadline) -> dict:
    old, new = before._asdict(), after._asdict()
    return {name: new[name] for name in new if new[name] != old[name]}


# --- where there is one -----------------------------------------------------


@pytest.mark.parametrize(
    "name, mariadb, version, limit, own, nobodys",
    [
        ("postgresql", False, (9, 5), 1, True, True),
        ("mysql", True, (10, 6), MANY - 1, False, True),
        ("mysql", True, (10, 6), MANY, True, True),
        ("mysql", True, (10, 5, 29), MANY, False, False),
        ("mysql", False, (8, 0, 40), MANY, False, False),
        ("sqlite", False, (3, 40, 1), 1, True, True),
    ],
)
def test_lines_have_heads_where_a_hung_client_cannot_keep_them(
    name, mariadb, version, limit, own, nobodys
):
    dialect = types.SimpleNamespace(
        name=name, is_mariadb=mariadb, server_version_info=version
    )
    assert Heads.serve(dialect, Line.OWN, limit) is own
    assert Heads.serve(dialect, Line.NOBODYS, limit) is nobodys


# --- what is claimed --------------------------------------------------------


def test_what_is_claimed_is_what_its_row_is_then(store, put, claim, line):
    before = put(payload='{"a": 1}', due=-1.0)
    store.set_row(before, last_error="before")
    store.clock.advance(5)
    stale, (claimed,) = claim()
    assert stale == set()
    assert claimed == as_claimed(store, line, "k")
    after = changes(before._replace(last_error="before"), store.row())
    assert after.pop("token") == claimed.token != before.token
    assert after.pop("owner_id", ME) == ME
    assert after == {"state": CLAIMED, "epoch": 2, "attempts": 1}
    with store.connect() as connection:
        written = connection.execute(sa.select(D.c.updated_at)).scalar_one()
    assert written == store.clock.utc


def test_each_row_has_a_token_of_its_own_and_each_claim_another(store, put, claim):
    for key in "abcd":
        put(key)
    tokens = {v.token for v in [*claim(limit=2)[1], *claim(limit=2)[1]]}
    assert tokens == {store.row(key).token for key in "abcd"}
    assert len(tokens) == 4


def test_as_many_as_asked_for_those_that_have_been_due_longest(store, put, claim):
    for key, due in [("c", -2.0), ("a", -3.0), ("b", -2.0), ("e", 0.0), ("d", -1.0)]:
        put(key, due=due)
    assert keys(claim(limit=2)[1]) == ["a", "c"]  # of two at one time: the older row
    assert [store.row(key).state for key in "bde"] == [ARMED] * 3
    assert keys(claim(limit=2)[1]) == ["b", "d"]
    assert keys(claim(limit=2)[1]) == ["e"]
    assert claim(limit=2) == (set(), [])


@pytest.mark.parametrize("backend", ["postgresql"])
def test_the_longest_due_first_whatever_the_plan(store, put, heads, line):
    for number in range(10, 30):
        put(f"k{number}", due=-1.0 * (number * 7 % 20))
    with store.connect() as connection:
        for way in ("indexscan", "bitmapscan", "indexonlyscan"):
            connection.exec_driver_sql(f"SET enable_{way} = off")
        connection.exec_driver_sql("SET enable_seqscan = on")
        _, claimed = heads.claim(connection, Ask(ME, line, ("timer",), 3))
        connection.invalidate()
    longest = sorted(range(10, 30), key=lambda number: number * 7 % 20)[-3:]
    assert keys(claimed) == sorted(f"k{number}" for number in longest)


def test_many_are_claimed_at_once_and_each_value_is_its_rows(store, claim, line):
    store.arm_many(*(store.new(f"k{n:03}", due=-n / 100) for n in range(300)))
    if line is Line.NOBODYS:
        with store.connect() as connection:
            connection.execute(sa.update(D).values(owner_id=None))
    _, claimed = claim(limit=250)
    assert keys(claimed) == [f"k{n:03}" for n in range(50, 300)]
    for value in claimed[::50]:
        assert value == as_claimed(store, line, value.key)


def test_nothing_is_nothing(claim):
    assert claim() == (set(), [])


def test_a_claim_is_settled_by_the_value_that_it_gave(store, put, claim):
    put("a"), put("b")
    _, claimed = claim()
    with store.connect() as connection:
        assert store.deadlines.complete(connection, claimed) == set()
    assert store.keys() == []


def test_the_epoch_goes_on_from_where_it_was(store, put, claim, line):
    put(epoch=7)
    _, (claimed,) = claim()
    assert claimed == as_claimed(store, line, "k")
    assert claimed.epoch == 8


# --- what is not ------------------------------------------------------------


@pytest.mark.parametrize("due, found", [(0.0, ["k"]), (MICRO, [])])
def test_nothing_is_claimed_a_microsecond_early(store, put, claim, due, found):
    value = put(due=due)
    store.set_row(value, expires_at=store.clock.utc)
    assert keys(claim()[1]) == found
    assert store.row().state == (CLAIMED if found else ARMED)


def test_it_comes_due_with_the_databases_clock(store, put, claim):
    put(due=10.0)
    store.clock.advance(10 - MICRO)
    assert claim() == (set(), [])
    store.clock.advance(MICRO)
    assert keys(claim()[1]) == ["k"]


@pytest.mark.parametrize(
    "change",
    [
        {"attempts": 1},
        {"max_attempts": 1},
        {"epoch": EPOCH_LIMIT},
        {"state": CLAIMED},
        {"state": PARKED},
        {"owner_id": "other"},
    ],
    ids=lambda change: next(iter(change)) + "=" + str(next(iter(change.values()))),
)
def test_what_must_be_chosen_or_is_not_in_the_line_is_left(store, put, claim, change):
    """Though it has been due longer, and others are claimed in its place."""
    left = put("left", due=-9.0, **change)
    put("k")
    assert keys(claim(limit=1)[1]) == ["k"]
    assert claim() == (set(), [])
    assert store.row("left") == left


def test_an_epoch_is_counted_up_to_its_limit(store, put, claim, line):
    put(epoch=EPOCH_LIMIT - 1)
    _, (claimed,) = claim()
    assert claimed == as_claimed(store, line, "k")
    assert claimed.epoch == EPOCH_LIMIT


def test_each_line_has_its_own(store, put, claim, line):
    other = next(each for each in Line if each is not line)
    left = put("other", due=-9.0, line=other)
    assert claim() == (set(), [])
    assert store.row("other") == left
    assert keys(claim(line=other)[1]) == ["other"]


# --- kinds and promises -----------------------------------------------------


own = pytest.mark.parametrize("line", [Line.OWN], ids=["own"])
nobodys = pytest.mark.parametrize("line", [Line.NOBODYS], ids=["nobodys"])


@nobodys
def test_of_nobodys_only_known_kinds_are_claimed(store, put, claim):
    for kind in ("timer", "action", "unknown"):
        put("k", kind=kind)
    before = store.row(kind="unknown")
    _, claimed = claim(kinds=("timer", "action"))
    assert sorted(value.kind for value in claimed) == ["action", "timer"]
    assert store.row(kind="unknown") == before
    assert keys(claim(kinds=("timer", "action", "unknown"))[1]) == ["k"]


@nobodys
def test_who_knows_no_kind_claims_nothing_of_nobodys(store, put, claim):
    left = put()
    assert claim(kinds=()) == (set(), [])
    assert store.row() == left


@own
def test_ones_own_are_claimed_whatever_their_kind(put, claim):
    """That there is no handler is for the thread to find that would run it."""
    put(kind="unknown")
    assert keys(claim(kinds=())[1]) == ["k"]


@nobodys
@pytest.mark.parametrize("promise, won", [(0.0, 1), (MICRO, 0)])
def test_of_nobodys_only_those_whose_promise_has_passed(
    store, put, claim, line, promise, won
):
    """What becomes of others, their kind says."""
    expires = store.clock.utc + timedelta(seconds=promise)
    left = put(due=-9.0, expires_at=expires)
    _, claimed = claim()
    assert len(claimed) == won
    if won:
        assert claimed == [as_claimed(store, line, "k")]
    else:
        assert store.row() == left


@own
@pytest.mark.parametrize("promise, expired", [(0.0, True), (MICRO, False)])
def test_an_own_one_before_its_promise_is_an_orphans_retry(
    store, put, claim, line, promise, expired
):
    expires = store.clock.utc + timedelta(seconds=promise)
    put(due=-9.0, expires_at=expires)
    _, (claimed,) = claim()
    facts = {"expired": expired, "orphaned": not expired}
    assert claimed == as_claimed(store, line, "k", **facts)
    assert claimed.expires_at == expires


def test_due_and_promised_at_different_times_are_both_told(store, put, claim, line):
    expires = store.clock.utc - timedelta(hours=1, microseconds=7)
    put("a", due=-3.0, expires_at=expires)
    put("b", due=-2.0)
    _, claimed = claim()
    assert {v.key: v for v in claimed} == {
        key: as_claimed(store, line, key) for key in "ab"
    }
    assert store.row("a").expires_at == expires != store.row("a").due_at


# --- payloads ---------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "null", '{"a": [1, "ä"]}', "{", ""])
def test_a_payload_is_read_and_what_is_wrong_with_it_told(
    store, put, claim, line, text
):
    put("bad", payload=text)
    put("good", payload="7")
    claimed = {value.key: value for value in claim()[1]}
    assert claimed["bad"] == as_claimed(store, line, "bad")
    assert bool(claimed["bad"].problem) == (text in ("{", ""))
    assert (claimed["good"].payload, claimed["good"].problem) == (7, None)


# --- with what is done ------------------------------------------------------


def test_what_is_done_goes_and_the_next_are_claimed(store, put, claim, line, done):
    put("a"), put("b")
    stale, claimed = claim(done=done)
    assert stale == set()
    assert {value.key: value for value in claimed} == {
        key: as_claimed(store, line, key) for key in "ab"
    }
    assert store.keys() == ["a", "b"]


@pytest.mark.parametrize("change", [{"token": 99}, {"owner_id": "other"}])
def test_what_another_has_taken_over_is_told_and_stays(store, put, claim, done, change):
    store.set_row(done[-1], **change)
    before = store.row(done[-1].key)
    put("next")
    stale, claimed = claim(done=done)
    assert stale == {done[-1].id}
    assert store.row(done[-1].key) == before
    assert keys(claimed) == ["next"]
    assert store.keys() == sorted([done[-1].key, "next"])


def test_what_was_sent_before_changes_nothing_when_it_is_sent_again(
    store, put, claim, done
):
    put("next")
    _, (claimed,) = claim(done=done)
    before = store.row("next")
    assert claim(done=done, again=True) == (set(), [])
    assert store.row("next") == before
    assert store.keys() == ["next"]


def test_sent_again_one_that_was_taken_over_meanwhile_is_stale(store, put, claim):
    done = [store.claimed(f"done{n}") for n in range(2)]
    store.set_row(done[0], owner_id="other", token=99)
    put("next")
    stale, claimed = claim(done=done, again=True)
    assert stale == {done[0].id}
    assert keys(claimed) == ["next"]


@pytest.mark.parametrize("event", [None, TOLD])
def test_what_is_done_goes_though_nothing_is_to_be_claimed(store, put, claim, event):
    done = [store.claimed(f"done{n}") for n in range(2)]
    store.set_row(done[1], token=99)
    put("later", due=1.0)
    assert claim(done=done, event=event) == ({done[1].id}, [])
    assert store.keys() == ["done1", "later"]
    assert store.row("later").state == ARMED


# --- the history ------------------------------------------------------------


@pytest.fixture
def told(store):
    """The events, oldest first, as their rows show them."""
    with store.connect() as connection:
        connection.execute(sa.delete(V))

    def read() -> list[dict]:
        with store.connect() as connection:
            rows = connection.execute(sa.select(V).order_by(V.c.id))
            return [dict(row._mapping) for row in rows]

    return read


@pytest.mark.parametrize("with_done", [False, True])
def test_each_claim_is_told_with_it(store, put, claim, told, with_done):
    done = [store.claimed("done")] if with_done else []
    put("a"), put("b", epoch=4), put("later", due=1.0)
    store.clock.advance(0.5)
    _, claimed = claim(done=done, event=TOLD)
    assert keys(claimed) == ["a", "b"]
    events = sorted(told(), key=lambda event: event["key"])
    assert [event.pop("id") > 0 for event in events] == [True, True]
    alike = {
        "at": store.clock.utc,
        "what": "expired",
        "engine_id": ME,
        "about_id": None,
        "kind": "timer",
        "attempts": 1,
        "detail": "it had no owner",
    }
    assert events == [
        {**alike, "key": "a", "epoch": 2},
        {**alike, "key": "b", "epoch": 5},
    ]


def test_what_is_not_to_be_told_is_not(store, put, claim, told):
    put("a")
    assert keys(claim()[1]) == ["a"]
    assert told() == []


def test_of_nothing_nothing_is_told(store, put, claim, told):
    put("later", due=1.0)
    assert claim(event=TOLD) == (set(), [])
    assert told() == []


@pytest.fixture
def no_history(store, server):
    """The table of events refuses what is written to it, for the block."""
    database = sa.make_url(store.url).database

    def run(sql: str) -> None:
        if server is not None:
            server.admin(sql, database)
            return
        # A new connection: SQLite looks a column up in the schema as that one knows it.
        with store.host() as connection:
            connection.exec_driver_sql(sql)
            connection.commit()

    @contextlib.contextmanager
    def refusing():
        run("ALTER TABLE liveness_event RENAME COLUMN detail TO elsewhere")
        try:
            yield
        finally:
            run("ALTER TABLE liveness_event RENAME COLUMN elsewhere TO detail")

    return refusing


def test_an_event_that_cannot_be_written_undoes_all_of_it(
    store, put, claim, line, told, no_history
):
    done = [store.claimed(f"done{n}") for n in range(2)]
    before = [*done, put("a")]
    with no_history(), pytest.raises(Exception) as caught:
        claim(done=done, event=TOLD)
    assert is_database_error(caught.value)
    assert [store.row(value.key) for value in before] == before
    assert claim(done=done) == (set(), [as_claimed(store, line, "a")])


# --- a mark -----------------------------------------------------------------
# What follows is true of every database; on SQLite, which has none, by itself.


def test_what_comes_before_the_last_batch_is_found_when_nothing_is_after_it(put, claim):
    put("a", due=-5.0)
    assert keys(claim(limit=1)[1]) == ["a"]
    put("before", due=-9.0)
    assert keys(claim(limit=1)[1]) == ["before"]


def test_less_than_was_asked_for_is_all_that_there_is(store, put, claim, line):
    """What came before the last batch too, or else it would wait for as long as a
    little comes all the time."""
    put("a", due=-5.0)
    assert keys(claim(limit=1)[1]) == ["a"]
    put("before", due=-9.0), put("after")
    _, claimed = claim(limit=3, event=TOLD)
    assert {value.key: value for value in claimed} == {
        key: as_claimed(store, line, key) for key in ("before", "after")
    }
    assert claim() == (set(), [])


@pytest.mark.parametrize("backend", ["postgresql"])
def test_a_conflict_before_the_mark_undoes_nothing_after_it(
    store, put, claim, line, monkeypatch
):
    """There the search for what came before is a statement of its own."""
    put("a", due=-5.0)
    ((done,), fetched) = claim(limit=1)[1], Prepared.fetched
    put("before", due=-9.0), put("after")
    lost = []

    def once(self, connection, sent, *rest):
        if "mark" not in sent and not lost:
            lost.append(True)
            raise Lost
        return fetched(self, connection, sent, *rest)

    monkeypatch.setattr(Prepared, "fetched", once)
    assert claim(limit=3, done=[done]) == (set(), [as_claimed(store, line, "after")])
    assert lost
    assert keys(claim(limit=3)[1]) == ["before"]


def test_no_more_are_claimed_than_were_asked_for(store, put, claim):
    put("a", due=-5.0)
    assert keys(claim(limit=1)[1]) == ["a"]
    for key, due in [("x", -9.0), ("y", -8.0), ("z", -1.0)]:
        put(key, due=due)
    assert len(claim(limit=2)[1]) == 2


def test_what_comes_before_a_backlog_does_not_wait_for_its_end(store, claim, line):
    """As many more come as are claimed, for ever."""
    store.arm_many(*(store.new(f"k{n:04}", due=-5.0 + n / 1e3) for n in range(600)))
    late = store.new("before", due=-9.0)
    if line is Line.NOBODYS:
        with store.connect() as connection:
            connection.execute(sa.update(D).values(owner_id=None))
    assert claim(limit=2)[1]
    (value,) = store.arm_many(late)
    if line is Line.NOBODYS:
        store.set_row(value, owner_id=None)
    for _ in range(200):
        _, claimed = claim(limit=2)
        if "before" in keys(claimed):
            return
    raise AssertionError("it was never found")


def test_at_one_time_with_the_last_batch_the_rest_is_found(put, claim):
    for key in "abcd":
        put(key, due=-5.0)
    assert keys(claim(limit=2)[1]) == ["a", "b"]
    put("e", due=-5.0)
    assert keys(claim(limit=2)[1]) == ["c", "d"]
    assert keys(claim(limit=2)[1]) == ["e"]


def test_a_clock_that_is_set_back_makes_nothing_early_and_loses_nothing(
    store, put, claim
):
    for key, due in [("a", -5.0), ("b", -4.0), ("c", -3.0)]:
        put(key, due=due)
    assert keys(claim(limit=2)[1]) == ["a", "b"]
    store.clock.jump(-3.5)
    put("now", due=0.0)
    assert keys(claim()[1]) == ["now"]
    store.clock.advance(0.5 - MICRO)
    assert claim() == (set(), [])
    store.clock.advance(MICRO)
    assert keys(claim()[1]) == ["c"]


def test_what_was_undone_is_claimed_by_the_next(
    store, put, claim, line, told, no_history
):
    put("a", due=-5.0), put("b", due=-4.0)
    with no_history(), pytest.raises(Exception) as caught:
        claim(limit=1, event=TOLD)
    assert is_database_error(caught.value)
    put("before", due=-9.0)
    found = [value.key for _ in range(4) for value in claim(limit=1)[1]]
    assert sorted(found) == ["a", "b", "before"]
