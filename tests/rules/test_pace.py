"""While others' deadlines are taken, page by page, own ones keep their time."""

import pytest
import sqlalchemy as sa

from liveness import agenda, firing, pace, sweep, walks
from liveness.db import tables
from liveness.pace import AIM, Pace
from tests.fleet import Recorder, wait_until

D = tables.deadline
HOUR = 3600.0


def paced(rows, seconds):
    made = Pace()
    made.took(rows, seconds)
    return made


# --- how many -----------------------------------------------------------------


def test_with_nothing_due_a_page_is_as_large_as_may_be():
    assert Pace().rows(float("inf"), 1000) == 1000
    assert paced(1000, 60.0).rows(float("inf"), 1000) == 1000


def test_half_of_the_time_that_is_left_has_to_be_enough():
    known = paced(1000, 0.040)
    assert known.rows(0.0801, 1000) == 1000
    assert known.rows(0.0401, 1000) == 501
    assert known.rows(0.0401, 300) == 300


def test_a_page_is_worth_its_statements_however_soon_something_is_due():
    known = paced(1000, AIM * 2)
    assert known.rows(0.0, 1000) == known.rows(-1.0, 1000) == 500
    slow = paced(1000, 10.0)
    assert slow.rows(0.0, 1000) == 2  # see small_pages
    assert slow.rows(0.0, 1) == 1


def test_what_is_taken_besides_takes_its_time_too():
    known = paced(1000, 0.040)
    assert known.rows(0.0401, 1000, besides=200) == 301
    assert known.rows(0.0401, 300, besides=200) == 300
    assert known.rows(0.0401, 1000, besides=900) == 2


def test_until_a_page_is_done_a_guess_is_gone_by_and_then_no_more():
    made = Pace(0.001, aim=0.002, least=3)
    assert made.rows(0.0201, 1000) == 10
    assert made.rows(0.0, 1000) == 3 and made.rows(0.0081, 1000) == 4
    made.took(1000, 0.040)
    assert made.seconds(1000) == pytest.approx(0.040)


def test_the_pace_is_known_by_the_last_pages():
    known = paced(1000, 0.040)
    for _ in range(20):
        known.took(1000, 0.400)
    assert known.rows(0.4, 1000) == pytest.approx(500, rel=0.01)
    known.took(1000, 0.040)
    assert 500 < known.rows(0.4, 1000) < 1000


# --- of an engine that has something due --------------------------------------


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    monkeypatch.setattr(sweep, "PAGE", 8)
    monkeypatch.setattr(walks, "PAGE", 40)
    monkeypatch.setattr(pace, "LEAST", 2)
    monkeypatch.setattr(firing, "LEAST", 2)


def slow(fleet, engine, name, each=0.001):
    """Every row takes a millisecond; returns the sizes of what was taken at once."""
    claims, sizes = engine.parts._claims, []
    take = getattr(claims, name)

    def taken(connection, me, found, *rest):
        if found:
            sizes.append(len(found))
            fleet.clock.advance(each * len(found))
        return take(connection, me, found, *rest)

    setattr(claims, name, taken)
    return sizes


class Noted:
    """Notes the name of a method when it is called with something."""

    def __init__(self, done, target, name):
        self._done, self._name, self._method = done, name, getattr(target, name)
        setattr(target, name, self)

    def __call__(self, connection, *args, **options):
        if args[:2][-1]:
            self._done.append(self._name)
        return self._method(connection, *args, **options)


def lateness(fleet, engine):
    """How late its own deadlines, those of kind "mine", are claimed."""
    runner, late = engine.parts.runner, []
    run = runner.run

    def claimed(values, punctual=False):
        values = list(values)
        now = engine.parts._sweep.skew.moment(fleet.clock.monotonic())
        mine = [value for value in values if value.kind == "mine"]
        late.extend((now - value.due_at).total_seconds() for value in mine)
        run(values, punctual)

    runner.run = claimed
    return late


def orphaned(fleet, count, kind="timer", *handlers):
    dead = fleet(*handlers)
    for number in range(count):
        dead.live.arm(kind, f"{kind}{number}", due_in=HOUR)
    fleet.bury(dead)
    return dead


def turned(engine, most=100):
    for _ in range(most):
        if engine.parts.loop.turn() > 0:
            break


