"""Rows written by others, and handlers that misbehave: nobody else is disturbed."""

from __future__ import annotations

import logging
import math
import time
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from liveness import (
    Done,
    Handler,
    Liveness,
    Outcome,
    Park,
    Rearm,
    Release,
    Retry,
    Settings,
    exceptions,
)
from tests.clock import SettableClock
from tests.fleet import Driven, Gate, Recorder, wait_until

# --- rows written by others -----------------------------------------------------------

ROW = {
    "kind": "timer",
    "key": "bad",
    "owner_id": None,
    "token": 5,
    "arm_token": 5,
    "epoch": 1,
    "state": "armed",
    "due_at": "2026-01-01 00:00:01.000000",
    "expires_at": "2026-01-01 00:00:01.000000",
    "attempts": 0,
    "max_attempts": 5,
    "payload": None,
    "created_at": "2026-01-01 00:00:00.000000",
    "updated_at": "2026-01-01 00:00:00.000000",
}


def write_row(driven, **changes):
    row = ROW | changes
    quoted = {"mariadb": "`{}`"}.get(driven.parts.database.backend, '"{}"')
    quoted = "`{}`" if driven.parts.database.backend == "mysql" else '"{}"'
    columns = ", ".join(quoted.format(name) for name in row)
    values = ", ".join(f":{name}" for name in row)
    with driven.connect() as connection:
        connection.execute(
            sa.text(f"INSERT INTO liveness_deadline ({columns}) VALUES ({values})"), row
        )


def state_of(driven, key="bad"):
    with driven.connect() as connection:
        table = sa.table("liveness_deadline", sa.column("key"), sa.column("state"))
        table.append_column(sa.column("last_error"))
        row = connection.execute(
            sa.select(table.c.state, table.c.last_error).where(table.c.key == key)
        ).one_or_none()
        return None if row is None else tuple(row)


def pass_over(driven, *rows, later=False):
    """Have an engine meet such rows among good ones, which are all handled; and, with
    ``later``, again and again for more than a lease: an owner without a row is taken
    for dead only then. Return the keys that a handler was called for."""
    for row in rows:
        write_row(driven, **row)
    write_row(driven, key="orphan")
    driven.live.arm("timer", "own", due_in=1)
    clock, settings = driven.parts._clock, driven.live.settings
    clock.advance(10)
    _turn(driven)
    keys = driven.live.handlers.get("timer").keys
    assert {"orphan", "own"} <= set(keys)
    assert state_of(driven, "orphan") is state_of(driven, "own") is None
    for _ in range(20 if later else 0):
        clock.advance(settings.beat_interval)
        driven.beat()
        _turn(driven)
    assert not driven.parts.loop._failing
    return driven.live.handlers.get("timer").keys


def _turn(driven):
    for _ in range(3):
        driven.turn()
        driven.settle()


PARKED = {
    "no JSON": ({"payload": "{nope"}, "not JSON"),
    "an empty payload": ({"payload": ""}, "not JSON"),
    "nested too deep": ({"payload": "[" * 100_000}, "not JSON"),
    "nested too deep, and closed": (
        {"payload": "[" * 100_000 + "]" * 100_000},
        "not JSON",
    ),
    "a number too long": ({"payload": "1" * 5000}, "not JSON"),
    "attempts beyond the maximum": ({"attempts": 99}, "99 attempts"),
    "attempts at the maximum": ({"attempts": 5}, "5 attempts"),
    "attempts at the end of numbers": ({"attempts": 2**31 - 1}, "attempts"),
    "no attempt at all": ({"max_attempts": 0}, "attempts"),
    "an epoch at the end of numbers": ({"epoch": 2**63 - 1}, "out of range"),
}


@pytest.mark.parametrize("owner", [None, "ghost", "me"])
def test_rows_that_cannot_be_handled_are_parked_and_no_others(driven, owner):
    owner = driven.id if owner == "me" else owner
    rows = [
        {"key": case, "owner_id": owner, **changes}
        for case, (changes, _) in PARKED.items()
    ]
    keys = pass_over(driven, *rows, later=owner == "ghost")
    for case, (_, word) in PARKED.items():
        state, reason = state_of(driven, case)
        assert (case, state) == (case, "parked")
        assert word in reason
        assert case not in keys


