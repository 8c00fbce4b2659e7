"""The history: what is recorded, what it costs, and that nothing waits for it."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from liveness import Done, Liveness, Park, Rearm, Release, Retry, Settings
from liveness.chronicle import PAUSE
from liveness.clock import Clock
from liveness.cmd import deadlines, history
from liveness.db import events as db_events
from liveness.db import migration, tables
from liveness.db.events import EventLog, Sought
from liveness.events import Event, What
from liveness.exceptions import SchemaTooOld
from tests.clock import SettableClock
from tests.commands import managed, one_line
from tests.fleet import Driven, Recorder
from tests.test_migrations import run


@pytest.fixture
def fleet(schema_url):
    yield from _fleet(schema_url)


@pytest.fixture
def lite(synced):
    yield from _fleet(synced)


def _fleet(url):
    """Makes engines on machines of their own, which share a clock."""
    clock, made = SettableClock(), []

    def engine(name, *kinds, **options):
        kinds = kinds or (
            Recorder("timer"),
            Recorder("action", when_orphaned="retrigger"),
        )
        options = {"engine_id": name, "machine": name, **options}
        made.append(Driven(url, clock, handlers=kinds, **options))
        return made[-1]

    engine.clock = clock
    yield engine
    for each in made:
        each.abandon()


def recorded(reader, **sought):
    with reader.connect() as connection:
        found = list(EventLog(Clock()).newest_first(connection, Sought(**sought)))
    return found[::-1]


def words(reader, **sought):
    return [event.what for event in recorded(reader, **sought)]


def silence(clock, *observers, victim_ttl=30.0):
    """Let so much time pass that the ``observers`` fence whoever has not beaten."""
    for _ in range(round(victim_ttl * 1.5 / 5)):
        clock.advance(5)
        for observer in observers:
            observer.beat()
            observer.turn()


# --- what is recorded -----------------------------------------------------------------


def test_a_takeover_is_told_with_who_was_fenced_by_whom_and_why(fleet):
    dead, heir = fleet("dead"), fleet("heir")
    for kind, key, due in (
        ("timer", "restarted", 600),
        ("timer", "expired", 36),
        ("action", "retriggered", 600),
    ):
        dead.live.arm(kind, key, due_in=due)
    dead.turn()
    silence(fleet.clock, heir)
    heir.settle()
    heir.turn()
    began, too, fence, *rest = recorded(heir)
    assert [began.engine_id, too.engine_id] == ["dead", "heir"]
    assert (began.what, too.what) == ("registered", "registered")
    assert (fence.what, fence.engine_id, fence.about_id) == ("fenced", "heir", "dead")
    assert "host dead" in fence.detail
    assert "silent for" in fence.detail
    taken = {event.key: event for event in rest[:3]}
    assert {key: event.what for key, event in taken.items()} == {
        "restarted": "restarted",
        "expired": "expired",
        "retriggered": "retriggered",
    }
    for event in taken.values():
        assert (event.engine_id, event.about_id, event.epoch) == ("heir", "dead", 2)
    done = {event.key: event.what for event in rest[3:]}
    assert done == {"expired": "completed", "retriggered": "completed"}


@pytest.mark.parametrize(
    ("answer", "what", "detail"),
    [
        (Done(), "completed", None),
        (Rearm(60), "rearmed", None),
        (Release("elsewhere"), "released", "elsewhere"),
        (Retry("no", 60), "retried", "no"),
        (Park("never"), "parked", "never"),
    ],
)
def test_what_comes_of_a_takeover_is_recorded(lite, answer, what, detail):
    dead = lite("dead")
    recorder = Recorder("action", when_orphaned="retrigger")
    recorder.answer = answer
    dead.live.arm("action", "k", due_in=600)
    with dead.connect() as connection:
        dead.parts.engines.resign(connection, "dead")
    heir = lite("heir", recorder)
    heir.turn()
    heir.settle()
    heir.turn()
    last = recorded(heir)[-1]
    if what == "released":  # and taken again at once, by the only one there is
        last = next(event for event in recorded(heir) if event.what == what)
    assert (last.what, last.key, last.detail) == (what, "k", detail)


def test_own_deadlines_in_their_time_are_recorded_only_when_asked_for(lite):
    quiet, chatty = lite("quiet"), lite("chatty", history="all")
    for engine in (quiet, chatty):
        engine.live.arm("timer", engine.id, due_in=0)
        engine.turn()
        engine.turn()
        engine.settle()
        engine.turn()
    assert words(quiet, engine="quiet") == ["registered"]
    assert words(chatty, engine="chatty") == ["registered", "fired", "completed"]


def test_an_own_failure_is_recorded_and_what_it_ends_in(lite):
    recorder = Recorder("timer", max_attempts=2)
    recorder.answer = ValueError("bad")
    engine = lite("engine", recorder)
    engine.live.arm("timer", "k", due_in=0)
    for _ in range(3):
        engine.turn()
        engine.settle()
        lite.clock.advance(10)
        engine.beat()
    engine.turn()
    assert words(engine) == ["registered", "retried", "parked"]
    assert "ValueError: bad" in recorded(engine)[-1].detail


def test_off_records_nothing(lite):
    dead, heir = lite("dead", history="off"), lite("heir", history="off")
    dead.live.arm("timer", "k", due_in=600)
    silence(lite.clock, heir)
    assert heir.row("dead").state == "fenced"
    assert recorded(heir) == []


def test_the_option_may_change_while_the_engine_runs(lite):
    import dataclasses

    engine = lite("engine", history="off")
    settings = dataclasses.replace(engine.live.settings, history="all")
    engine.parts.configure(settings)
    engine.live.arm("timer", "k", due_in=0)
    for _ in range(3):
        engine.turn()
        engine.settle()
    engine.turn()
    assert words(engine) == ["fired", "completed"]


def test_of_what_had_no_owner_the_claim_is_told_and_not_its_end(fleet):
    drained, heir = fleet("drained"), fleet("heir", Recorder("action"))
    heir.turn()
    drained.live.arm("action", "k", due_in=0.001)
    with drained.connect() as connection:
        drained.parts.deadlines.hand_back(connection, "drained", 10)
    fleet.clock.advance(1)
    for _ in range(2):
        heir.turn()
        heir.settle()
    heir.turn()
    assert heir.live.handlers.get("action").keys == ["k"]
    told = [event for event in recorded(heir) if event.key == "k"]
    assert [(event.what, event.detail) for event in told] == [
        ("expired", "it had no owner")
    ]


def test_an_overdue_deadline_of_a_living_owner_says_whose_it_was(lite):
    owner, other = lite("owner"), lite("other")
    owner.live.arm("timer", "k", due_in=1)
    lite.clock.advance(1 + 5 + 1)
    owner.beat()
    other.beat()
    other.turn()
    (event,) = recorded(other, kind="timer")
    assert (event.what, event.about_id) == ("expired", "owner")
    assert event.detail == "its owner let it lie"


def test_stopping_in_good_order_is_recorded_and_a_fence_is_not_a_stop(lite):
    first, second = lite("first"), lite("second")
    first.parts.drain(0.0)
    with second.connect() as connection:
        second.parts.engines.fence(connection, second.row(), None, "test")
    second.parts.drain(0.0)
    third = lite("third")
    third.turn()
    assert words(third, what=["stopped"], engine="first") == ["stopped"]
    assert words(third, what=["stopped"], engine="second") == []


def test_what_an_operator_does_is_recorded(synced, lite):
    engine = lite("engine")
    engine.live.arm("timer", "k", due_in=600)
    engine.live.arm("timer", "gone", due_in=600)
    url = ["--connection", synced, "--yes"]
    for argv in (
        ["deadline", "park", "timer", "k", "--reason", "why"],
        ["deadline", "retry", "timer", "k"],
        ["deadline", "disarm", "timer", "gone"],
        ["engine", "fence", "engine", "--force"],
    ):
        result = managed(*argv, *url)
        assert (result.code, result.err) == (0, "")
    found = recorded(engine)
    assert [event.what for event in found] == [
        "parked",
        "unparked",
        "disarmed",
        "fenced",
    ]
    assert {event.engine_id for event in found} == {None}
    assert all("operator " in event.detail for event in found)
    assert found[0].detail.endswith(": why")


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_each_of_many_that_an_operator_retries_is_recorded(
    synced, lite, monkeypatch, batch
):
    monkeypatch.setattr(deadlines, "BATCH", batch)
    engine = lite("engine")
    for n in range(3):
        engine.live.arm("timer", f"k{n}", due_in=600)
    run(synced, "UPDATE liveness_deadline SET state = 'parked', owner_id = NULL")
    result = managed("deadline", "retry", "--all", "--yes", "--connection", synced)
    assert (result.code, result.err) == (0, "")
    found = recorded(engine, what=["unparked"])
    assert [event.key for event in found] == ["k0", "k1", "k2"]


# --- what it costs --------------------------------------------------------------------


@contextlib.contextmanager
def statements(engine):
    """Those that ``engine`` sends in the block, by their first words."""
    sent = []

    def note(conn, cursor, statement, parameters, context, many):
        sent.append(" ".join(statement.split()[:3]))

    pool = engine.parts._sweep_pool
    sa.event.listen(pool, "before_cursor_execute", note)
    yield sent
    sa.event.remove(pool, "before_cursor_execute", note)


@pytest.mark.parametrize("count", [1, 20])
def test_a_takeover_costs_one_statement_more_however_many_rows(fleet, count):
    costs = {}
    for option in ("off", "recovery"):
        heir = fleet(f"heir-{option}", history=option, batch_size=100)
        heir.turn()
        dead = fleet(f"dead-{option}", history="off")
        for n in range(count):
            dead.live.arm("action", f"{option}-{n}", due_in=600)
        with dead.connect() as connection:
            dead.parts.engines.resign(connection, dead.id)
        with statements(heir) as sent:
            heir.turn()
        costs[option] = len(sent)
        heir.settle()
        heir.turn()
    assert costs["recovery"] == costs["off"] + 1


def test_each_of_many_that_are_adopted_is_told_as_its_row_is_afterwards(fleet, backend):
    heir, dead = fleet("heir"), fleet("dead", history="off")
    heir.turn()
    for key in ("a", "ä'%(x)s:y", "\U0001f600"):
        dead.live.arm("timer", key, due_in=600)
    with dead.connect() as connection:
        dead.parts.engines.resign(connection, dead.id)
    heir.turn()
    heir.turn()
    told = {event.key: event for event in recorded(heir, what=[What.RESTARTED])}
    with heir.connect() as connection:
        rows = connection.execute(sa.select(tables.deadline)).all()
    assert len(told) == len(rows) == 3
    for row in rows:
        event = told[row.key]
        assert (event.engine_id, event.about_id) == (heir.id, dead.id)
        assert (event.kind, event.epoch, event.attempts, event.detail) == (
            (row.kind, 2, 0, None)
        )
        assert row.owner_id == heir.id


def test_an_own_firing_costs_nothing(fleet):
    costs = {}
    for option in ("off", "recovery", "all"):
        engine = fleet(option, history=option)
        engine.turn()
        with statements(engine) as sent:
            for n in range(10):
                engine.live.arm("timer", f"{option}-{n}", due_in=0)
            engine.turn()
            engine.settle()
        costs[option] = len(sent)
        engine.turn()
    assert costs["off"] == costs["recovery"]
    assert costs["all"] <= costs["off"] + 1


def test_the_record_and_the_claim_are_one_transaction(fleet, backend):
    """On the databases where the claim is one."""
    if backend == "sqlite":
        pytest.skip("a claim is a single statement on SQLite")
    dead, heir = fleet("dead", history="off"), fleet("heir")
    heir.turn()
    dead.live.arm("action", "k", due_in=600)
    with dead.connect() as connection:
        dead.parts.engines.resign(connection, "dead")
    seen = []

    def look(conn, cursor, statement, parameters, context, many):
        if "INSERT INTO liveness_event" in statement:
            with dead.connect() as other:
                found = list(EventLog(Clock()).newest_first(other, Sought()))
                owner = dead.parts.deadlines.find(other, "action", "k").owner_id
            seen.append(([e.what for e in found], owner))

    pool = heir.parts._sweep_pool
    sa.event.listen(pool, "after_cursor_execute", look)
    heir.turn()
    sa.event.remove(pool, "after_cursor_execute", look)
    assert seen[0] == (["registered"], "dead")  # neither is seen before the commit
    assert words(heir)[-1] == "retriggered"


# --- nothing waits for it -------------------------------------------------------------


def test_a_takeover_goes_on_without_the_table_and_the_history_when_it_is_back(
    fleet, owned_url
):
    heir = fleet("heir")
    heir.turn()
    dead = fleet("dead", history="off")
    dead.live.arm("action", "k", due_in=600)
    with dead.connect() as connection:
        dead.parts.engines.resign(connection, "dead")
    run(owned_url, "ALTER TABLE liveness_event RENAME TO elsewhere")
    heir.turn()
    heir.turn()
    heir.settle()
    recorder = heir.live.handlers.get("action")
    assert recorder.keys == ["k"]
    run(owned_url, "ALTER TABLE elsewhere RENAME TO liveness_event")
    heir.turn()
    assert words(heir) == ["registered"]  # not before the pause is over
    for _ in range(14):
        fleet.clock.advance(PAUSE / 12)
        heir.beat()
        heir.turn()
    assert words(heir)[1:] == ["retriggered", "completed"]


def test_a_locked_table_is_no_reason_to_lose_events(fleet, backend):
    """A conflict passes: it is tried again in the next turn, without a pause."""
    heir = fleet("heir", database_timeout=0.3)
    chronicle = heir.parts.history

    class Conflict(sa.exc.OperationalError):
        pass

    add, calls = chronicle._log.add, []

    def conflict(connection, events):
        calls.append(events)
        if len(calls) == 1:
            raise Conflict("x", {}, Exception("(1213, 'Deadlock found')"))
        add(connection, events)

    chronicle._log.add = conflict
    heir.turn()
    assert words(heir) == ["registered"]
    assert len(calls) == 2


# --- reading and purging --------------------------------------------------------------


def written(url, *moments):
    """Events at those moments (seconds ago), in this order."""
    now = datetime.now(UTC).replace(tzinfo=None)
    engine = sa.create_engine(url)
    statement = sa.text(
        "INSERT INTO liveness_event (at, what, engine_id) VALUES (:at, 'fenced', :e)"
    )
    with engine.begin() as connection:
        for number, ago in enumerate(moments):
            at = now - timedelta(seconds=ago)
            connection.execute(statement, {"at": at, "e": f"e{number}"})
    engine.dispose()


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_reading_goes_back_through_every_window(fleet, monkeypatch, window):
    monkeypatch.setattr(db_events, "WINDOW", window)
    engine = fleet("engine", history="off")
    written(engine.live.settings.connection, 50, 40, 30, 20, 10)
    found = [event.engine_id for event in recorded(engine)]
    assert found == ["e0", "e1", "e2", "e3", "e4"]
    since = datetime.now(UTC) - timedelta(seconds=35)
    assert [event.engine_id for event in recorded(engine, since=since)] == [
        "e2",
        "e3",
        "e4",
    ]
    until = datetime.now(UTC) - timedelta(seconds=25)
    both = recorded(engine, since=since, until=until)
    assert [event.engine_id for event in both] == ["e2"]


def test_reading_stops_where_it_is_too_old(lite, monkeypatch):
    monkeypatch.setattr(db_events, "WINDOW", 2)
    engine = lite("engine", history="off")
    written(engine.live.settings.connection, *(5000 - n for n in range(20)), 2, 1)
    with engine.connect() as connection:
        sent = []
        sa.event.listen(
            connection.engine,
            "before_cursor_execute",
            lambda *args: sent.append(args[2]),
        )
        since = datetime.now(UTC) - timedelta(seconds=60)
        found = list(EventLog(Clock()).newest_first(connection, Sought(since=since)))
    assert len(found) == 2
    assert len(sent) == 2


def test_engines_purge_what_is_too_old_and_nothing_else(fleet):
    engine = fleet("engine", history_retention=60)
    url = engine.live.settings.connection
    now = datetime(2026, 1, 1, tzinfo=UTC)
    behind = (datetime.now(UTC) - now).total_seconds()
    written(url, *(behind + ago for ago in (100, 61, 59, 0)))
    engine.turn()
    left = [event.engine_id for event in recorded(engine)]
    assert left == ["e2", "e3", "engine"]


def test_a_purge_is_bounded_and_purges_on(synced, lite):
    engine = lite("engine", history="off")
    written(synced, *(5000 - n for n in range(7)))
    log = EventLog(Clock())
    with engine.connect() as connection:
        assert [log.purge(connection, 60, 3) for _ in range(4)] == [3, 3, 1, 0]
    written(synced, 8 * 86400, 6 * 86400)
    result = managed("purge", "--yes", "--connection", synced)
    assert result.out.endswith(" and 1 events are deleted.\n")


def test_every_database_keeps_a_detail_that_is_too_long_or_hostile(fleet):
    engine = fleet("engine", history="off")
    hostile = "a\0b\udcffc\n\x1b[2J" + "ä" * 600
    with engine.connect() as connection:
        EventLog(Clock()).add(connection, [Event(What.PARKED, "e", detail=hostile)])
    (event,) = recorded(engine)
    assert event.detail.startswith("a\\0b\\udcffc\n\x1b[2J")
    assert len(event.detail) == 500


# --- the command ----------------------------------------------------------------------


def test_why_did_my_stack_restart(fleet, backend):
    dead, heir = fleet("dead"), fleet("heir")
    dead.live.arm("action", "web-1", due_in=600)
    dead.live.arm("action", "other", due_in=600)
    silence(fleet.clock, heir)
    heir.settle()
    heir.turn()
    url = heir.live.settings.connection
    argv = ["history", "--key", "web-1", "--connection", url, "-f", "json"]
    result = managed(*argv)
    assert (result.code, result.err) == (0, "")
    rows = json.loads(result.out)
    assert [(r["what"], r["by"], r["subject"], r["from"]) for r in rows] == [
        ("fenced", "heir", "engine dead", None),
        ("retriggered", "heir", "action/web-1", "dead"),
        ("completed", "heir", "action/web-1", None),
    ]
    assert "silent for" in rows[0]["detail"]
    assert json.loads(managed(*argv, "--kind", "timer").out) == []


def test_every_filter_of_the_history_chooses(synced, lite):
    engine = lite("engine", history="off")
    log = EventLog(Clock())
    with engine.connect() as connection:
        for event in (
            Event(What.REGISTERED, "aa1", "aa1"),
            Event(What.FENCED, "aa2", "aa1"),
            Event(What.RETRIED, "bb1", None, "timer", "k"),
            Event(What.PARKED, None, None, "action", "k"),
        ):
            log.add(connection, [event])

    def found(*argv):
        argv = ["history", "--connection", synced, "-f", "json", *argv]
        return [row["what"] for row in json.loads(managed(*argv).out)]

    assert found() == ["registered", "fenced", "retried", "parked"]
    assert found("--engine", "aa1") == ["registered", "fenced"]
    assert found("--engine", "aa") == ["registered", "fenced"]
    assert found("--engine", "bb1") == ["retried"]
    assert found("--kind", "timer") == ["retried"]
    assert found("--key", "k", "--kind", "action") == ["parked"]
    assert found("--what", "parked", "--what", "fenced") == ["fenced", "parked"]
    assert found("--limit", "2") == ["retried", "parked"]
    assert found("--since", "1h") == found()
    assert found("--until", "1h") == []
    assert found("--until", "2100-01-01") == found()


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("90", timedelta(seconds=90)),
        ("1.5h", timedelta(hours=1.5)),
        ("7d", timedelta(days=7)),
        ("2026-11-24T03:12", datetime(2026, 11, 24, 3, 12, tzinfo=UTC)),
        ("2026-11-24T03:12+02:00", datetime(2026, 11, 24, 1, 12, tzinfo=UTC)),
    ],
)
def test_a_moment_may_be_said_in_several_ways(text, means):
    assert history.when(text) == means


@pytest.mark.parametrize("text", ["soon", "1y", "-1h", "2026-13-01", "9999-01-01", ""])
def test_what_is_no_moment_is_one_line(synced, text):
    said = one_line(managed("history", f"--since={text}", "--connection", synced))
    assert "moment" in said


# --- two releases ---------------------------------------------------------------------


def test_an_engine_is_refused_on_the_schema_before_and_told_what_to_do(database_url):
    migration.sync(database_url, "1.0")
    live = Liveness(Settings.of(connection=database_url))
    with pytest.raises(SchemaTooOld, match="db sync"):
        live.start()


def test_an_engine_of_1_0_goes_on_while_the_schema_is_brought_to_1_1(database_url):
    """It knows neither the table nor the option, which is the same as off."""
    migration.sync(database_url, "1.0")
    engine = Driven(database_url, handlers=(Recorder("timer"),), history="off")
    engine.live.arm("timer", "k", due_in=0)
    migration.sync(database_url)
    engine.turn()
    engine.turn()
    engine.settle()
    assert engine.live.handlers.get("timer").keys == ["k"]
    assert engine.beat()
    engine.parts.drain(0.0)
    assert migration.differences(database_url) == []


def test_the_new_table_is_all_that_1_1_adds(database_url):
    def columns():
        engine = sa.create_engine(database_url)
        inspector = sa.inspect(engine)
        found = {
            table: sorted(
                (c["name"], str(c["type"])) for c in inspector.get_columns(table)
            )
            for table in inspector.get_table_names()
        }
        engine.dispose()
        return found

    migration.sync(database_url, "1.0")
    before = columns()
    migration.sync(database_url)
    after = columns()
    assert after.keys() - before.keys() == {"liveness_event"}
    assert {table: after[table] for table in before} == before