def test_with_nothing_due_a_walk_goes_by_large_pages(fleet):
    orphaned(fleet, 100)
    engine = fleet(batch_size=8)
    sizes = slow(fleet, engine, "adopt_orphans")
    turned(engine)
    assert sizes == [8, 40, 40, 12]


def test_own_deadlines_keep_their_time_while_a_walk_goes_on(fleet):
    mine = Recorder("mine")
    kinds = (Recorder(), mine)
    orphaned(fleet, 200, "timer", *kinds)
    engine = fleet(*kinds, batch_size=8)
    sizes = slow(fleet, engine, "adopt_orphans")
    turned(engine, 2)  # it walks, and knows the pace
    late = lateness(fleet, engine)
    done = []
    Noted(done, engine.parts._sweep._finder, "orphans_of")
    Noted(done, engine.parts._claims, "adopt_orphans")
    Noted(done, engine.parts._claims, "claim_own")
    for number in range(3):
        engine.live.arm("mine", f"{number}", due_in=0.030 * (number + 1))
    turned(engine)
    assert sum(sizes) == 200
    assert len(late) == 3 and max(late) <= 0.005
    assert max(sizes[3:]) > 10  # but not all pages are small
    fired = [n for n, name in enumerate(done) if name == "claim_own"]
    assert {done[n - 1] for n in fired} == {"adopt_orphans"}  # and nothing in between


def test_few_are_looked_for_when_something_is_due_soon_and_none_when_it_is(fleet):
    mine = Recorder("mine")
    kinds = (Recorder(), mine)
    orphaned(fleet, 200, "timer", *kinds)
    engine = fleet(*kinds, batch_size=8)
    slow(fleet, engine, "adopt_orphans")
    turned(engine, 2)
    late, finder = lateness(fleet, engine), engine.parts._sweep._finder
    asked, find = [], finder.orphans_of

    def found(*args):
        asked.append(args[4])
        fleet.clock.advance(0.001 * args[4])  # as much again
        return find(*args)

    finder.orphans_of = found
    engine.live.arm("mine", "k", due_in=0.040)
    engine.turn()
    assert 8 <= asked[0] <= 20  # of which half of 40 ms is known to be enough
    assert max(asked[:4]) <= 20
    assert late and max(late) <= 0.006


def test_what_is_due_in_the_middle_of_a_pass_fires_there(fleet):
    mine = Recorder("mine")
    kinds = (Recorder("action", when_orphaned="retrigger"), mine)
    orphaned(fleet, 8, "action", *kinds)
    engine = fleet(*kinds, batch_size=8)
    sizes = slow(fleet, engine, "claim_orphans", each=0.004)
    engine.parts._sweep._claiming.took(8, 8 * 0.004)
    late = lateness(fleet, engine)
    engine.live.arm("mine", "k", due_in=0.010)
    assert engine.turn() == 0
    assert sizes == [2, 2, 4]
    assert late == [pytest.approx(0.006)]
    assert len(engine.parts._agenda) == 0  # and is not looked for again


def test_who_does_not_trust_itself_fires_nothing_in_the_middle_of_a_pass(fleet):
    engine = fleet()
    engine.turn()
    engine.live.arm("timer", "k", due_in=1.0)
    fleet.clock.advance(40.0)  # without a beat
    with engine.connect() as connection:
        engine.parts.firing.fire_due(connection)
        assert fleet.row("k").state == "armed"
        engine.beat()
        engine.parts.firing.fire_due(connection)
    assert fleet.row("k").state == "claimed"


def test_of_two_that_were_claimed_before_only_one_is_held(fleet):
    """The second is found as an orphan; while the page is taken, the own one fires."""
    action = Recorder("action", when_orphaned="retrigger")
    dead, engine = fleet(action), fleet(action, batch_size=8)
    for number in range(8):
        dead.live.arm("action", f"action{number}", due_in=HOUR)
    fleet.bury(dead)
    engine.live.arm("action", "own", due_in=0.010)
    again = {"attempts": 1, "token": D.c.token + 1}
    fleet.execute(sa.update(D).where(D.c.key.in_(["own", "action7"])).values(again))
    engine.parts._sweep._from_anywhere = lambda orphans: orphans
    slow(fleet, engine, "claim_orphans", each=0.004)
    engine.parts._sweep._claiming.took(8, 8 * 0.004)
    held = []
    engine.parts.runner.run = lambda values, punctual=False: held.extend(values)
    engine.parts.runner.notable = lambda: held
    engine.turn()
    assert sum(value.attempts > 1 for value in held) == 1
    assert "own" in [value.key for value in held]


