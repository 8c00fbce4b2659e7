"""What the host program does with its deadlines, and what it learns."""

import pytest
import sqlalchemy as sa

from liveness import Arm, Liveness, Settings, exceptions
from liveness.db import tables
from liveness.db.rows import new_token
from tests.fleet import Gate, Recorder, wait_until
from tests.rules.faults import Away, Fault, Lost, Meanwhile

D, E = tables.deadline, tables.engine
HOUR = 3600.0
ALWAYS = 4  # tries of one call, with the database away for all of them


class Broken(Exception):
    """Of the block."""


# --- guard: how the block may end ---------------------------------------------


def test_a_guard_is_armed_in_the_block_and_gone_after_it(every_fleet):
    fleet = every_fleet
    engine = fleet()
    with engine.live.guard("timer", "k", due_in=60, payload=[1]) as guard:
        row = fleet.row("k")
        assert (row.state, row.owner_id) == ("armed", engine.id)
        assert guard.deadline.payload == [1]
        guard.check()
    assert fleet.rows() == []
    assert not engine.parts.owner.guards


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt, SystemExit])
def test_a_block_that_ends_by_an_exception_ends_all_the_same(fleet, error):
    engine = fleet()
    with pytest.raises(error), engine.live.guard("timer", "k", due_in=60):
        raise error
    assert fleet.rows() == []
    assert not engine.parts.owner.guards


def test_what_is_already_armed_does_not_begin(fleet):
    engine = fleet()
    engine.live.arm("timer", "k", due_in=60)
    with (
        pytest.raises(exceptions.AlreadyArmed),
        engine.live.guard("timer", "k", due_in=60),
    ):
        raise AssertionError("the block must not run")
    assert fleet.row("k").state == "armed"
    assert not engine.parts.owner.guards


def test_a_guard_of_a_fenced_engine_is_left_to_the_others(fleet):
    engine = fleet()
    with (
        pytest.raises(exceptions.Fenced),
        engine.live.guard("timer", "k", due_in=60) as guard,
    ):
        fleet.bury(engine)
        engine.beat()
        with pytest.raises(exceptions.Fenced):
            guard.check()
    assert fleet.row("k").state == "armed"


def test_the_error_of_the_block_goes_before_that_of_the_guard(fleet):
    engine = fleet()
    with pytest.raises(Broken), engine.live.guard("timer", "k", due_in=60):
        fleet.bury(engine)
        engine.beat()
        raise Broken
    with pytest.raises(Broken), fleet().live.guard("timer", "l", due_in=60):
        fleet.execute(sa.update(D).values(token=new_token()))
        raise Broken


def test_a_suspended_engine_may_still_end_what_it_began(fleet):
    """The token guards the write: if others had it, it would change nothing."""
    engine = fleet()
    with engine.live.guard("timer", "k", due_in=HOUR) as guard:
        fleet.clock.advance(60)
        with pytest.raises(exceptions.Suspended):
            guard.check()
    assert fleet.rows() == []


def test_a_block_cut_short_because_it_may_not_go_on_stays_armed(fleet):
    """Its work is not done: whoever has the deadline when it is due does it."""
    timer = Recorder()
    engine = fleet(timer)
    with (
        pytest.raises(exceptions.Suspended),
        engine.live.guard("timer", "k", due_in=60) as guard,
    ):
        fleet.clock.advance(30)
        guard.check()
    assert fleet.row("k").state == "armed"
    assert not engine.parts.owner.guards
    fleet.live(34, engine)
    engine.settle()
    assert timer.keys == ["k"]


def test_a_guard_that_others_took_over_says_so_at_the_end(every_fleet):
    fleet = every_fleet
    engine, survivor = fleet(), fleet()
    with (
        pytest.raises(exceptions.StaleDeadline),
        engine.live.guard("timer", "k", due_in=HOUR),
    ):
        fleet.bury(engine)
        survivor.turn()
    assert fleet.row("k").owner_id == survivor.id


@pytest.mark.parametrize("ends_by", ["return", "exception"])
def test_with_the_database_away_at_the_end_it_is_disarmed_later(fleet, ends_by, caplog):
    engine = fleet()
    Fault(engine.parts.deadlines, "complete", before=ALWAYS + 1)
    if ends_by == "return":
        with engine.live.guard("timer", "k", due_in=60):
            pass
    else:
        with pytest.raises(Broken), engine.live.guard("timer", "k", due_in=60):
            raise Broken
    assert "could not be disarmed" in caplog.text
    assert fleet.row("k") is not None
    engine.turn()
    assert fleet.row("k") is not None
    engine.turn()
    assert fleet.rows() == []


