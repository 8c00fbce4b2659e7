"""The lab's own judgement: what it calls stuck, wrong, made again or left over."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from tests.heat.journal import Journal
from tests.heat.lab import Row, Stack
from tests.heat.report import Report, totals
from tests.heat.run import Outcome, Run

COMPLETE = "CREATE_COMPLETE"


def stack(state: str, *physical: str, deleted: bool = False) -> Stack:
    action, _, status = state.partition("_")
    rows = [
        Row(n, f"r{n}", "CREATE", "COMPLETE", None, None, name, None, None, "s")
        for n, name in enumerate(physical)
    ]
    return Stack("s", "a-stack", action, status, "because", "t", deleted, rows)


@pytest.fixture
def journal(tmp_path) -> Journal:
    return Journal(tmp_path)


def happened(journal: Journal, event: str, tag: str, physical: str, **more) -> None:
    line = dict(at=1.0, pid=1, event=event, type="Server", root="s", stack="s")
    line |= dict(resource=tag, tag=tag, row=1, physical=physical) | more
    with open(journal._folder / "journal.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
    if event == "create":
        (journal._folder / "cloud" / physical).write_text("{}")


def judged(journal: Journal, found: Stack, *states: str, kills=(), **more) -> Outcome:
    lab = SimpleNamespace(
        mode="stock",
        journal=journal,
        stack=lambda _: found,
        tree=lambda _: [found],
    )
    run = Run(lab, "a scenario")
    for tag, pid, at in kills:
        run.mark("s", tag, {pid}, at)
    run.expect("s", *states, since=1.0, **more)
    return run.finish()


def test_a_stack_in_progress_is_stuck(journal):
    outcome = judged(journal, stack("CREATE_IN_PROGRESS"), COMPLETE)
    assert (outcome.word, outcome.stuck, outcome.rescued) == ("stuck", 1, 0)


def test_another_end_than_the_expected_is_wrong(journal):
    outcome = judged(journal, stack("CREATE_FAILED"), COMPLETE)
    assert outcome.word == "wrong end"
    assert outcome.wrong == [f"CREATE_FAILED (because), not {COMPLETE}"]


def test_a_deleted_stack_whose_row_stays_is_wrong(journal):
    outcome = judged(journal, stack("DELETE_COMPLETE"), "DELETE_COMPLETE")
    assert outcome.word == "wrong end"
    gone = stack("DELETE_COMPLETE", deleted=True)
    assert judged(journal, gone, "DELETE_COMPLETE").word == "right"


def test_what_is_made_once_too_often_is_counted(journal):
    happened(journal, "create", "r0", "one")
    happened(journal, "create", "r0", "two")
    found = stack(COMPLETE, "one", "two")
    assert judged(journal, found, COMPLETE, makes={"r0": 2}).word == "right"
    outcome = judged(journal, found, COMPLETE)
    assert outcome.word == "duplicated"
    assert outcome.duplicates == {"r0": 1}


def test_what_exists_and_no_row_knows_is_left_over(journal):
    happened(journal, "create", "r0", "known")
    happened(journal, "create", "r1", "unknown")
    found = stack(COMPLETE, "known")
    assert judged(journal, found, COMPLETE, leaks=1).word == "right"
    assert judged(journal, found, COMPLETE).word == "leaked"


def test_recovery_is_when_somebody_else_is_at_it_again(journal):
    happened(journal, "poll", "r0", "one", pid=8, at=9.0)  # before it moved
    happened(journal, "poll", "r0", "one", pid=7, at=9.9)
    happened(journal, "poll", "r0", "one", pid=7, at=10.1)  # the killed one's last
    happened(journal, "poll", "r1", "two", pid=8, at=11.0)
    happened(journal, "poll", "r0", "one", pid=8, at=12.5)
    outcome = judged(journal, stack(COMPLETE), COMPLETE, kills=[("r0", 7, 10.0)])
    assert outcome.recovery_seconds == [2.5]


def test_the_summary_has_both_heats_beside_each_other(tmp_path):
    report = Report()
    report.add("stock", "nobody_dies", Outcome(stuck=1))
    ours = Outcome(rescued=1, recovery_seconds=[1.0, 2.0, 6.0])
    report.add("liveness", "nobody_dies", ours)
    report.write(tmp_path / "heat-e2e.json")

    summary = json.loads((tmp_path / "heat-e2e.json").read_text())
    assert (summary["rescued"], summary["stuck"]) == (1, 0)
    assert summary["recovery_seconds_p50"] == 2.0
    assert summary["recovery_seconds_max"] == 6.0
    assert summary["duplicated_resources"] == 0
    assert (summary["stock"]["rescued"], summary["stock"]["stuck"]) == (0, 1)
    case = summary["scenarios"]["nobody_dies"]
    assert (case["stock"]["outcome"], case["liveness"]["outcome"]) == ("stuck", "right")


def test_nothing_recovered_has_no_median():
    assert totals([])["recovery_seconds_p50"] is None
