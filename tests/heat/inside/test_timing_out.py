"""A stack that is timed out from outside: once, and only while it is in progress."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

from liveness import Done, Rearm
from liveness.heat import rows, stacks
from liveness.heat.names import Timer
from tests.heat.inside.recovering import recovery_with


def late(made: Any, **values: Any) -> Any:
    stack = made.alone("UPDATE", physical="x", **values)
    stack.set("created_at = '2020-01-01', timeout = 1")
    return stack


def timer(stack: Any, action: str = "UPDATE") -> Timer:
    return Timer(stack.id, stack.traversal, action)


def test_it_fails_as_heat_would_and_no_dead_lock_is_left(
    made: Any, casts: mock.Mock
) -> None:
    stack = late(made)
    assert recovery_with().time_out(timer(stack)) == Done()
    assert (stack.status, stack.reason) == ("UPDATE_FAILED", "Timed out")
    assert (stack.row.status, stack.row.engine_id) == ("FAILED", None)


def test_the_lock_of_a_living_engine_stays(made: Any, casts: mock.Mock) -> None:
    stack = late(made, locked_by="alive")
    recovery_with().time_out(timer(stack))
    assert stack.status == "UPDATE_FAILED"
    assert stack.row.engine_id == "alive"


@pytest.mark.parametrize("status", ["COMPLETE", "FAILED"])
def test_what_has_ended_stays_as_it_is(
    made: Any, casts: mock.Mock, status: str
) -> None:
    stack = late(made)
    stack.set("status = :status, status_reason = 'so'", status=status)
    assert recovery_with().time_out(timer(stack)) == Done()
    assert (stack.status, stack.reason) == (f"UPDATE_{status}", "so")


@pytest.mark.parametrize("change", ["status = 'COMPLETE'", "current_traversal = 'x'"])
def test_what_ends_or_is_superseded_between_the_look_and_the_write_stays(
    made: Any, casts: mock.Mock, change: str
) -> None:
    stack = late(made)
    take = rows.take_traversal

    def overtaken(loaded: Any, traversal: str) -> bool:
        stack.set(change)
        return take(loaded, traversal)

    with mock.patch.object(stacks.rows, "take_traversal", overtaken):
        outcome = recovery_with().time_out(timer(stack))
    assert isinstance(outcome, Rearm)  # it is looked at again, and then it is over
    assert not stack.status.endswith("FAILED")
    assert recovery_with().time_out(timer(stack)) == Done()
    assert not stack.status.endswith("FAILED")


def test_another_operations_time_is_not_its_own(made: Any, casts: mock.Mock) -> None:
    stack = late(made)
    stack.set("current_traversal = 'later'")
    assert recovery_with().time_out(timer(stack)) == Done()
    assert stack.status == "UPDATE_IN_PROGRESS"


def test_what_has_time_left_is_given_it(made: Any, casts: mock.Mock) -> None:
    stack = made.alone("UPDATE", physical="x")
    stack.set("created_at = UTC_TIMESTAMP(), timeout = 2")
    outcome = recovery_with(timer_grace=7.0).time_out(timer(stack))
    assert isinstance(outcome, Rearm)
    assert outcome.due_in == pytest.approx(127, abs=5)
    assert stack.status == "UPDATE_IN_PROGRESS"


def test_one_that_was_cut_short_is_gone_on_with(made: Any, casts: mock.Mock) -> None:
    """Killed between taking the traversal and failing the stack."""
    stack = late(made)
    with (
        mock.patch.object(stacks, "_fail", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        recovery_with().time_out(timer(stack))
    assert stack.traversal_now != stack.traversal
    assert stack.status == "UPDATE_IN_PROGRESS"
    assert recovery_with().time_out(timer(stack)) == Done()
    assert (stack.status, stack.reason) == ("UPDATE_FAILED", "Timed out")


def test_twice_is_once(made: Any, casts: mock.Mock) -> None:
    stack = late(made)
    for _ in range(2):
        recovery_with().time_out(timer(stack))
    failed = [text for text in stack.events if text == "Timed out"]
    assert len(failed) == 1