# --- and a line at whose head it claims -----------------------------------------


def lined(fleet, count):
    """An engine at whose line of so many of nobody's each row takes a millisecond;
    returns the engine and the sizes of what is claimed."""
    mine = Recorder("mine")
    kinds = (Recorder(), mine)
    before, engine = fleet(*kinds), fleet(*kinds, batch_size=8)
    engine.parts.runner._mean = 0.0  # so that there is room for two batches
    engine.parts.firing.sleep = fleet.clock.advance
    for number in range(count):
        before.live.arm("timer", f"timer{number}", due_in=1.0)
    fleet.execute(sa.update(D).values(owner_id=None))
    fleet.clock.advance(1)
    sizes, heads = [], engine.parts.firing._heads
    claim = heads.claim

    def claimed(connection, ask, done=(), again=False):
        stale, values = claim(connection, ask, done, again)
        sizes.append(len(values))
        fleet.clock.advance(0.001 * len(values))
        return stale, values

    heads.claim = claimed
    return engine, sizes


def go(engine, turns):
    for _ in range(turns):
        engine.parts.loop.turn()
        wait_until(lambda: not engine.unanswered)


def test_a_claim_from_a_head_is_as_large_as_may_be_while_nothing_is_due(fleet):
    engine, sizes = lined(fleet, 40)
    go(engine, 8)
    assert sizes[:5] == [8, 8, 8, 8, 8]


def test_own_deadlines_keep_their_time_while_a_line_is_claimed(fleet):
    engine, sizes = lined(fleet, 80)
    go(engine, 3)  # it knows the pace
    known = len(sizes)
    late = lateness(fleet, engine)
    for number in range(3):
        engine.live.arm("mine", f"{number}", due_in=0.020 * (number + 1))
    go(engine, 40)
    assert fleet.rows() == [] and sum(sizes) == 80
    assert len(late) == 3 and max(late) <= 0.003
    assert max(sizes[known:]) == 8  # and not all are small
    assert min(sizes[known:-1]) >= 2  # nor is the line left before it ends


def answered(fleet, count):
    """An engine that has so many outcomes to write; nothing else is due."""
    engine = fleet(Recorder(), batch_size=20)
    engine.turn()
    for number in range(count):
        engine.live.arm("timer", f"{number}", due_in=1.0)
    fleet.clock.advance(1)
    engine.turn()
    wait_until(lambda: not engine.unanswered)
    return engine


@pytest.mark.parametrize("count", [agenda.FEW, agenda.FEW + 1])
def test_a_few_that_are_due_do_not_wait_for_a_batch_of_outcomes(
    fleet, monkeypatch, count
):
    monkeypatch.setattr(firing, "LEAST", 5)
    engine = answered(fleet, 5)
    for number in range(count):
        engine.live.arm("timer", f"due{number}", due_in=1.0)
    fleet.clock.advance(1)
    done = []
    Noted(done, engine.parts._claims, "claim_own")
    Noted(done, engine.parts._claims, "chain")
    Noted(done, engine.parts.deadlines, "complete")
    engine.parts.loop.turn()
    few = count <= agenda.FEW
    assert done[:2] == (["claim_own", "complete"] if few else ["chain"])


def test_a_few_do_wait_for_outcomes_that_take_no_time(fleet, monkeypatch):
    """One transaction for both."""
    monkeypatch.setattr(firing, "LEAST", 5)
    engine = answered(fleet, 4)
    engine.live.arm("timer", "due", due_in=1.0)
    fleet.clock.advance(1)
    done = []
    Noted(done, engine.parts._claims, "chain")
    Noted(done, engine.parts._claims, "claim_own")
    engine.parts.loop.turn()
    assert done == ["chain"]


