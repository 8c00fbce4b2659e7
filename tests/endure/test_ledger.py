"""The account finds what must not be; each test plants one thing."""

from __future__ import annotations

import pytest

from tests.endure.journal import Fact, Pen, Reader
from tests.endure.ledger import PATIENCE, Ledger


def told(*lines: str, rows: tuple[str, ...] = ()) -> Ledger:
    """The account of facts ``what who promise number text``, a second apart."""
    facts = []
    for at, line in enumerate(lines):
        words = line.split()
        what, who, promise, number, text = words + ["", "", "", "0", ""][len(words) :]
        facts.append(Fact(what, float(at), who, promise, float(number), text))
    ledger = Ledger()
    ledger.read(facts)
    ledger.close(rows)
    return ledger


GOOD = ("armed a k/1 10", "begin a k/1 10 expired", "finish a k/1", "ended a k/1")


def test_a_life_as_it_should_be_is_fine():
    ledger = told(*GOOD)
    assert ledger.violations == []
    assert ledger.promises == {}
    assert ledger.lateness == [0]


@pytest.mark.parametrize(
    ("lines", "rows", "word"),
    [
        (("armed a k/1 10",), (), "lost"),
        (("armed a k/1 10", "begin a k/1 9.9 expired"), ("k/1",), "early"),
        (("armed a k/1 9", "extended a k/1 12", "begin a k/1 11 again"), (), "early"),
        (("armed a k/1 9", "moved a k/1 12", "begin a k/1 11 expired"), (), "early"),
        ((*GOOD, "ended b k/1"), (), "settled 2 times"),
        (("armed a k/1 1", "begin a k/1 2 expired", *GOOD), (), "held by a and a"),
        (
            ("armed a k/1 1", "begin a k/1 2 expired", "begin b k/1 2 again"),
            ("k/1",),
            "held by a and b",
        ),
        (("armed a k/1 9", "begin b k/1 2 orphaned"), ("k/1",), "orphaned"),
        ((), ("k/1",), "never armed"),
        (("ended a k/1",), (), "never armed"),
    ],
)
def test_what_must_not_be_is_found(lines, rows, word):
    assert any(word in violation for violation in told(*lines, rows=rows).violations)


@pytest.mark.parametrize(
    ("lines", "rows"),
    [
        # Killed before it could tell.
        (("armed a k/1 1", "begin a k/1 2 expired", "killed a"), ()),
        (("armed a k/1 1", "letting a k/1", "killed a"), ()),
        (("killed a",), ("k/1",)),
        (("killed a", "begin b k/1 2 orphaned", "ended b k/1"), ()),
        # Taken over from one who is gone, or who gave it back.
        (("armed a k/1 9", "paused a", "begin b k/1 2 orphaned"), ("k/1",)),
        (("armed a k/1 9", "released a k/1", "begin b k/1 2 orphaned"), ("k/1",)),
        (
            ("armed a k/1 1", "begin a k/1 2 expired", "paused a")
            + ("begin b k/1 2 again", "finish a k/1"),
            ("k/1",),
        ),
    ],
)
def test_what_a_death_explains_is_fine(lines, rows):
    assert told(*lines, rows=rows).violations == []


def late(*lines: str) -> list[str]:
    """What is wrong with these, which come long after a good end."""
    ledger = told(*GOOD)
    for line in lines:
        what, who, *promise = line.split()[:3]
        ledger.read([Fact(what, 9 + 2 * PATIENCE, who, *promise or [""])])
    ledger.close(())
    return ledger.violations


def test_a_stopped_process_writes_down_late_what_it_has_armed():
    assert late("armed a k/1", "letting a k/1") == []
    assert late("paused b", "begin b k/1") == []


def test_what_begins_or_ends_long_after_the_end_is_found():
    assert any("long after" in v for v in late("begin b k/1"))
    assert any("long after" in v for v in late("ended b k/1"))


def test_facts_are_read_as_they_are_written(tmp_path):
    reader = Reader(tmp_path)
    pen = Pen(str(tmp_path / "p.facts"))
    pen.note("armed", "a", "k/1", "l/2", number=0.1)
    with open(tmp_path / "p.facts", "a") as file:
        file.write("half a li")
    first, second = reader.new()
    assert (first.promise, second.promise, first.number) == ("k/1", "l/2", 0.1)
    assert list(reader.new()) == []
