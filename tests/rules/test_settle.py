"""Outcomes on their way: none is lost, none counts twice, none is in another's way."""

import itertools

import pytest
import sqlalchemy as sa

from liveness import Done, Outcome, Park, Rearm, Release, Retry
from liveness.db import tables
from liveness.db.rows import new_token
from liveness.exceptions import Reject
from liveness.handlers import Handlers
from tests.fleet import Recorder, wait_until
from tests.rules.faults import Away, Fault

D = tables.deadline


def answered(fleet, answer, keys=("k",), due=1.0, **options):
    """An engine whose handlers have answered for ``keys``; nothing is settled yet."""
    kind = Recorder()
    kind.answer = answer
    engine = fleet(kind, **options)
    engine.turn()
    for key in keys:
        engine.live.arm("timer", key, due_in=due)
    fleet.clock.advance(due)
    engine.turn()
    wait_until(lambda: not engine.unanswered)
    assert len(kind.calls) == len(keys)
    return engine


METHODS = {Done: "complete", Rearm: "rearm", Retry: "retry"} | {
    Release: "release",
    Park: "park",
}
OUTCOMES = [Done(), Rearm(50), Retry("r", 50), Release("r"), Park("r")]


def settled_as(fleet, outcome, engine):
    row = fleet.row("k")
    if isinstance(outcome, Done):
        assert row is None
        return
    parked, released = isinstance(outcome, Park), isinstance(outcome, Release)
    assert row.state == ("parked" if parked else "armed")
    assert row.owner_id == (None if parked or released else engine.id)


# --- the database fails -------------------------------------------------------


@pytest.mark.parametrize("outcome", OUTCOMES, ids=repr)
def test_an_outcome_survives_an_outage(fleet, outcome):
    engine = answered(fleet, outcome)
    fault = Fault(engine.parts.deadlines, METHODS[type(outcome)], before=3)
    before = fleet.row("k")
    for _ in range(3):
        engine.turn()
    assert fleet.row("k") == before
    assert engine.parts.runner.busy
    engine.settle()
    settled_as(fleet, outcome, engine)
    assert fault.calls == 4
    assert not engine.parts.runner.busy


@pytest.mark.parametrize("outcome", OUTCOMES, ids=repr)
def test_an_outcome_whose_answer_was_lost_counts_once(fleet, outcome, caplog):
    _lose_answer(fleet, outcome)
    assert "was taken over" not in caplog.text


@pytest.mark.parametrize("outcome", [Done(), Retry("r", 50)], ids=repr)
def test_a_lost_answer_on_every_database(every_fleet, outcome):
    _lose_answer(every_fleet, outcome)


def _lose_answer(fleet, outcome):
    engine = answered(fleet, outcome)
    Fault(engine.parts.deadlines, METHODS[type(outcome)], after=1)
    engine.turn()
    settled_as(fleet, outcome, engine)
    written = fleet.row("k")
    with engine.connect() as connection:  # without a sweep, which would go on with it
        engine.parts.loop._settle(connection)
    assert fleet.row("k") == written
    assert not engine.parts.runner.busy
    assert engine.parts._settler.pending == 0


@pytest.mark.parametrize("outcome", OUTCOMES, ids=repr)
def test_a_lost_answer_does_not_hide_that_the_row_was_taken(fleet, outcome, caplog):
    """Written, the answer lost, and then somebody else's before it is sent again."""
    engine = answered(fleet, outcome)
    Fault(engine.parts.deadlines, METHODS[type(outcome)], before=1)
    engine.turn()
    values = {"token": new_token(), "owner_id": "other", "state": "claimed"}
    fleet.execute(sa.update(D).values(**values))
    before = fleet.row("k")
    engine.turn()
    assert fleet.row("k") == before
    assert "its outcome" in caplog.text
    assert not engine.parts.runner.busy


def test_an_outage_does_not_stop_what_is_answered_meanwhile(fleet):
    kind = Recorder()
    engine = fleet(kind)
    engine.turn()
    Fault(engine.parts.deadlines, "complete", before=1)
    for due in (1, 2):
        engine.live.arm("timer", f"k{due}", due_in=due)
    for _ in range(3):
        fleet.clock.advance(1)
        engine.turn()
        wait_until(lambda: not engine.unanswered)
    engine.turn()  # the one after a failed one looks for lost claims before it fires
    wait_until(lambda: not engine.unanswered)
    engine.turn()
    assert kind.keys == ["k1", "k2"]
    assert fleet.rows() == []


