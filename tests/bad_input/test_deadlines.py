"""Ids and deadlines that nobody should ask for: one clear line, nothing lost.

What does not reach the database is tried on SQLite alone.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from liveness import Arm, Liveness, Settings, exceptions
from liveness.db import migration
from tests.clock import SettableClock
from tests.fleet import Driven, Recorder
from tests.test_migrations import run

# --- engine ids ---------------------------------------------------------------------


def test_a_second_program_with_the_same_id_is_refused_and_the_first_goes_on(rows_url):
    first = Driven(rows_url, handlers=(Recorder(),), engine_id="one")
    first.live.arm("timer", "k", due_in=60)
    second = Liveness(Settings.of(connection=rows_url))
    with pytest.raises(exceptions.EngineIdTaken) as caught:
        second.start("one")
    assert "'" not in str(caught.value)
    for word in ("Engine id one", "host", "pid", "new id"):
        assert word in str(caught.value)
    assert not second.trusted
    assert first.beat()
    assert first.row().state == "live"
    assert first.live.find("timer", "k").owner_id == "one"
    first.abandon()


def test_the_id_of_a_stopped_engine_is_not_given_out_again(rows_url):
    live = Liveness(Settings.of(connection=rows_url))
    live.start("one")
    live.stop()
    with pytest.raises(exceptions.EngineIdTaken):
        Liveness(Settings.of(connection=rows_url)).start("one")
    rows = run(rows_url, "SELECT id, state FROM liveness_engine")
    assert rows == [[("one", "stopped")]]


@pytest.mark.parametrize(
    "bad", ["", " x", "x ", "x" * 65, "é", "a\nb", "x\0", "\ud800", 5, b"x", True]
)
def test_an_engine_id_that_cannot_be_kept_is_refused(sqlite_url, bad):
    migration.sync(sqlite_url)
    with pytest.raises(exceptions.ConfigError, match="engine id") as caught:
        Liveness(Settings.of(connection=sqlite_url)).start(bad)
    assert "\n" not in str(caught.value)
    assert run(sqlite_url, "SELECT * FROM liveness_engine") == [[]]


@pytest.mark.parametrize("good", ["x", "x" * 64, "host:1 (a)"])
def test_an_engine_id_at_its_bounds_is_good(rows_url, good):
    driven = Driven(rows_url, engine_id=good)
    assert driven.row().id == good
    driven.abandon()


# --- what is armed ------------------------------------------------------------------


def not_written(driven, error=exceptions.InvalidDeadline, kind="timer", key="k", **arm):
    """The one line with which arming is refused; no row, and the engine goes on."""
    arm = {"due_in": 1} | arm
    texts = []
    for call in (
        lambda: driven.live.arm(kind, key, **arm),
        lambda: driven.live.arm_many([Arm("timer", "ok", 1), Arm(kind, key, **arm)]),
        lambda: driven.live.guard(kind, key, **arm).__enter__(),
    ):
        with pytest.raises(error) as caught:
            call()
        texts.append(str(caught.value))
        assert "\n" not in texts[-1]
        assert texts[-1].isprintable()
    assert len(set(texts)) == 1
    with driven.connect() as connection:
        assert driven.parts.deadlines.counts(connection) == {}
    driven.live.disarm(driven.live.arm("timer", "good", due_in=1))
    return texts[0]


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("", "not empty"),
        (None, "None"),
        (5, "5"),
        (b"a", "b'a'"),
        (["a"], "['a']"),
        ("x" * 256, "256 characters, more than 255"),
        ("a ", "white space"),
        (" a", "white space"),
        ("a\n", "white space"),
        ("a\nb", "printed"),
        ("a\0b", "printed"),
        ("\ud800", "printed"),
        ("a\u200d", "printed"),
        ("a\u202eb", "printed"),
        ("a\u00a0b", "printed"),
        ("\ufdd0", "printed"),
    ],
)
def test_a_key_that_cannot_be_kept_is_refused(local, key, word):
    assert word in not_written(local, key=key)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("", "not empty"),
        (None, "None"),
        (5, "5"),
        ("x" * 65, "64"),
        ("zeit", "zeit"),
        ("é", "ASCII"),
        ("a\n", "ASCII"),
        (" timer", "space"),
        ("timer\0", "ASCII"),
    ],
)
def test_a_kind_that_cannot_be_kept_is_refused(local, kind, word):
    error = exceptions.UnknownKind if kind == "zeit" else exceptions.InvalidDeadline
    assert word in not_written(local, error, kind=kind)


def test_an_unknown_kind_is_refused_with_those_there_are(local):
    text = not_written(local, exceptions.UnknownKind, kind="martian")
    assert "'martian'" in text
    assert "timer" in text


HUGE = 10**400


@pytest.mark.parametrize(
    "due_in",
    [
        -1,
        -1e-9,
        math.nan,
        math.inf,
        -math.inf,
        1e300,
        HUGE,
        10 * 366 * 86400 + 1,
        True,
        False,
        "5",
        [],
        1 + 2j,
        timedelta(microseconds=-1),
        timedelta.max,
    ],
)
def test_a_duration_that_cannot_be_meant_is_refused(local, due_in):
    text = not_written(local, due_in=due_in)
    assert "due_in must be" in text


@pytest.mark.parametrize("due_in", [0, -0.0, 1e-9, 5, timedelta(seconds=5), 3.16224e8])
def test_a_duration_within_bounds_is_good_to_the_microsecond(driven, due_in):
    value = driven.live.arm("timer", "k", due_in=due_in)
    seconds = due_in.total_seconds() if isinstance(due_in, timedelta) else due_in
    expected = driven.parts._clock.utc + timedelta(seconds=seconds)
    assert value.due_at == value.expires_at == expected
    assert driven.live.find("timer", "k").due_at == expected


FAR_EAST, FAR_WEST = timezone(timedelta(hours=14)), timezone(timedelta(hours=-14))


@pytest.mark.parametrize(
    ("due_at", "word"),
    [
        (datetime(2026, 1, 1), "time zone"),  # noqa: DTZ001
        (datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "1970"),
        (datetime(1970, 1, 1, 13, tzinfo=FAR_EAST), "1970"),
        (datetime(3000, 1, 1, tzinfo=UTC), "2999"),
        (datetime(2999, 12, 31, 10, tzinfo=FAR_WEST), "2999"),
        (datetime.max.replace(tzinfo=FAR_WEST), "2999"),
        (datetime.min.replace(tzinfo=FAR_EAST), "1970"),
        (date(2026, 1, 1), "datetime"),
        ("2026-01-01", "datetime"),
        (5, "datetime"),
    ],
)
def test_a_moment_that_cannot_be_meant_is_refused(local, due_at, word):
    text = not_written(local, due_in=None, due_at=due_at)
    assert "due_at must" in text
    assert word in text


@pytest.mark.parametrize(
    "due_at",
    [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 1, 1, 5, tzinfo=FAR_EAST),
        datetime(3000, 1, 1, tzinfo=FAR_EAST),
    ],
)
def test_a_moment_within_bounds_is_kept_as_it_is(driven, due_at):
    assert driven.live.arm("timer", "k", due_at=due_at).due_at == due_at
    assert driven.live.find("timer", "k").due_at == due_at


@pytest.mark.parametrize("due_at", [None, datetime(2026, 1, 1, tzinfo=UTC)])
def test_one_of_duration_and_moment_is_to_be_given(local, due_at):
    due_in = None if due_at is None else 1
    assert "either" in not_written(local, due_in=due_in, due_at=due_at)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


ITSELF: list = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(object(), id="object"),
        pytest.param(b"x", id="bytes"),
        pytest.param({1, 2}, id="set"),
        pytest.param({"a": datetime.max.replace(tzinfo=UTC)}, id="datetime"),
        pytest.param(math.nan, id="nan"),
        pytest.param({"a": [math.inf]}, id="inf"),
        pytest.param(10**5000, id="a long number"),
        pytest.param(nested(100_000), id="deep"),
        pytest.param(ITSELF, id="itself"),
        pytest.param({(1, 2): 3}, id="tuple as key"),
        pytest.param({1: 2}, id="number as key"),
        pytest.param({"a": {None: 2}}, id="None as key"),
        pytest.param({1: "a", "1": "b"}, id="two keys in one"),
    ],
)
def test_a_payload_that_is_no_json_is_refused(local, payload):
    assert "payload is not JSON" in not_written(local, payload=payload)


def test_a_payload_of_just_the_limit_is_good_and_a_byte_more_is_not(driven):
    limit = driven.live.settings.payload_limit
    fits = "x" * (limit - 2)
    driven.live.disarm(driven.live.arm("timer", "k", due_in=1, payload=fits))
    text = not_written(driven, payload=fits + "x")
    assert f"{limit + 1} bytes" in text
    assert f"payload_limit ({limit})" in text
    # Bytes as JSON, not characters.
    not_written(driven, payload="é" * (limit // 6 + 1))


@pytest.mark.parametrize(
    "payload",
    [
        None,
        False,
        0,
        "",
        [],
        {"k\0": "a\0b", "\ud800": "\udfff", "é": "😀", "": [1.5, None, True]},
        2**100,
    ],
    ids=repr,
)
def test_a_payload_comes_back_as_it_was(driven, payload):
    value = driven.live.arm("timer", "k", due_in=1, payload=payload)
    found = driven.live.find("timer", "k").payload
    assert value.payload == found == payload
    assert type(found) is type(payload)


@pytest.mark.parametrize("most", [0, -1, True, 1.0, "3", 2**31, math.nan, []])
def test_attempts_that_cannot_be_counted_are_refused(local, most):
    assert "max_attempts" in not_written(local, max_attempts=most)


def test_a_refused_extend_changes_nothing(local):
    value = local.live.arm("timer", "k", due_in=60)
    for bad in ({}, {"due_in": -1}, {"due_in": 1, "due_at": value.due_at}):
        with pytest.raises(exceptions.InvalidDeadline):
            local.live.extend(value, **bad)
    assert local.live.find("timer", "k") == value


# --- keys are compared byte by byte, on every database --------------------------------

ALIKE = [
    "a", "A", "á", "Á", "a\u0301", "à", "ä", "ae", "æ", "ss", "ß", "ẞ", "i", "I", "ı",
    "İ", "fi", "ﬁ", "1", "１", "𝒳", "😀", "😁", "o", "ø", "ñ", "n\u0303", "%", "_",
    "a%", "a_", "\\", "'", '"', "x" * 255, "😀" * 255, "a" + "\ufe0f",
]  # fmt: skip


def test_keys_that_look_alike_are_different_keys(driven):
    arms = [Arm("timer", key, 60, payload=number) for number, key in enumerate(ALIKE)]
    driven.live.arm_many(arms[::2])
    for arm in arms[1::2]:
        driven.live.arm(arm.kind, arm.key, 60, payload=arm.payload)
    for number, key in enumerate(ALIKE):
        found = driven.live.find("timer", key)
        assert (found.key, found.payload) == (key, number)
        with pytest.raises(exceptions.AlreadyArmed):
            driven.live.arm("timer", key, due_in=60)
    driven.live.disarm(driven.live.find("timer", "a"))
    assert driven.live.find("timer", "a") is None
    assert driven.live.find("timer", "A") is not None


def test_kinds_that_differ_in_case_are_different_kinds(rows_url):
    handlers = Recorder("timer"), Recorder("Timer")
    driven = Driven(rows_url, SettableClock(), handlers)
    driven.live.arm("timer", "k", due_in=1)
    assert driven.live.find("Timer", "k") is None
    driven.live.arm("Timer", "k", due_in=1)
    driven.turn()
    driven.parts._clock.advance(1)
    driven.turn()
    driven.settle()
    assert [handler.keys for handler in handlers] == [["k"], ["k"]]
    driven.abandon()


def test_a_key_that_cannot_be_armed_is_not_found_either(driven):
    """MariaDB pads with spaces where it compares."""
    driven.live.arm("timer", "a", due_in=60)
    for key in ("a ", " a", "\ud800", "a\0", "", "x" * 300, None, 5, b"a", ["a"]):
        assert driven.live.find("timer", key) is None
        with pytest.raises(exceptions.NoSuchDeadline):
            driven.live.adopt("timer", key)


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
@pytest.mark.parametrize("charset", ["utf8", "latin1"])
def test_whatever_charset_the_url_asks_for_every_key_is_kept(rows_url, charset):
    """Heat's documented URLs end in charset=utf8, which is three bytes."""
    url = rows_url.replace("utf8mb4", charset)
    driven = Driven(url, SettableClock(), (Recorder(),))
    try:
        driven.live.arm_many([Arm("timer", key, 60) for key in ALIKE])
        assert driven.live.find("timer", "😀").key == "😀"
    finally:
        driven.abandon()


# --- all or nothing -------------------------------------------------------------------


def test_many_of_which_one_cannot_be_are_none(driven):
    driven.live.arm("timer", "living", due_in=60)
    ok = [Arm("timer", f"k{number}", 60) for number in range(3)]
    for bad, error in (
        (Arm("timer", "living", 60), exceptions.AlreadyArmed),
        (Arm("timer", "k1", 60), exceptions.LivenessError),
        (Arm("timer", "bad", -1), exceptions.InvalidDeadline),
        (Arm("martian", "k", 60), exceptions.UnknownKind),
    ):
        with pytest.raises(error) as caught:
            driven.live.arm_many([*ok, bad])
        assert "\n" not in str(caught.value)
        with driven.connect() as connection:
            counts = driven.parts.deadlines.counts(connection)
        assert counts == {("timer", "armed"): 1}
    driven.live.arm_many(ok)


def test_of_many_the_one_that_lives_is_named(driven):
    driven.live.arm("timer", "living", due_in=60)
    with pytest.raises(exceptions.AlreadyArmed, match="living"):
        driven.live.arm_many([Arm("timer", "new", 60), Arm("timer", "living", 60)])
