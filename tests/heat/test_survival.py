"""Stacks whose engines die: on stock Heat, and with this package."""

from __future__ import annotations

import time
import traceback

import pytest

from tests.heat.conftest import SHORT
from tests.heat.lab import MODES, Lab
from tests.heat.report import Report
from tests.heat.run import Run, Stuck
from tests.heat.scenarios import SCENARIOS, Scenario

# In a hurry, of stock Heat only what shows that the lab can tell it from ours.
HURRIED_STOCK = ("killed_creating_server",)


def chosen(mode: str, scenario: Scenario) -> bool:
    if not SHORT:
        return True
    return scenario.name in HURRIED_STOCK if mode == "stock" else scenario.short


def in_order() -> list[Scenario]:
    """As they are read; in a hurry, those that can share their engines together."""
    scenarios = list(SCENARIOS.values())
    if SHORT:
        scenarios.sort(key=lambda scenario: str(scenario.options))
    return scenarios


CASES = [
    pytest.param(mode, scenario, id=f"{mode}-{scenario.name}")
    for mode in MODES
    for scenario in in_order()
    if chosen(mode, scenario)
]


def prepare(lab: Lab, scenario: Scenario) -> None:
    """Engines as the scenario wants them: those of the last one, if they fit."""
    if lab.options != (scenario.masters, scenario.options):
        lab.start_engines(scenario.masters, **scenario.options)
    else:
        lab.ensure_engines(scenario.masters)


@pytest.mark.parametrize(("mode", "scenario"), CASES)
def test_survives(
    mode: str, scenario: Scenario, lab: Lab, report: Report, stuck: list[Stuck]
) -> None:
    prepare(lab, scenario)
    run = Run(lab, scenario.name)
    try:
        scenario.play(run)
    except Exception:
        run.outcome.error = traceback.format_exc()
        lab.options = None  # in whatever state they are
    outcome = run.finish()
    report.add(mode, scenario.name, outcome)
    print(outcome)
    assert not outcome.error, outcome.error
    if mode == "stock":
        stuck += run.stuck
        assert outcome.word in scenario.stock, outcome
    else:
        assert outcome.word == "right", outcome


@pytest.mark.parametrize("mode", ["stock"])
def test_what_is_stuck_is_stuck_for_ever(
    mode: str, lab: Lab, stuck: list[Stuck], report: Report
) -> None:
    """Past its own timeout and a minute, with living engines beside it."""
    over = [s for s in stuck if s.timeout and time.time() > s.since + s.timeout + 60]
    moved = {}
    for case in over:
        found = case.lab.stack(case.stack)
        outcome = report.outcomes[case.scenario][mode]
        outcome.notes.append(f"{found.state} after {time.time() - case.since:.0f} s")
        if found.ended:
            moved[f"{case.scenario} {found.name}"] = found.state
    if not over:
        pytest.skip("nothing has been stuck for long enough in this run")
    assert not moved
