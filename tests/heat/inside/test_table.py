"""Each line of the table of recoveries, on rows in Heat's own tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from liveness import Done
from liveness.heat.names import Action
from tests.heat.inside.recovering import DEAD, recovery_with

STRING = "OS::Heat::RandomString"


def action(stack: Any, **values: Any) -> Action:
    values = {"engine": DEAD, "host": "host", **values}
    return Action(stack.resource, stack.traversal, values.pop("update", True), **values)


@pytest.fixture
def after(casts: mock.Mock) -> Callable[..., tuple[str, str | None, int]]:
    """What a recovery leaves behind: the row's state and lock, messages sent."""

    def look(stack: Any, **values: Any) -> tuple[str, str | None, int]:
        recovery_with().action(action(stack, **values))
        row = stack.row
        return f"{row.action}_{row.status}", row.engine_id, casts.call_count

    return look


# --- in progress -----------------------------------------------


def test_a_create_of_which_nothing_is_known_is_done_again(
    stacks: Any, after: Callable[..., Any]
) -> None:
    stack = stacks.alone("CREATE")
    assert after(stack) == ("INIT_COMPLETE", None, 1)
    (event,) = stack.events
    assert event == (f"engine {DEAD} on host died; CREATE retriggered, attempt 2 of 5")


def test_a_create_with_an_id_is_replaced_by_one(
    stacks: Any, casts: mock.Mock, after: Callable[..., Any]
) -> None:
    stack = stacks.alone("CREATE", physical="made")
    assert after(stack) == ("CREATE_FAILED", None, 1)
    assert casts.call_args.args[1] == stack.row.replaced_by is not None


def test_a_recovery_that_was_cut_short_before_the_replacement_goes_on(
    stacks: Any, casts: mock.Mock, after: Callable[..., Any]
) -> None:
    reason = f"engine {DEAD} on host died during CREATE"
    stack = stacks.alone(
        "CREATE", physical="made", locked_by=None, row_status="FAILED", reason=reason
    )
    assert after(stack) == ("CREATE_FAILED", None, 1)
    assert casts.call_args.args[1] == stack.row.replaced_by is not None


@pytest.mark.parametrize("what", ["UPDATE", "SUSPEND", "CHECK", "SNAPSHOT"])
def test_what_can_be_done_again_in_place_is(
    stacks: Any, after: Callable[..., Any], what: str
) -> None:
    """Set to FAILED, it would be replaced."""
    stack = stacks.alone(what, physical="made")
    assert after(stack) == (f"{what}_IN_PROGRESS", None, 1)


def test_a_delete_is_done_again_in_place(
    stacks: Any, after: Callable[..., Any]
) -> None:
    stack = stacks.alone("DELETE", physical="made", is_update=False)
    done = after(stack, update=False, abandon=False)
    assert done == ("DELETE_IN_PROGRESS", None, 1)


@pytest.mark.parametrize("flag", [True, False])
def test_an_abandon_stays_one(
    stacks: Any, casts: mock.Mock, after: Callable[..., Any], flag: bool
) -> None:
    stack = stacks.alone("DELETE", physical="made", is_update=False)
    after(stack, update=False, abandon=flag)
    assert casts.call_args.kwargs["abandon"] is flag


def test_whether_to_keep_is_not_guessed(
    stacks: Any, after: Callable[..., Any], abandoning: None
) -> None:
    stack = stacks.alone("DELETE", physical="made", is_update=False)
    assert after(stack, update=False)[2] == 0
    assert stack.status == "DELETE_FAILED"
    assert "it is not known whether it is to be kept" in stack.reason


def test_a_resume_is_failed_first(stacks: Any, after: Callable[..., Any]) -> None:
    stack = stacks.alone("RESUME", physical="made")
    assert after(stack) == ("RESUME_FAILED", None, 1)


@pytest.mark.parametrize("row", ["ADOPT", "CREATE"])
def test_an_adopt_fails_and_makes_nothing(
    stacks: Any, after: Callable[..., Any], row: str
) -> None:
    stack = stacks.alone("ADOPT", row, physical="adopted")
    assert after(stack) == (f"{row}_FAILED", None, 0)
    assert stack.status == "ADOPT_FAILED"
    assert "an ADOPT cannot be repeated" in stack.reason


# --- what is no longer in progress -----------------------------------------------