def test_what_is_to_be_disarmed_later_does_not_fire_first(fleet):
    timer = Recorder()
    engine = fleet(timer)
    engine.turn()
    Fault(engine.parts.deadlines, "complete", before=ALWAYS)
    with engine.live.guard("timer", "k", due_in=1):
        pass
    fleet.clock.advance(2)
    engine.turn()
    engine.settle()
    assert timer.calls == []
    assert fleet.rows() == []


def test_an_answer_lost_at_the_end_is_no_reason_to_complain(fleet, caplog):
    engine = fleet()
    Fault(engine.parts.deadlines, "complete", after=ALWAYS)
    with engine.live.guard("timer", "k", due_in=60):
        pass
    assert fleet.rows() == []
    engine.turn()
    assert engine.parts._settler.pending == 0


# --- guard: what it learns in the middle --------------------------------------


def test_a_guard_whose_time_is_up_is_told(fleet):
    gate, timer = Gate(), Recorder()
    timer.answer = gate
    engine = fleet(timer)
    engine.turn()
    with (
        pytest.raises(exceptions.StaleDeadline),
        engine.live.guard("timer", "k", due_in=1) as guard,
    ):
        guard.check()
        fleet.clock.advance(1)
        engine.turn()
        assert gate.entered.wait(10)
        with pytest.raises(exceptions.StaleDeadline):
            guard.check()
        gate.open.set()
        engine.settle()
        with pytest.raises(exceptions.StaleDeadline):
            guard.check()


def test_a_guard_whose_time_was_up_stays_so(fleet):
    timer = Recorder()
    engine = fleet(timer)
    engine.turn()
    with (
        pytest.raises(exceptions.StaleDeadline),
        engine.live.guard("timer", "k", due_in=1) as guard,
    ):
        fleet.clock.advance(1)
        engine.turn()
        engine.settle()
        assert timer.keys == ["k"]
        with pytest.raises(exceptions.StaleDeadline):
            guard.check()


def test_a_guard_is_told_in_time_although_its_engines_loop_is_late(fleet):
    # The loop that would claim it does not come round; another engine claims it.
    engine, other = fleet(), fleet()
    for each in (engine, other):
        each.beat()
        each.turn()
    with (
        pytest.raises(exceptions.StaleDeadline),
        engine.live.guard("timer", "k", due_in=1) as guard,
    ):
        fleet.clock.advance(0.999)
        guard.check()
        fleet.clock.advance(0.001)
        with pytest.raises(exceptions.StaleDeadline):
            guard.check()
        for _ in range(5):
            fleet.clock.advance(1.5)
            engine.beat()
            other.beat()
            other.turn()
        other.settle()
        assert fleet.rows() == []  # its handler has run elsewhere
        assert engine.live.trusted
        guard.check()


def test_a_guard_may_be_given_more_time(every_fleet):
    fleet, timer = every_fleet, Recorder()
    engine = fleet(timer)
    engine.turn()
    with engine.live.guard("timer", "k", due_in=1) as guard:
        before = guard.deadline
        guard.extend(due_in=10)
        assert guard.deadline.token != before.token
        for _ in range(9):
            fleet.live(1, engine)
        guard.check()
        assert timer.calls == []
    assert fleet.rows() == []


@pytest.mark.parametrize("lost", [1, ALWAYS])
@pytest.mark.parametrize("ends_by", ["return", "exception"])
def test_an_extension_whose_answer_was_lost_leaves_nothing_behind(fleet, lost, ends_by):
    engine = fleet()
    Fault(engine.parts.deadlines, "extend", after=lost)

    def work():
        with engine.live.guard("timer", "k", due_in=60) as guard:
            try:
                guard.extend(due_in=HOUR)
            except exceptions.DatabaseError:
                if ends_by == "exception":
                    raise

    if ends_by == "exception" and lost == ALWAYS:
        with pytest.raises(exceptions.DatabaseError):
            work()
    else:
        work()
    assert fleet.rows() == []


