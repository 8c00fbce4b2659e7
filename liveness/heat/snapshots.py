"""Deleting snapshots: with their stack, as nodes of its graph, or for themselves."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from heat.common import exception
from heat.engine import snapshots, sync_point
from heat.rpc import worker_client

from liveness import Done, Outcome
from liveness.heat import gone, rows
from liveness.heat.case import died
from liveness.heat.names import Action, SnapshotDelete

if TYPE_CHECKING:
    from liveness.heat.recover import Recovery


def node(recovery: Recovery, action: Action) -> Outcome:
    """A snapshot that goes with its stack. While its row is there, its message is sent
    again; once it is gone, Heat would drop that without a word, so that whoever waits
    for it is told, and the stack."""
    found = _node_of(recovery, action)
    if found is None:
        return Done()
    graph, waiting = found
    if rows.stack_of_snapshot(action.resource) is None:
        gone.pass_on(graph, waiting, action)
    else:
        _send(recovery, graph.stack, action)
    return Done()


def hangs(recovery: Recovery, action: Action) -> Outcome:
    """Its deletion takes too long, and nothing can cancel it: the stack fails."""
    found = _node_of(recovery, action)
    if found is not None and rows.stack_of_snapshot(action.resource):
        who = f"it took too long in engine {action.engine}"
        _fail(found[0].stack, f"{who} to delete snapshot {action.resource}; it hangs")
    return Done()


def _node_of(recovery: Recovery, action: Action) -> tuple[rows.Graph, Any] | None:
    """The graph in which the snapshot's node is waited for, and the node."""
    graph = gone.graph_of(recovery, action)
    if graph is None or graph.stack.has_timed_out():
        return None
    found = graph.node(action.resource, False, action.node_type)
    return None if found is None else (graph, found)


def _send(recovery: Recovery, stack: Any, action: Action) -> None:
    context = rows.trust_context(stack.context)  # may fail: nothing was attempted
    recovery.wait_turn(stack)
    attempts = recovery.attempts
    attempt = attempts.count_node(stack, action.resource, False)
    who = f"{_who(recovery, action)} the deletion of snapshot {action.resource}"
    if attempt is None:
        _fail(stack, f"{who}; gave up after {attempts.most} attempts")
        return
    text = f"{who}; retriggered, attempt {attempt} of {attempts.most}"
    rows.tell_of_stack(stack, text)
    worker_client.WorkerClient().check_resource(
        context,
        action.resource,
        stack.current_traversal,
        sync_point.serialize_input_data({}),
        False,
        None,
        stack.converge,
        node_type=action.node_type,
        abandon=bool(action.abandon),
    )


def _fail(stack: Any, reason: str) -> None:
    rows.tell_of_stack(stack, reason)
    stack.mark_failed(reason)


def _who(recovery: Recovery, action: Action) -> str:
    if action.engine == recovery.me:
        return f"an error in engine {action.engine} ended"
    return f"{died(action)} during"


def delete_again(recovery: Recovery, part: SnapshotDelete) -> None:
    """A snapshot that a user deletes: the same message again, while anybody waits for
    what comes of it."""
    stack_id = rows.stack_of_snapshot(part.snapshot_id)
    if stack_id is None or part.current_traversal is None:
        return
    try:
        sync_point.get(rows.admin(), part.snapshot_id, part.current_traversal, True)
    except exception.EntityNotFound:
        return  # it has failed, or is complete
    stack = rows.load_stack(stack_id, recovery.threads)
    if stack is not None:
        _delete_again(recovery, stack, part)


def _delete_again(recovery: Recovery, stack: Any, part: SnapshotDelete) -> None:
    recovery.wait_turn(stack)
    attempts = recovery.attempts
    attempt = attempts.count_node(stack, part.node, False)
    who = f"an engine died during the deletion of snapshot {part.snapshot_id}"
    if attempt is None:
        reason = f"{who}; gave up after {attempts.most} attempts"
        rows.tell_of_stack(stack, reason)
        _heats(stack, part).mark_failed(part.resource_name, reason)
        return
    text = f"{who}; retriggered, attempt {attempt} of {attempts.most}"
    rows.tell_of_stack(stack, text)
    worker_client.WorkerClient().check_resource_delete_snapshot(
        stack.context, **dataclasses.asdict(part)
    )


def _heats(stack: Any, part: SnapshotDelete) -> snapshots.Snapshot:
    """Heat's own object for the snapshot."""
    return snapshots.Snapshot(
        context=stack.context,
        snapshot_id=part.snapshot_id,
        stack_id=stack.id,
        start_time=part.start_time,
        thread_group_mgr=stack.thread_group_mgr,
        action=snapshots.Snapshot.DELETE,
        is_stack_delete=part.is_stack_delete,
        current_traversal=part.current_traversal,
    )
