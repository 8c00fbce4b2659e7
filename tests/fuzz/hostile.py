"""Inputs that nobody should send."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from liveness.cmd import manage
from liveness.conf import OPTIONS

EXECUTABLE = [
    '{"py/object": "evil.Thing", "py/reduce": [{"py/function": "os.system"}]}',
    '{"__class__": "evil.Thing", "__reduce__": ["os.system", "true"]}',
    "!!python/object/apply:os.system ['true']",
    "!!python/object/new:evil.Thing {}",
    "cos\nsystem\n(S'true'\ntR.",
    '"gASVIQAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAR0cnVllIWUUpQu"',
    "__import__('evil')",
    "{{ evil }} ${evil} $(evil) `evil` %(evil)s",
    "<!ENTITY evil SYSTEM 'file:///etc/passwd'>",
]
"""Payloads that a careless reader would run."""

TEXT = st.text(max_size=40) | st.sampled_from(
    ["", " ", "\0", "\n", "a\0b", "\ud800", "😀" * 64, "x" * 300, "'", '"', "%s", "--"]
)

NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**31 - 1, 2**31, 2**63 - 1, -(2**63), 2**64, 10**400]),
)

JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)
    ),
    max_leaves=12,
)

PYTHON = JSON | st.recursive(
    JSON | st.binary(max_size=8) | st.dates() | st.complex_numbers(),
    lambda inner: (
        st.tuples(inner, inner)
        | st.dictionaries(st.integers() | TEXT, inner, max_size=3)
        | st.sets(st.integers(), max_size=3)
    ),
    max_leaves=6,
)

DEEP = st.sampled_from([10, 99, 101, 900, 1100, 100_000]).map(
    lambda depth: "[" * depth + "]" * depth
)

RAW = st.one_of(
    TEXT,
    DEEP,
    st.sampled_from(EXECUTABLE),
    st.sampled_from(
        ["NaN", "-Infinity", "1e999", "1" * 5000, '{"a":1,"a":2}', "\ufeff1", "1 2"]
    ),
)
"""Texts in the payload's column."""

# --- configuration ----------------------------------------------------------------

NAMES = st.sampled_from([opt.name for opt in OPTIONS])

VALUES = st.one_of(
    TEXT,
    NUMBERS,
    st.booleans(),
    st.none(),
    st.lists(st.integers(), max_size=2),
    st.sampled_from(
        ["nan", "inf", "-inf", "1e400", "1_0", "$ttl", "%(x)s", "5s", b"5"]
    ),
)

_line = st.one_of(
    st.builds(lambda name, value: f"{name} = {value}", NAMES, VALUES),
    st.sampled_from(["[liveness]", "[", "]", "[database]", "= 5", "  5", "ttl", "#"]),
    TEXT,
)

FILES = st.one_of(
    st.binary(max_size=80),
    st.lists(_line, max_size=6).map(
        lambda lines: "\n".join(["[liveness]", *lines]).encode("utf-8", "replace")
    ),
)

# --- command lines ------------------------------------------------------------------

_OPTIONS = """
    --help --yes --force --all --state --kind --owner --limit --older-than --dry-run
    --fence-only --timeout --reason --verbose --debug --quiet --since --columns --sort
    --format -f json yaml csv table value -c --recover --since --event --key --max
    --late --orphaned --expired --parked
""".split()

WORDS = st.one_of(
    st.sampled_from(
        sorted({word for name in manage.COMMANDS for word in name.split()})
    ),
    st.sampled_from(_OPTIONS),
    st.sampled_from(["timer", "a", "parked", "0", "-1", "1e9", "nan", "inf", "live"]),
    TEXT.filter(lambda text: "\0" not in text),
)


@st.composite
def command_lines(draw: Any, url: str) -> list[str]:
    """A command that there is, mostly, on the database; and words."""
    known = sorted(set(manage.COMMANDS) - {"top", "web"})
    begin = draw(st.sampled_from(known).map(str.split) | st.lists(WORDS, max_size=2))
    rest = draw(st.lists(WORDS, max_size=5))
    return [*begin, *rest, *([] if "help" in begin else ["--connection", url])]


# --- rows -----------------------------------------------------------------------------

DATES = st.sampled_from(
    [
        "2026-01-01 00:00:00.000000",
        "2026-01-01 00:00:05.000000",
        "0000-00-00 00:00:00",
        "0001-01-01 00:00:00",
        "9999-12-31 23:59:59.999999",
        "infinity",
        "-infinity",
        "4713-01-01 00:00:00 BC",
        "294276-12-31 23:59:59",
        "",
    ]
)
SHORT = TEXT.map(lambda text: text[:16])
BIG = st.sampled_from([0, 1, 5, -1, -(2**63), 2**63 - 1, 2**62, 2**31])
SMALL = st.sampled_from([0, 1, 5, -1, -(2**31), 2**31 - 1])
OWNERS = st.none() | st.sampled_from(["ghost", "hostile", "", "😀"]) | TEXT
STATES = st.sampled_from(["armed", "claimed", "parked", "paused", "ARMED", ""]) | SHORT

DEADLINES = st.fixed_dictionaries(
    {"key": st.uuids().map(str)},
    optional={
        "kind": st.sampled_from(["timer", "martian", ""]) | TEXT,
        "owner_id": OWNERS,
        "token": BIG,
        "arm_token": BIG,
        "epoch": BIG,
        "state": STATES,
        "due_at": DATES,
        "expires_at": DATES,
        "attempts": SMALL,
        "max_attempts": SMALL,
        "payload": st.none() | RAW,
        "last_error": st.none() | TEXT,
        "created_at": DATES,
        "updated_at": DATES,
    },
)

ENGINES = st.fixed_dictionaries(
    {"id": st.uuids().map(str) | st.just("hostile")},
    optional={
        "token": BIG,
        "host": TEXT,
        "pid": SMALL,
        "process_start": st.none() | BIG,
        "boot_id": st.none() | TEXT,
        "namespaces": st.none() | TEXT,
        "binary": TEXT,
        "version": SHORT,
        "state": st.sampled_from(["live", "draining", "fenced", "stopped"]) | SHORT,
        "started_at": DATES,
        "beat_seq": BIG,
        "beat_at": DATES,
        "ttl": st.sampled_from([0.0, -1.0, 1e-300, 1e300, 30.0])
        | st.floats(allow_nan=False, allow_infinity=False),
        "ended_at": st.none() | DATES,
        "fenced_by": st.none() | TEXT,
        "fence_evidence": st.none() | TEXT,
    },
)

WRITTEN = st.lists(
    st.tuples(st.just("liveness_deadline"), DEADLINES)
    | st.tuples(st.just("liveness_engine"), ENGINES),
    min_size=1,
    max_size=12,
)