def test_an_extension_that_was_never_sent_leaves_nothing_behind(fleet):
    engine = fleet()
    Fault(engine.parts.deadlines, "extend", before=ALWAYS)
    with (
        pytest.raises(exceptions.DatabaseError),
        engine.live.guard("timer", "k", due_in=60) as guard,
    ):
        guard.extend(due_in=HOUR)
    assert fleet.rows() == []


def test_an_outage_from_the_extension_to_the_end_leaves_nothing_behind(fleet):
    engine = fleet()
    Fault(engine.parts.deadlines, "extend", after=ALWAYS)
    Fault(engine.parts.deadlines, "complete", before=2 * ALWAYS)
    with (
        pytest.raises(exceptions.DatabaseError),
        engine.live.guard("timer", "k", due_in=60) as guard,
    ):
        guard.extend(due_in=HOUR)
    for _ in range(6):
        engine.turn()
    assert fleet.rows() == []


def test_a_fence_met_at_the_end_of_a_guard_is_told(fleet):
    """The database is away at the end, and somebody has fenced this engine meanwhile:
    what it had is others', and nothing here will disarm it later."""
    engine = fleet()

    def complete(*args, **kwargs):
        engine.parts.heart.fenced("for the test")
        raise Away

    engine.parts.deadlines.complete = complete
    with (
        pytest.raises(exceptions.Fenced),
        engine.live.guard("timer", "k", due_in=60),
    ):
        pass
    assert not engine.parts._settler.pending


# --- extend, disarm: an older value changes nothing ---------------------------


def stale_values(fleet, engine):
    """Values of rows that have moved on: extended, claimed, gone, taken."""
    arm = engine.live.arm
    extended = arm("timer", "extended", due_in=60)
    engine.live.extend(extended, due_in=90)
    gone = arm("timer", "gone", due_in=60)
    engine.live.disarm(gone)
    again = arm("timer", "again", due_in=60)
    engine.live.disarm(again)
    arm("timer", "again", due_in=60)
    taken = arm("timer", "taken", due_in=60)
    row = D.c.key == "taken"
    other = {"owner_id": "other", "token": new_token()}
    fleet.execute(sa.update(D).where(row).values(**other))
    return extended, gone, again, taken


@pytest.mark.parametrize("method", ["extend", "disarm"])
def test_a_value_that_has_moved_on_changes_nothing(every_fleet, method):
    fleet = every_fleet
    engine = fleet()
    values = stale_values(fleet, engine)
    before = fleet.rows()
    for value in values:
        with pytest.raises(exceptions.StaleDeadline, match="moved on"):
            if method == "extend":
                engine.live.extend(value, due_in=5)
            else:
                engine.live.disarm(value)
    assert fleet.rows() == before


def test_what_a_handler_has_cannot_be_extended(fleet):
    gate, timer = Gate(), Recorder()
    timer.answer = gate
    engine = fleet(timer)
    engine.turn()
    armed = engine.live.arm("timer", "k", due_in=1)
    fleet.clock.advance(1)
    engine.turn()
    assert gate.entered.wait(10)
    before = fleet.rows()
    for value in (armed, timer.calls[0][1]):
        with pytest.raises(exceptions.StaleDeadline):
            engine.live.extend(value, due_in=5)
    assert fleet.rows() == before
    gate.open.set()


@pytest.mark.parametrize("name", ["arm", "extend", "complete"])
def test_one_lost_answer_is_nobodys_business(every_fleet, name):
    fleet = every_fleet
    engine = fleet()
    Fault(engine.parts.deadlines, name, after=2)
    value = engine.live.arm("timer", "k", due_in=60)
    value = engine.live.extend(value, due_in=90)
    row = fleet.row("k")
    assert (row.token, row.due_at) == (value.token, value.due_at)
    engine.live.disarm(value)
    assert fleet.rows() == []


@pytest.mark.parametrize("many", [False, True])
def test_an_arm_whose_answer_was_lost_is_not_armed_again_when_it_may_be_done(
    fleet, many
):
    # Armed, the answer is lost; it comes due, and is handled; and only then is it
    # tried again.
    timer = Recorder()
    engine, other = fleet(timer), fleet(timer)
    for each in (engine, other):
        each.turn()

    def handled():
        for _ in range(5):
            fleet.clock.advance(2)
            engine.beat()
            other.beat()
            other.turn()
        other.settle()

    name = "arm_many" if many else "arm"
    target = engine.parts.deadlines
    Meanwhile(target, name, handled, before=False)
    Fault(target, name, after=1)
    with pytest.raises(exceptions.DatabaseError, match="handled since"):
        if many:
            engine.live.arm_many([Arm("timer", "k", due_in=3)])
        else:
            engine.live.arm("timer", "k", due_in=3)
    assert timer.keys == ["k"]
    assert fleet.rows() == []