STRANGE = [
    {"owner_id": "ghost"},
    {"owner_id": ""},
    {"owner_id": "ghost", "state": "claimed", "attempts": 1},
    {"attempts": -5},
    {"token": -7},
    {"token": 2**63 - 1},
    {"payload": "NaN"},
    {"payload": '"\\ud800"'},
    {"payload": "[" * 500 + "]" * 500},
    {"due_at": "0001-01-01 00:00:00.000000"},
    {"state": "claimed", "owner_id": None},
]


def test_strange_rows_that_can_be_handled_are(driven):
    rows = [{"key": f"row {n}", **changes} for n, changes in enumerate(STRANGE)]
    rows += [{"key": "bad\nkey"}, {"key": " "}, {"key": "{}%s%n"}]
    keys = pass_over(driven, *rows, later=True)
    for row in rows:
        assert row["key"] in keys
        assert state_of(driven, row["key"]) is None


DATES = {
    "sqlite": (
        ["0001-01-01 00:00:00.000000", "", "-infinity", "0000-00-00", 5, 1.5],
        ["9999-12-31 23:59:59.999999", "infinity", "294276-12-31 23:59:59", b"\xff"],
    ),
    "mariadb": (["0000-00-00 00:00:00"], ["9999-12-31 23:59:59.999999"]),
    "postgresql": (
        ["-infinity", "4713-01-01 00:00:00 BC"],
        ["infinity", "294276-12-31 23:59:59"],
    ),
}


def test_dates_that_python_does_not_know_are_in_nobodys_way(driven, backend):
    """However they came there."""
    if backend == "mariadb":

        @sa.event.listens_for(driven.parts._pool, "connect")
        @sa.event.listens_for(driven.parts._sweep_pool, "connect")
        def anything_goes(connection, record):
            connection.cursor().execute("SET SESSION sql_mode = ''")

    past, future = (
        [{"key": f"due {when}", "due_at": when, "expires_at": when} for when in whens]
        for whens in DATES[backend]
    )
    for row in future:
        row["owner_id"] = driven.id
    keys = pass_over(driven, *past, *future, later=True)
    assert {row["key"] for row in past} <= set(keys)
    assert not {row["key"] for row in future} & set(keys)
    for row in past:
        assert state_of(driven, row["key"]) is None
    for row in future:
        assert driven.live.find("timer", row["key"]).state == "armed"


def test_a_state_that_nobody_here_knows_is_left_to_who_knows_it(driven):
    rows = [
        {"key": "nobody's", "state": "paused"},
        {"key": "a ghost's", "state": "paused", "owner_id": "ghost"},
        {"key": "mine", "state": "paused", "owner_id": driven.id},
        {"key": "long", "state": "x" * 16},
        {"key": "none", "state": ""},
    ]
    keys = pass_over(driven, *rows, later=True)
    assert set(keys) == {"orphan", "own"}
    for row in rows:
        assert state_of(driven, row["key"]) == (row["state"], None)
        assert driven.live.find("timer", row["key"]).state == row["state"]


def test_an_unknown_kind_is_left_to_others_for_the_grace_and_then_parked(driven):
    grace = driven.live.settings.unknown_kind_grace
    clock = driven.parts._clock
    pass_over(driven, {"kind": "martian"})  # due at 1 s, it is 10 s now
    assert state_of(driven) == ("armed", None)

    def turn_at(seconds):
        now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
        clock.advance((now - clock.utc).total_seconds())
        driven.beat()
        driven.turn()

    turn_at(1 + grace - 0.000001)
    assert state_of(driven) == ("armed", None)
    turn_at(1 + grace)
    state, reason = state_of(driven)
    assert state == "parked"
    assert "'martian'" in reason
    assert "install" in reason