def test_the_stack_is_told_of_a_failure(stacks: Any, after: Callable[..., Any]) -> None:
    stack = stacks.alone("UPDATE", physical="x", row_status="FAILED", reason="no luck")
    assert after(stack) == ("UPDATE_FAILED", None, 0)
    assert stack.status == "UPDATE_FAILED"
    assert "no luck" in stack.reason


def test_of_what_is_complete_the_others_are_told(
    stacks: Any, after: Callable[..., Any]
) -> None:
    stack = stacks.alone("UPDATE", physical="x", row_status="COMPLETE")
    assert after(stack) == ("UPDATE_COMPLETE", None, 1)


def test_they_are_told_of_a_replacement_also_when_the_replaced_is_cleaned_up(
    stacks: Any, casts: mock.Mock, after: Callable[..., Any]
) -> None:
    stack = stacks.alone("UPDATE", "UPDATE", "x", locked_by=None, row_status="COMPLETE")
    other = stack.is_replaced_and_cleaned_up()
    assert after(stack, engine=None, host=None, found=True)[2] == 1
    assert casts.call_args.args[1] == other


@pytest.mark.parametrize("status", ["COMPLETE", "FAILED"])
def test_after_the_operation_no_dead_lock_is_left(
    stacks: Any, after: Callable[..., Any], status: str
) -> None:
    stack = stacks.alone("UPDATE", physical="x")
    stack.set("status = :status", status=status)
    assert after(stack) == ("UPDATE_FAILED", None, 0)
    assert stack.status == f"UPDATE_{status}"


def test_after_the_deadline_no_message_goes_out(
    stacks: Any, after: Callable[..., Any]
) -> None:
    stack = stacks.alone("UPDATE", physical="x")
    stack.set("created_at = '2020-01-01', timeout = 1")
    assert after(stack) == ("UPDATE_IN_PROGRESS", DEAD, 0)


# --- who may act -----------------------------------------------


def test_what_a_living_engine_has_is_its_own(
    stacks: Any, after: Callable[..., Any]
) -> None:
    stack = stacks.alone("UPDATE", physical="x", locked_by="alive")
    assert after(stack) == ("UPDATE_IN_PROGRESS", "alive", 0)


def test_a_lock_that_passed_on_meanwhile_is_looked_at_again(
    stacks: Any, casts: mock.Mock
) -> None:
    stack = stacks.alone("UPDATE", physical="x")
    recovery = recovery_with()
    look, looks = recovery.look, []

    def overtaken(asked: Action, row: Any) -> Any:
        case = look(asked, row)
        if not looks:
            with stacks.writing() as session:
                from heat.db import models

                found = session.get(models.Resource, stack.resource)
                found.engine_id, found.atomic_key = "alive", 2
        looks.append(row)
        return case

    recovery.look = overtaken  # type: ignore[method-assign]
    assert recovery.action(action(stack)) == Done()
    assert len(looks) == 2
    assert stack.row.engine_id == "alive"
    assert not casts.called


# --- what the operator has said -----------------------------------------------


def test_a_type_that_is_not_to_be_retried_fails_with_a_reason(
    stacks: Any, casts: mock.Mock
) -> None:
    stack = stacks.alone("UPDATE", physical="x")
    recovery_with(untouched_types=(STRING,)).action(action(stack))
    assert (stack.row.status, stack.row.engine_id) == ("FAILED", None)
    assert stack.status == "UPDATE_FAILED"
    assert stack.reason == (
        f"engine {DEAD} on host died during UPDATE of r; it is not to be retried"
    )
    assert not casts.called


def test_a_stack_that_is_not_to_be_touched_is_not(
    stacks: Any, after: Callable[..., Any]
) -> None:
    stack = stacks.alone("UPDATE", physical="x", tag="liveness-off")
    assert after(stack) == ("UPDATE_IN_PROGRESS", DEAD, 0)
    assert stack.status == "UPDATE_IN_PROGRESS"


def test_one_that_kills_its_engines_is_given_up(stacks: Any, casts: mock.Mock) -> None:
    stack = stacks.alone("UPDATE", physical="x")
    recovery = recovery_with()
    recovery.attempts.number = None  # type: ignore[attr-defined]
    recovery.action(action(stack))
    assert not casts.called
    assert stack.status == "UPDATE_FAILED"
    assert stack.reason.endswith("died during UPDATE of r; gave up after 5 attempts")