@pytest.mark.parametrize("due", [5.0, 5.1])
def test_an_arm_that_never_arrived_is_sent_again_while_it_cannot_be_done(fleet, due):
    # One statement may take 5 seconds.
    engine = fleet()
    arm = Fault(engine.parts.deadlines, "arm", before=1)
    if due > 5:
        engine.live.arm("timer", "k", due_in=due)
        assert len(fleet.rows()) == 1 and arm.calls == 2
    else:
        with pytest.raises(exceptions.DatabaseError, match="never"):
            engine.live.arm("timer", "k", due_in=due)
        assert fleet.rows() == [] and arm.calls == 1


def test_an_arm_that_was_refused_for_a_conflict_is_sent_again(fleet):
    engine = fleet()
    arm = Fault(engine.parts.deadlines, "arm", before=2, error=Lost)
    engine.live.arm("timer", "k", due_in=0)
    assert len(fleet.rows()) == 1 and arm.calls == 3


def test_many_armed_at_once_survive_a_lost_answer(every_fleet):
    fleet = every_fleet
    engine = fleet()
    Fault(engine.parts.deadlines, "arm_many", after=1)
    values = engine.live.arm_many([Arm("timer", f"k{n}", due_in=60) for n in range(3)])
    assert [value.key for value in values] == ["k0", "k1", "k2"]
    assert {row.token for row in fleet.rows()} == {value.token for value in values}


# --- adopt --------------------------------------------------------------------


def test_what_a_living_owner_has_cannot_be_adopted(every_fleet):
    fleet = every_fleet
    owner, engine = fleet(), fleet()
    owner.live.arm("timer", "k", due_in=60)
    before = fleet.rows()
    with pytest.raises(exceptions.NotOrphaned, match=f"its owner {owner.id} is alive"):
        engine.live.adopt("timer", "k")
    with pytest.raises(exceptions.NotOrphaned):
        owner.live.adopt("timer", "k")
    assert fleet.rows() == before


@pytest.mark.parametrize("how", ["fenced", "stopped", "missing", "released"])
def test_an_orphan_can_be_adopted_by_hand(every_fleet, how):
    fleet, action = every_fleet, Recorder("action", when_orphaned="retrigger")
    owner, engine = fleet(action), fleet(action)
    armed = owner.live.arm("action", "k", due_in=60, payload="p")
    if how == "missing":
        fleet.execute(sa.delete(E).where(E.c.id == owner.id))
    elif how == "released":
        fleet.execute(sa.update(D).values(owner_id=None))
    else:
        ended = {"state": how, "ended_at": fleet.clock.utc}
        fleet.execute(sa.update(E).where(E.c.id == owner.id).values(**ended))
    value = engine.live.adopt("action", "k")
    assert (value.owner_id, value.due_at, value.payload) == (
        engine.id,
        armed.due_at,
        "p",
    )
    assert action.calls == []
    engine.turn()
    assert action.calls == []
    engine.live.disarm(value)
    assert fleet.rows() == []


def test_only_one_can_adopt(fleet):
    owner, one, two = fleet(), fleet(), fleet()
    owner.live.arm("timer", "k", due_in=60)
    fleet.bury(owner)
    adopted = []
    Meanwhile(
        one.parts._claims,
        "adopt_orphans",
        lambda: adopted.append(two.live.adopt("timer", "k")),
    )
    with pytest.raises(exceptions.NotOrphaned):
        one.live.adopt("timer", "k")
    assert fleet.row("k").token == adopted[0].token


def test_an_adoption_whose_answer_was_lost_is_an_adoption(every_fleet):
    fleet = every_fleet
    owner, engine = fleet(), fleet()
    owner.live.arm("timer", "k", due_in=60)
    fleet.bury(owner)
    Fault(engine.parts._claims, "adopt_orphans", after=2)
    value = engine.live.adopt("timer", "k")
    assert fleet.row("k").token == value.token
    engine.live.disarm(value)