def test_an_engine_that_knows_the_kind_takes_what_another_left(rows_url):
    clock = SettableClock()
    old = Driven(rows_url, clock, (Recorder(),))
    write_row(old, kind="martian")
    clock.advance(10)
    old.turn()
    assert state_of(old) == ("armed", None)
    recorder = Recorder("martian")
    new = Driven(rows_url, clock, (recorder,))
    new.turn()
    new.settle()
    assert recorder.keys == ["bad"]
    old.abandon()
    new.abandon()


# --- handlers -------------------------------------------------------------------------


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Invisible:
    def __repr__(self):
        raise RuntimeError("no picture")


TRIED_AGAIN = {
    "an exception": ValueError("why"),
    "no outcome": lambda deadline: 42,
    "the class of one": lambda deadline: Done,
    "what cannot be shown": lambda deadline: Invisible(),
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "GeneratorExit": GeneratorExit(),
    "a long exception": ValueError("😀" * 100_000),
    "an exception of several lines": ValueError("a\nb\n"),
    "an exception without words": Unspeakable(),
    "an exception with a surrogate": ValueError("a\udcffb"),
    "an exception with a NUL": ValueError("a\0b"),
    "a bare outcome": lambda deadline: Outcome(),
    "rearm in nan": lambda deadline: Rearm(math.nan),
    "rearm in inf": lambda deadline: Rearm(math.inf),
    "rearm in text": lambda deadline: Rearm("5"),
    "rearm in ages": lambda deadline: Rearm(10**400),
    "rearm before now": lambda deadline: Rearm(-5),
    "rearm when?": lambda deadline: Rearm(None),
    "retry in text": lambda deadline: Retry("why", "5"),
    "retry before now": lambda deadline: Retry("why", -5),
    "retry for no text": lambda deadline: Retry(5),
    "park for no text": lambda deadline: Park(5),
    "park for nothing": lambda deadline: Park(None),
    "release for no text": lambda deadline: Release(5),
}


def test_nonsense_of_handlers_is_a_retry_and_disturbs_no_other(driven, caplog):
    """All of it at once, so that each has the others behind it."""
    caplog.set_level(logging.CRITICAL)  # pytest-xdist cannot pass surrogates on
    recorders = {}
    for number, answer in enumerate(TRIED_AGAIN.values()):
        recorder = recorders[f"kind {number}"] = Recorder(f"kind {number}")
        recorder.answer = answer
        driven.live.add_handler(recorder)
        driven.live.arm(recorder.kind, "bad", due_in=1)
        driven.live.arm("timer", f"good {number}", due_in=1)
    driven.turn()
    driven.parts._clock.advance(1)
    for _ in range(8):
        driven.turn()
        driven.settle()
    good = driven.live.handlers.get("timer").keys
    assert sorted(good) == sorted(f"good {number}" for number in range(len(recorders)))
    assert driven.parts._settler.pending == 0
    for case, kind in zip(TRIED_AGAIN, recorders, strict=True):
        row = driven.live.find(kind, "bad")
        facts = row.state, row.attempts, row.owner_id
        assert (case, facts) == (case, ("armed", 1, driven.id))
        assert row.last_error
        assert row.last_error.isprintable() or "lines" in case
        recorders[kind].answer = None
    # Each is called again; one that was claimed before is claimed alone.
    driven.parts._clock.advance(driven.live.settings.backoff_max)
    driven.beat()
    for _ in range(len(recorders) + 3):
        driven.turn()
        driven.settle()
    left = [
        case
        for kind, case in zip(recorders, TRIED_AGAIN, strict=True)
        if driven.live.find(kind, "bad")
    ]
    assert left == []


