"""A stack's snapshots are nodes of its DELETE: what is done when one's engine dies."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from liveness import Done
from liveness.heat import names, rows, snapshots, timeouts
from liveness.heat.names import Action, SnapshotDelete
from liveness.heat.recover import Recovery
from liveness.heat.scan_judge import judge
from liveness.heat.scan_rows import Rows
from tests.heat.inside.recovering import DEAD, recovery_with


@pytest.fixture
def recovery(stacks: Any) -> Recovery:
    return recovery_with()


@pytest.fixture
def stack(stacks: Any) -> Any:
    return stacks.deleting()


def action(stack: Any, **values: Any) -> Action:
    values = {"engine": DEAD, "host": "h", "abandon": False, **values}
    return Action(stack.snapshot, stack.traversal, False, "snapshot", **values)


def test_while_the_snapshot_is_there_its_message_is_sent_again(
    stack: Any, recovery: Recovery, casts: mock.Mock
) -> None:
    assert recovery.action(action(stack)) == Done()
    (call,) = casts.call_args_list
    assert call.args[1:3] == (stack.snapshot, stack.traversal)
    assert call.kwargs["node_type"] == "snapshot"
    assert call.kwargs["abandon"] is False
    assert stack.status == "DELETE_IN_PROGRESS"
    (event,) = stack.events
    assert event.endswith(
        f"died during the deletion of snapshot {stack.snapshot};"
        " retriggered, attempt 2 of 5"
    )


def test_once_it_is_gone_the_stack_is_told(
    stack: Any, recovery: Recovery, casts: mock.Mock
) -> None:
    stack.drop_snapshot()
    recovery.action(action(stack))
    assert not casts.called
    assert stack.told == [stack.snapshot]
    assert stack.status == "DELETE_IN_PROGRESS"  # its resource is not yet deleted


def test_the_last_to_be_told_of_completes_the_stack(
    stack: Any, recovery: Recovery, casts: mock.Mock
) -> None:
    stack.drop_snapshot()
    stack.tell_of_the_resource()
    recovery.action(action(stack))
    assert stack.is_gone


def test_told_twice_does_no_harm(
    stack: Any, recovery: Recovery, casts: mock.Mock
) -> None:
    stack.drop_snapshot()
    for _ in range(2):
        recovery.action(action(stack))
    assert stack.told == [stack.snapshot]


def test_one_that_kills_its_engines_is_given_up(
    stack: Any, recovery: Recovery, casts: mock.Mock
) -> None:
    recovery.attempts.number = None  # type: ignore[attr-defined]
    recovery.action(action(stack))
    assert not casts.called
    assert stack.status == "DELETE_FAILED"
    assert "gave up after 5 attempts" in stack.reason


@pytest.mark.parametrize("change", ["traversal", "over", "late"])
def test_when_nobody_waits_for_it_nothing_is_done(
    stack: Any, recovery: Recovery, casts: mock.Mock, change: str
) -> None:
    asked = action(stack)
    getattr(stack, f"is_{change}")()
    recovery.action(asked)
    assert not casts.called
    assert not stack.told


def test_one_that_ended_in_an_error_in_a_living_engine_is_seen_to(
    stack: Any, recovery: Recovery, casts: mock.Mock
) -> None:
    timeouts.aftermath(recovery, action(stack, engine="me"))
    assert casts.called
    (event,) = stack.events
    assert event.startswith("an error in engine me ended the deletion")


def test_one_that_hangs_fails_the_stack(
    stack: Any, recovery: Recovery, casts: mock.Mock
) -> None:
    timeouts.hangs(recovery, action(stack, engine="me"))
    assert stack.status == "DELETE_FAILED"
    assert "it hangs" in stack.reason


def test_a_snapshots_id_is_never_taken_for_a_resources(stack: Any) -> None:
    """MySQL compares '7c...' with a number as 7."""
    (resource,) = stack.resources
    assert rows.find(resource) is not None
    assert rows.find(f"{resource}c7e{uuid.uuid4()}"[:36]) is None


def test_the_scan_finds_it_with_what_its_node_says(stack: Any) -> None:
    view = Rows().view(stack.id, data=True)
    assert view is not None
    verdict = judge(view, frozenset(), lambda engine: True, abandon=False)
    found = {a.resource: a for a in verdict.lost}
    assert found[stack.snapshot] == Action(
        stack.snapshot, stack.traversal, False, "snapshot", abandon=False, found=True
    )
    running = f"{action(stack).node}/1"
    verdict = judge(view, frozenset({running}), lambda engine: True, abandon=False)
    assert stack.snapshot not in {a.resource for a in verdict.lost}


def test_its_key_fits() -> None:
    value = Action("5" * 36, "f" * 36, False, "snapshot")
    assert names.Action.load(value.dump()) == value


# --- a snapshot that a user deletes -------------------------------------------------


@pytest.fixture
def parts() -> Iterator[mock.Mock]:
    """The messages that are sent for them."""
    name = "heat.rpc.worker_client.WorkerClient.check_resource_delete_snapshot"
    with mock.patch(name) as cast:
        yield cast


def part(stack: Any, traversal: str) -> SnapshotDelete:
    return SnapshotDelete(stack.snapshot, "r", current_traversal=traversal)


def test_its_part_is_deleted_again_with_the_messages_own_words(
    stack: Any, recovery: Recovery, casts: mock.Mock, parts: mock.Mock
) -> None:
    asked = part(stack, stack.is_asked_for())
    snapshots.delete_again(recovery, asked)
    (call,) = parts.call_args_list
    assert call.kwargs == dataclasses.asdict(asked)
    assert call.args[0].project_id == "t"
    (event,) = stack.events
    assert event.endswith("retriggered, attempt 2 of 5")


def test_one_whose_part_kills_its_engines_fails(
    stack: Any, recovery: Recovery, casts: mock.Mock, parts: mock.Mock
) -> None:
    recovery.attempts.number = None  # type: ignore[attr-defined]
    snapshots.delete_again(recovery, part(stack, stack.is_asked_for()))
    assert not parts.called
    status, reason = stack.snapshot_status
    assert status == "FAILED"
    assert "gave up after 5 attempts" in reason


@pytest.mark.parametrize("change", ["gone", "over", "unknown"])
def test_a_part_for_which_nobody_waits_is_left(
    stack: Any, recovery: Recovery, casts: mock.Mock, parts: mock.Mock, change: str
) -> None:
    traversal = stack.is_asked_for()
    if change == "gone":
        stack.drop_snapshot()
    asked = {"over": "another", "unknown": None}.get(change, traversal)
    snapshots.delete_again(recovery, part(stack, asked))  # type: ignore[arg-type]
    assert not parts.called
    assert not stack.events