@pytest.mark.parametrize("state", ["claimed", "parked"])
def test_what_is_not_armed_cannot_be_adopted(fleet, state):
    owner, engine = fleet(), fleet()
    owner.live.arm("timer", "k", due_in=60)
    fleet.bury(owner)
    fleet.execute(sa.update(D).values(state=state))
    with pytest.raises(exceptions.DeadlineError, match=f"it is {state}, not armed"):
        engine.live.adopt("timer", "k")
    with pytest.raises(exceptions.NoSuchDeadline):
        engine.live.adopt("timer", "nothing")


# --- trust: what it takes to begin something ----------------------------------


def calls(live):
    value = live.arm("timer", "k", due_in=HOUR)

    def guard():
        with live.guard("timer", "other", due_in=5):
            raise AssertionError("the block must not run")

    return {
        "arm": lambda: live.arm("timer", "other", due_in=5),
        "arm_many": lambda: live.arm_many([Arm("timer", "other", due_in=5)]),
        "extend": lambda: live.extend(value, due_in=5),
        "adopt": lambda: live.adopt("timer", "k"),
        "guard": guard,
        "check": live.check,
        "disarm": lambda: live.disarm(value),
        "find": lambda: live.find("timer", "k"),
        "parked": live.parked,
        "unpark": lambda: live.unpark("timer", "k"),
    }


NAMES = sorted(
    "arm arm_many extend adopt guard check disarm find parked unpark".split()
)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"check"}))
def test_before_the_start_it_says_so(name, quick_url):
    live = Liveness(Settings.of(connection=quick_url))
    with pytest.raises(exceptions.NotRunning, match="start it first"):
        getattr(live, name)
    with pytest.raises(exceptions.NotRunning):
        live.check()
    with pytest.raises(exceptions.NotRunning):
        _ = live.engine_id
    assert not live.trusted


@pytest.mark.parametrize("name", NAMES)
def test_after_the_stop_it_says_so_and_opens_nothing(fleet, name):
    engine = fleet()
    call = calls(engine.live)[name]
    engine.trust.drop()
    before = fleet.rows()
    opened = Fault(engine.parts._pool, "connect")
    with pytest.raises(exceptions.NotRunning):
        call()
    assert opened.calls == 0
    assert fleet.rows() == before


@pytest.mark.parametrize("name", ["arm", "arm_many", "extend", "adopt", "guard"])
def test_while_suspended_nothing_is_begun(fleet, name):
    engine = fleet()
    call = calls(engine.live)[name]
    before = fleet.rows()
    fleet.clock.advance(29 - 1e-6)
    engine.live.check()
    fleet.clock.advance(1e-6)
    with pytest.raises(exceptions.Suspended):
        call()
    assert fleet.rows() == before


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"find", "parked", "unpark"}))
def test_once_fenced_nothing_is_begun_or_ended(fleet, name):
    engine = fleet()
    call = calls(engine.live)[name]
    before = fleet.rows()
    fleet.bury(engine)
    engine.beat()
    with pytest.raises(exceptions.Fenced):
        call()
    assert fleet.rows() == before


# --- in the caller's transaction ----------------------------------------------


def test_what_the_hosts_transaction_takes_back_never_was(every_fleet):
    fleet, timer = every_fleet, Recorder()
    engine = fleet(timer)
    engine.turn()
    host = sa.create_engine(fleet.url)
    with host.connect() as connection:
        engine.live.arm("timer", "back", due_in=1, connection=connection)
        connection.rollback()
    with host.begin() as connection:
        engine.live.arm("timer", "kept", due_in=1, connection=connection)
    host.dispose()
    assert [row.key for row in fleet.rows()] == ["kept"]
    for _ in range(3):
        fleet.live(2, engine)
        wait_until(lambda: not engine.unanswered)
    engine.settle()
    assert timer.keys == ["kept"]


def test_a_deadline_that_commits_after_it_was_due_fires_all_the_same(every_fleet):
    """The hint came to nothing several times; the next sweep finds the row."""
    fleet, timer = every_fleet, Recorder()
    if fleet.url.startswith("sqlite"):
        pytest.skip("there nothing else can be written meanwhile")
    engine = fleet(timer)
    engine.turn()
    host = sa.create_engine(fleet.url)
    with host.begin() as connection:
        engine.live.arm("timer", "k", due_in=1, connection=connection)
        for _ in range(3):
            fleet.live(2, engine)
        assert timer.calls == []
    host.dispose()
    fleet.live(4, engine)
    engine.turn()
    engine.settle()
    assert timer.keys == ["k"]
