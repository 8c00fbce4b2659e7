"""The list of mutants is true to the rules, the models, the tests and the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.chaos import mutants, rules_engines, rules_rows
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