# --- batches ------------------------------------------------------------------


def test_many_done_are_one_statement(fleet):
    engine = answered(fleet, None, [f"k{n}" for n in range(20)])
    complete = Fault(engine.parts.deadlines, "complete")
    engine.settle()
    assert fleet.rows() == []
    assert complete.calls == 1


def test_a_batch_is_no_larger_than_the_option(fleet):
    engine = answered(fleet, None, [f"k{n}" for n in range(5)], batch_size=5)
    engine.parts._settler.batch_size = 2
    complete = Fault(engine.parts.deadlines, "complete")
    engine.settle()
    assert fleet.rows() == []
    assert complete.calls == 3


@pytest.mark.parametrize("lost", [0, 1])
def test_one_stale_in_a_batch_harms_no_other(every_fleet, lost, caplog):
    fleet = every_fleet
    engine = answered(fleet, None, [f"k{n}" for n in range(4)])
    taken = {"token": new_token(), "owner_id": "other"}
    fleet.execute(sa.update(D).where(D.c.key == "k2").values(**taken))
    Fault(engine.parts.deadlines, "complete", after=lost)
    engine.turn()
    engine.settle()
    assert [row.key for row in fleet.rows()] == ["k2"]
    assert fleet.row("k2").owner_id == "other"
    assert caplog.text.count("was taken over while it was handled here") == 1
    assert not engine.parts.runner.busy


def test_outcomes_of_all_sorts_are_settled_in_one_turn(fleet):
    outcomes = {f"k{n}": outcome for n, outcome in enumerate(OUTCOMES * 2)}
    engine = answered(fleet, lambda deadline: outcomes[deadline.key], list(outcomes))
    engine.settle()
    states = {row.key: row.state for row in fleet.rows()}
    assert states == {
        key: "parked" if isinstance(outcome, Park) else "armed"
        for key, outcome in outcomes.items()
        if not isinstance(outcome, Done)
    }


# --- what handlers may answer by mistake --------------------------------------


class Own(Outcome):
    """Of a program that thought it might add one."""


NONSENSE = [
    Own(),
    Outcome(),
    Rearm(float("nan")),
    Rearm(float("inf")),
    Rearm(1e300),
    Rearm(-1.0),
    Rearm("soon"),
    Rearm(None),
    Retry("r", float("nan")),
    Retry("r", 1e300),
    Retry("r", "soon"),
    Retry(5),
    Park(None),
    Park(ValueError("x")),
    Release(5),
    Reject(ValueError("no")),
    ValueError("a lone surrogate: \udc80"),
]


@pytest.mark.parametrize(
    "nonsense",
    [*NONSENSE, "done", ValueError("x" * 100_000)],
    ids=lambda nonsense: ascii(nonsense)[:60],
)
def test_nonsense_is_a_failed_attempt_and_in_nobodys_way(fleet, nonsense):
    bad, good = Recorder("bad"), Recorder("good")
    bad.answer = nonsense
    engine = fleet(bad, good)
    engine.turn()
    engine.live.arm("bad", "k", due_in=1)
    engine.live.arm("good", "k", due_in=2)
    fleet.clock.advance(1)
    engine.turn()
    wait_until(lambda: bad.calls and not engine.unanswered)
    engine.turn()
    row = next(row for row in fleet.rows() if row.kind == "bad")
    assert row.state in ("armed", "parked")
    assert row.last_error
    fleet.clock.advance(1)
    engine.turn()
    engine.settle()
    assert good.keys == ["k"]


def test_any_text_may_be_a_reason(every_fleet):
    fleet = every_fleet
    texts = ["a NUL: \0", "a lone surrogate: \udc80"]
    reasons = {
        f"k{n}": how(text)
        for n, (how, text) in enumerate(
            itertools.product([Park, Retry, Release, ValueError], texts)
        )
    }

    def answer(deadline):
        if isinstance(reasons[deadline.key], Exception):
            raise reasons[deadline.key]
        return reasons[deadline.key]

    engine = answered(fleet, answer, list(reasons))
    engine.settle()
    rows = fleet.rows()
    assert len(rows) == len(reasons)
    assert all(row.state != "claimed" for row in rows)
    assert all("a NUL" in r.last_error or "a lone" in r.last_error for r in rows)