def test_an_own_line_waits_for_nothing_that_is_in_it(fleet):
    engine, sizes = lined(fleet, 40)
    fleet.execute(sa.update(D).values(owner_id=engine.id))
    engine.parts.firing._pace.took(8, 0.008)
    engine.parts._backlog.own_from = fleet.clock.monotonic()
    go(engine, 4)
    assert sizes[:4] == [8, 8, 8, 8]


def test_what_a_batch_completes_took_its_time_too(fleet):
    engine, sizes = lined(fleet, 40)
    go(engine, 2)
    assert engine.parts.firing._pace.seconds(1) == pytest.approx(0.001)
    go(engine, 1)  # eight more in eight milliseconds, and eight completed
    assert sizes == [8, 8]
    assert engine.parts.firing._pace.seconds(1) == pytest.approx(0.000875)


def test_nobodys_line_leaves_time_for_an_own_line_that_begins_soon(fleet):
    engine, sizes = lined(fleet, 40)
    go(engine, 2)
    known = len(sizes)
    engine.parts._backlog.own_from = fleet.clock.monotonic() + 0.0261
    go(engine, 1)  # 13 rows in half of that, of which 8 are completed
    assert sizes[known:] == [5]


@pytest.mark.parametrize("why", ["drains", "does not trust itself"])
def test_who_may_not_claim_fires_no_few_before_its_outcomes(fleet, monkeypatch, why):
    monkeypatch.setattr(firing, "LEAST", 1)
    engine = fleet(Recorder(), batch_size=20)
    engine.turn()
    engine.live.arm("timer", "done", due_in=1.0)
    engine.live.arm("timer", "due", due_in=2.0)
    fleet.clock.advance(1)
    engine.turn()
    wait_until(lambda: not engine.unanswered)
    if why == "drains":
        engine.parts.begin_drain()
    fleet.clock.advance(1.0 if why == "drains" else 40.0)  # without a beat
    engine.parts.loop.turn()
    assert [(row.key, row.state) for row in fleet.rows()] == [("due", "armed")]


def begun(fleet, *due_in, done=True, full=False):
    """What an engine does in a turn when own deadlines are due so soon, and it has a
    line of which it knows that a row takes a millisecond: in its order, at which
    time. ``done``: eight are to be completed; ``full``: it can hold no more."""
    engine, _ = lined(fleet, 40)
    go(engine, 2)
    if not done:
        engine.settle()
    if full:
        engine.parts.runner.batch_size = 0
    began, calls = fleet.clock.monotonic(), []

    def noted(target, name):
        method = getattr(target, name)

        def call(*args, **options):
            calls.append((name, round(1000 * (fleet.clock.monotonic() - began))))
            return method(*args, **options)

        setattr(target, name, call)

    noted(engine.parts.firing._heads, "claim")
    noted(engine.parts.firing._claims, "claim_own")
    for number, seconds in enumerate(due_in):
        engine.live.arm("mine", f"{number}", due_in=seconds)
    engine.parts.loop.turn()
    return calls


def test_a_batch_waits_for_the_own_deadline_that_would_be_due_before_it_is_done(fleet):
    assert begun(fleet, 0.007) == [("claim_own", 7), ("claim", 7)]


def test_it_waits_with_few_to_complete_too(fleet, monkeypatch):
    monkeypatch.setattr(firing, "LEAST", 9)
    assert begun(fleet, 0.007) == [("claim_own", 7), ("claim", 7)]


def test_the_first_of_a_line_waits_as_well(fleet):
    assert begun(fleet, 0.0015, done=False) == [("claim_own", 2), ("claim", 2)]


def test_who_can_hold_no_more_waits_for_nothing(fleet):
    assert begun(fleet, 0.0015, done=False, full=True) == []


def test_it_does_not_wait_for_another(fleet):
    assert begun(fleet, 0.007, 0.009) == [("claim_own", 7), ("claim", 7)]


def test_it_waits_for_none_that_is_due_later(fleet, monkeypatch):
    """Two rows to claim at least, and eight to complete, take ten milliseconds."""
    monkeypatch.setattr(firing, "WAIT", 0.1)
    assert begun(fleet, 0.0105) == [("claim", 0)]


def test_it_waits_for_ten_milliseconds_at_most(fleet, monkeypatch):
    monkeypatch.setattr(firing, "WAIT", 0.005)
    assert begun(fleet, 0.0055) == [("claim", 0)]