def answered(driven, answer):
    """A deadline that is answered so."""
    recorder = driven.live.handlers.get("timer")
    driven.live.arm("timer", "bad", due_in=1)
    recorder.answer = answer
    driven.turn()
    driven.parts._clock.advance(1)
    driven.turn()
    driven.settle()
    assert driven.parts._settler.pending == 0
    return driven.live.find("timer", "bad")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (exceptions.Reject("why"), "why"),
        (lambda deadline: Park("why"), "why"),
        (lambda deadline: Park("x" * 5000), "x" * 2000),
        (lambda deadline: Park("é😀\n'\""), "é😀\n'\""),
        (lambda deadline: Park(""), None),
        (exceptions.Reject(5), "5"),
    ],
)
def test_a_handler_can_refuse_a_deadline_with_its_reason(driven, answer, reason):
    row = answered(driven, answer)
    assert (row.state, row.owner_id, row.last_error) == ("parked", None, reason)


@pytest.mark.parametrize("reason", ["a\0b", "a\ud800b"])
def test_a_reason_that_cannot_be_kept_is_kept_as_well_as_can_be(driven, reason):
    row = answered(driven, lambda deadline: Park(reason))
    assert row.state == "parked"
    assert row.last_error.startswith("a")
    assert row.last_error.endswith("b")


def test_a_handler_that_always_fails_is_parked_after_its_attempts(driven):
    recorder = driven.live.handlers.get("timer")
    recorder.answer = ValueError("why")
    driven.live.arm("timer", "bad", due_in=1, max_attempts=3)
    driven.turn()
    for attempt in range(1, 4):
        driven.parts._clock.advance(driven.live.settings.backoff_max)
        driven.beat()
        for _ in range(2):
            driven.turn()
            driven.settle()
        assert len(recorder.calls) == attempt
    row = driven.live.find("timer", "bad")
    assert (row.state, row.attempts) == ("parked", 3)
    assert "gave up after attempt 3" in row.last_error
    assert "ValueError: why" in row.last_error


def test_a_hung_handler_delays_no_other(driven):
    gate = Gate()
    hung = Recorder("hung", handler_timeout=5.0)
    hung.answer = gate
    driven.live.add_handler(hung)
    driven.live.arm("hung", "bad", due_in=1)
    driven.live.arm("timer", "own", due_in=2)
    driven.turn()
    driven.parts._clock.advance(2)
    driven.turn()
    assert gate.entered.wait(10)
    wait_until(lambda: driven.live.handlers.get("timer").keys == ["own"])
    driven.parts._clock.advance(5)
    driven.turn()
    row = driven.live.find("hung", "bad")
    assert (row.state, row.attempts) == ("armed", 1)
    assert "did not return in 5 s" in row.last_error
    gate.open.set()
    time.sleep(0)
    driven.turn()
    assert driven.live.find("hung", "bad") == row


@pytest.mark.parametrize(
    ("attributes", "word"),
    [
        ({"kind": ""}, "kind"),
        ({"kind": None}, "kind"),
        ({"kind": "x" * 65}, "64"),
        ({"kind": "é"}, "ASCII"),
        ({"when_orphaned": "explode"}, "when_orphaned"),
        ({"handler_timeout": -1}, "handler_timeout"),
        ({"handler_timeout": math.nan}, "handler_timeout"),
        ({"handler_timeout": "5"}, "handler_timeout"),
        ({"backoff_initial": math.inf}, "backoff_initial"),
        ({"backoff_max": True}, "backoff_max"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 1.5}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
    ],
)
def test_a_handler_that_cannot_work_is_refused(sqlite_url, attributes, word):
    live = Liveness(Settings.of(connection=sqlite_url))
    with pytest.raises(exceptions.ConfigError, match=word) as caught:
        live.add_handler(Recorder(**{"kind": "timer", **attributes}))
    assert "\n" not in str(caught.value)
    assert not live.handlers


@pytest.mark.parametrize("handler", [None, 5, object(), "timer", Handler])
def test_what_is_no_handler_is_refused(sqlite_url, handler):
    live = Liveness(Settings.of(connection=sqlite_url))
    with pytest.raises(exceptions.ConfigError):
        live.add_handler(handler)


def test_a_decorator_with_an_unknown_attribute_is_refused(sqlite_url):
    live = Liveness(Settings.of(connection=sqlite_url))
    with pytest.raises(exceptions.ConfigError, match="'timeout'"):
        live.handler("timer", timeout=5)(lambda deadline: None)