def test_an_outcome_that_cannot_be_written_is_not_in_the_way_of_others(fleet):
    """Whatever the reason may be: a bug, or a row that the database refuses."""
    engine = answered(
        fleet, lambda d: Rearm(50) if d.key == "bad" else None, ["bad", "good"]
    )

    def broken(*args):
        raise ValueError("a bug")

    engine.parts.deadlines.rearm = broken
    for _ in range(3):
        engine.turn()
    assert fleet.row("good") is None


# --- retries ------------------------------------------------------------------


def test_the_last_attempt_is_parked_with_the_reason_instead_of_retried(fleet):
    kind = Recorder(max_attempts=2, backoff_initial=1)
    kind.answer = ValueError("broken")
    engine = fleet(kind)
    engine.turn()
    engine.live.arm("timer", "k", due_in=1)
    for _ in range(10):
        fleet.clock.advance(1)
        engine.turn()
        engine.settle()
    assert len(kind.calls) == 2
    row = fleet.row("k")
    assert (row.state, row.owner_id) == ("parked", None)
    assert row.last_error == "gave up after attempt 2: ValueError: broken"


def test_a_reject_is_parked_at_once(fleet):
    engine = answered(fleet, Reject("no such stack"))
    engine.settle()
    row = fleet.row("k")
    assert (row.state, row.last_error) == ("parked", "no such stack")


def test_a_handler_may_ask_to_exit_without_effect(fleet):
    engine = answered(fleet, SystemExit(3))
    engine.settle()
    assert fleet.row("k").last_error == "SystemExit: 3"


def settings(fleet, **options):
    return fleet(**options).live.settings


def test_the_backoff_doubles_up_to_the_maximum_and_half_of_it_is_jitter(fleet):
    handlers = Handlers(settings(fleet, backoff_initial=2, backoff_max=60))
    for attempts, full in ((1, 2), (2, 4), (3, 8), (5, 32), (6, 60), (900, 60)):
        waits = [handlers.backoff("any", attempts) for _ in range(300)]
        assert full / 2 <= min(waits) < full * 0.6
        assert full * 0.9 < max(waits) <= full


def test_the_backoff_of_a_kind_goes_before_the_options(fleet):
    handlers = Handlers(settings(fleet))
    handlers.add(Recorder("k", backoff_initial=10, backoff_max=15))
    assert 5 <= handlers.backoff("k", 1) <= 10
    assert 7.5 <= handlers.backoff("k", 9) <= 15


def test_a_retry_without_a_time_waits_the_backoff(fleet):
    engine = answered(fleet, Retry("r"), backoff_initial=40)
    engine.settle()
    wait = (fleet.row("k").due_at - fleet.clock.utc).total_seconds()
    assert 20 <= wait <= 40


@pytest.mark.parametrize("due_in", [0, 7.25])
def test_a_retry_at_a_time_of_its_own(fleet, due_in):
    engine = answered(fleet, Retry("r", due_in=due_in))
    engine.settle()
    assert (fleet.row("k").due_at - fleet.clock.utc).total_seconds() == due_in


# --- what ends one claims the next ----------------------------------------------


def one_after_the_other(fleet):
    """The first is answered, and the second is due."""
    kind = Recorder()
    engine = fleet(kind)
    engine.live.arm("timer", "k1", due_in=1)
    engine.live.arm("timer", "k2", due_in=2)
    engine.turn()
    fleet.clock.advance(1)
    engine.parts.loop.turn()
    wait_until(lambda: engine.parts.runner.busy and not engine.unanswered)
    fleet.clock.advance(1)
    return engine, kind


def test_what_ends_one_claims_the_next(every_fleet):
    engine, kind = one_after_the_other(every_fleet)
    chain = Fault(engine.parts._claims, "chain")
    engine.parts.loop.turn()
    assert chain.calls == 1
    engine.settle()
    assert kind.keys == ["k1", "k2"]
    assert every_fleet.rows() == []
    assert not engine.parts.runner.busy


@pytest.mark.parametrize("when", ["before", "after"])
def test_when_its_answer_is_lost_each_runs_once(every_fleet, when):
    engine, kind = one_after_the_other(every_fleet)
    Fault(engine.parts._claims, "chain", **{when: 1})
    engine.parts.loop.turn()
    assert engine.parts.runner.has(kind.calls[0][1].id)
    for _ in range(3):
        engine.turn()
        wait_until(lambda: not engine.unanswered)
    engine.settle()
    assert kind.keys == ["k1", "k2"]
    assert kind.calls[1][1].attempts == 1
    assert every_fleet.rows() == []
    assert not engine.parts.runner.busy


