"""No value under a secret's name is shown, whatever it is nested in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liveness import Settings
from liveness.cmd.redaction import TOO_DEEP, Redaction

SENTINEL = "s3nt1nel"
WORDS = Settings().redacted
HIDES = Redaction(WORDS)


def shown(payload):
    return json.dumps(HIDES.of(payload), ensure_ascii=False)


# --- whatever the nesting -------------------------------------------------------------


@st.composite
def secret_names(draw):
    """A word of the list, in some spelling, with something around it."""
    word = draw(st.sampled_from(WORDS))
    word = draw(st.sampled_from([word, word.upper(), word.title()]))
    word = word.replace("_", draw(st.sampled_from(["_", "-", ".", ""])))
    return draw(st.sampled_from(["", "db_", "X-", "os."])) + word


harmless = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8))
values = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=5)


@st.composite
def sentinels(draw):
    """Text that holds the sentinel, and is one word."""
    before, after = (draw(st.text("abz019/+$%?!", max_size=4)) for _ in range(2))
    return before + SENTINEL + after


below_a_name = st.recursive(
    sentinels(),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.dictionaries(st.text(max_size=5), inner, min_size=1, max_size=3),
    ),
    max_leaves=6,
)


@st.composite
def named_secrets(draw):
    """One of the ways in which a payload names a secret."""
    name, plain = draw(secret_names()), draw(sentinels())
    separator = draw(st.sampled_from(["=", ": ", " = ", ":", "=>"]))
    way = draw(st.integers(0, 9))
    match way:
        case 0 | 1 | 2:
            return {name: draw(below_a_name)}
        case 3:
            return f"{draw(values)} {name}{separator}{plain} {draw(values)}"
        case 4:
            quote = draw(st.sampled_from(["'", '"']))
            return f"{name}{separator}{quote}{plain} {plain}{quote}, x=1"
        case 5:
            return f"http+x://user:{plain}@host/{draw(values)}"
        case 6:
            return {"name": name, "value": draw(below_a_name)}
        case 7:
            return [f"--{name}", plain]
        case 8:
            return f"run --{name} {plain} now"
        case _:
            return json.dumps({name: draw(below_a_name)})


payloads = st.recursive(
    named_secrets(),
    lambda inner: st.one_of(
        st.tuples(harmless, inner).map(list),
        st.lists(inner, min_size=1, max_size=3),
        st.dictionaries(st.text(max_size=5), inner, min_size=1, max_size=3),
        st.builds(json.dumps, inner),
        st.builds(lambda x: json.dumps([x]), inner),
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(payloads)
def test_no_value_under_a_listed_name_is_shown_whatever_the_nesting(payload):
    assert SENTINEL not in shown(payload)


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_can_be_looked_through(text):
    assert isinstance(HIDES.text(text), str)


# --- one by one -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("password=x user=u", "password=*** user=u"),
        ("a: password=x", "a: password=***"),
        ("DB_PASSWORD = 'two words' b", "DB_PASSWORD = *** b"),
        ('{"api-key": "x", "n": 1', '{"api-key": ***, "n": 1'),
        (r"said \"token\": \"x\" then", r"said \"token\": ***"),
        ("Authorization: Bearer abc.def rest", "Authorization: *** rest"),
        (
            "mysql://u:p@ss@h/db and http://t0ken@h",
            "mysql://u:***@h/db and http://***@h",
        ),
        ("http://h/a?mail=me@h", "http://h/a?mail=me@h"),
        ("?token=x&page=2", "?token=***&page=2"),
        ("run --password x -v", "run --password *** -v"),
        ("the password was wrong", "the password was wrong"),
        ("password=", "password="),
        ("nothing at all", "nothing at all"),
    ],
)
def test_text(text, expected):
    assert HIDES.text(text) == expected


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (
            {"user": "u", "a": [{"db_password": 1}]},
            {"user": "u", "a": [{"db_password": "***"}]},
        ),
        ({"SecretKey": None}, {"SecretKey": "***"}),
        (
            [{"name": "TOKEN", "value": "x", "n": 1}],
            [{"name": "TOKEN", "value": "***", "n": 1}],
        ),
        ({"name": "web", "value": "x"}, {"name": "web", "value": "x"}),
        (["--token", "x", "y"], ["--token", "***", "y"]),
        ('{"token": "x", "a": "é"}', '{"token": "***", "a": "é"}'),
        ({"password=x": 1}, {"password=***": "***"}),
        ({"mysql://u:p@h": 1}, {"mysql://u:***@h": 1}),
        (12.5, 12.5),
    ],
)
def test_payloads(payload, expected):
    assert HIDES.of(payload) == expected


def test_the_list_is_the_operators():
    mine = Redaction(["colour", "Shoe-Size"])
    assert mine.of({"password": 1, "COLOUR": 2, "shoe_size": 3}) == {
        "password": 1,
        "COLOUR": "***",
        "shoe_size": "***",
    }
    assert Redaction([]).of({"password": 1}) == {"password": 1}
    assert Redaction(["", "-"]).of({"a": 1}) == {"a": 1}


def test_what_is_nested_too_deep_is_hidden_as_a_whole():
    payload = SENTINEL
    for _ in range(5000):
        payload = [payload]
    assert HIDES.of(payload) == TOO_DEEP


@pytest.mark.parametrize(
    "unit", ["a", "-", " ", "://x:", "=", 'password="', "\\", "password "]
)
def test_a_large_text_of_anything_is_looked_through_in_linear_time(unit):
    """Were it squared, this would not end within the time that a test has."""
    text = (unit * 400_000)[:400_000]
    assert HIDES.text(text)
