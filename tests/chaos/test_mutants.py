"""The list of mutants is true to the rules, the models, the tests and the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql

from liveness.clock import Clock
from liveness.db import claims
from liveness.trust import Trust
from tests.chaos import __main__ as program
from tests.chaos import journal, mutants, names, rules_engines, rules_rows
from tests.chaos.slots import ROOT

PAGE = ROOT / "doc" / "source" / "chaos.rst"


def texts(folder: Path, pattern: str) -> str:
    return "\n".join(path.read_text() for path in folder.rglob(pattern))


@pytest.mark.parametrize("name", sorted(mutants.MUTANTS))
def test_what_a_mutant_shows_is_a_rule(name: str):
    judged = Path(rules_rows.__file__).read_text()
    judged += Path(rules_engines.__file__).read_text()
    rules = re.findall(r'Violation\(\s*(\d), "([^"]+)"', judged)
    for number, rule in mutants.MUTANTS[name].shows:
        assert (str(number), rule) in rules


@pytest.mark.skipif(not PAGE.is_file(), reason="the documentation is not here")
def test_the_page_has_each_mutant_and_no_other():
    table = PAGE.read_text().partition("The mutants\n")[2]
    assert set(re.findall(r"``([a-z]+(?:-[a-z]+)+)``", table)) == set(mutants.MUTANTS)


def test_what_chaos_does_not_show_is_shown_by_a_test_or_a_model():
    tests, models = texts(ROOT / "tests", "*.py"), texts(ROOT / "model", "*.pml")
    for why, shown in mutants.ELSEWHERE.values():
        assert why
        names = shown.split(", ")
        assert names
        for name in names:
            if name.startswith("M_"):
                assert name in models, name
            else:
                assert f"def {name}(" in tests, name


# --- planting -----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(mutants.MUTANTS))
def test_a_mutant_replaces_what_the_product_has_and_is_taken_out_again(name: str):
    before = names.now()
    mutants.try_out(name)
    assert names.differences(before) == ([], [])


def _attribute() -> None:
    Trust.renewed = lambda *args: None  # type: ignore[attr-defined]


def _module() -> None:
    claims.unchanged_rows = None  # type: ignore[attr-defined]


def _dictionary() -> None:
    claims.CLAIMED["tries"] = 0


def _nothing() -> None:
    """As an empty one does."""


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (_attribute, "no liveness.trust.Trust.renewed"),
        (_module, "no liveness.db.claims.unchanged_rows"),
        (_dictionary, r"no \['tries'\]"),
        (_nothing, "nothing in the product is replaced"),
    ],
)
def test_a_mutant_with_a_wrong_name_is_refused(monkeypatch, wrong, complaint):
    mutant = mutants.Mutant(wrong, frozenset(), mutants.Profile())
    monkeypatch.setitem(mutants.MUTANTS, "wrong", mutant)
    before = names.now()
    with pytest.raises(mutants.NotPlanted, match=complaint):
        mutants.try_out("wrong")
    assert names.differences(before) == ([], [])


def test_a_run_with_such_a_mutant_ends_before_it_begins(monkeypatch, capsys):
    name = sorted(mutants.MUTANTS)[0]
    mutant = mutants.Mutant(_attribute, frozenset(), mutants.Profile())
    monkeypatch.setitem(mutants.MUTANTS, name, mutant)
    monkeypatch.setattr(program, "Run", None)
    monkeypatch.setattr(program.quota, "own_namespace", lambda: None)
    assert program.main(["--mutant", name]) == program.NOT_ABLE
    assert f"chaos: {name}: the product has no" in capsys.readouterr().err


@pytest.mark.parametrize(
    "dialect", [mysql.dialect(), postgresql.dialect()], ids=["mysql", "postgresql"]
)
def test_the_time_that_a_mutant_looks_for_is_in_the_products_statements(dialect):
    text = str(sa.select(Clock().database_now(1.0)).compile(dialect=dialect))
    assert journal.NOW[dialect.name] in text