def test_what_was_taken_over_does_not_keep_the_next_from_its_time(fleet, caplog):
    engine, kind = one_after_the_other(fleet)
    others = sa.update(D).where(D.c.key == "k1")
    fleet.execute(others.values(token=new_token(), owner_id="other", state="claimed"))
    engine.parts.loop.turn()
    engine.settle()
    assert "k1 was taken over" in caplog.text
    assert kind.keys == ["k1", "k2"]
    assert [row.key for row in fleet.rows()] == ["k1"]


def test_an_engine_without_trust_ends_one_and_claims_none(fleet):
    engine, kind = one_after_the_other(fleet)
    fleet.clock.advance(60)
    engine.parts.loop.turn()
    assert [row.key for row in fleet.rows()] == ["k2"]
    assert fleet.row("k2").state == "armed"
    assert kind.keys == ["k1"]


# --- what is done, batch by batch -----------------------------------------------


def completed(engine):
    """How many are completed by each statement, from now on."""
    sizes = []
    complete = engine.parts.deadlines.complete

    def note(connection, values, again=False):
        sizes.append((len(values), again))
        return complete(connection, values, again=again)

    engine.parts.deadlines.complete = note
    return sizes


def test_what_is_done_joins_what_waits_up_to_a_batch(fleet):
    """As it is answered: three, then three, with a batch of four."""
    engine = answered(fleet, Done(), [f"k{n}" for n in range(6)])
    settler = engine.parts._settler
    sizes = completed(engine)
    pairs = engine.parts.runner.collect()
    settler.batch_size = 4
    settler.add(pairs[:3])
    settler.add(pairs[3:])
    assert settler.pending == 6
    engine.settle()
    assert sizes == [(4, False), (2, False)]
    assert (fleet.rows(), settler.pending) == ([], 0)
    assert not engine.parts.runner.busy


def test_nothing_joins_what_was_sent(fleet):
    """Or it would pass for sent, too."""
    engine = answered(fleet, Done(), ["a", "b"])
    settler = engine.parts._settler
    one, other = engine.parts.runner.collect()
    settler.add([one])
    Fault(engine.parts.deadlines, "complete", before=1)
    with engine.connect() as connection, pytest.raises(Away):
        settler.settle(connection)
    sizes = completed(engine)
    settler.add([other])
    engine.settle()
    assert sizes == [(1, True), (1, False)]
    assert fleet.rows() == []


def test_outcomes_of_other_kinds_do_not_keep_the_done_ones_apart(fleet):
    engine = answered(fleet, Done(), [f"k{n}" for n in range(3)])
    settler, pairs = engine.parts._settler, engine.parts.runner.collect()
    sizes = completed(engine)
    settler.add(pairs[:1])
    settler.add([(pairs[1][0], Retry("later", 50))])
    settler.add(pairs[2:])
    engine.settle()
    assert sizes == [(2, False)]
    assert [row.key for row in fleet.rows()] == [pairs[1][0].key]


def test_what_one_statement_ends_has_one_owner(fleet):
    """After a fence, outcomes of two incarnations may wait side by side."""
    engine = answered(fleet, Done(), ["a", "b", "c"])
    settler, pairs = engine.parts._settler, engine.parts.runner.collect()
    sizes = completed(engine)
    value, outcome = pairs[1]
    settler.add([pairs[0], (value._replace(owner_id="other"), outcome), pairs[2]])
    engine.settle()
    assert sorted(sizes) == [(1, False), (2, False)]
    assert [row.key for row in fleet.rows()] == [value.key]


def test_only_the_last_of_what_is_done_is_settled_with_the_next_claim(fleet):
    """Before it there is no room for more."""
    engine = answered(fleet, Done(), [f"k{n}" for n in range(5)])
    settler, asked = engine.parts._settler, []
    settler.batch_size = 2
    settler.add(engine.parts.runner.collect())
    sizes = completed(engine)
    with engine.connect() as connection:
        settler.settle(connection, lambda _, values, again: asked.append(len(values)))
    assert (asked, sizes) == ([1], [(2, False), (2, False), (1, False)])
