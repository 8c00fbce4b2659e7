"""Deleting snapshots: with their stack, as nodes of its graph, or for themselves."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from heat.common import exception
from heat.engine import sync_point
from heat.objects import snapshot as snapshot_objects
from heat.rpc import worker_client

from liveness import Done, Outcome
from liveness.heat import gone, rows
from liveness.heat.names import Action, SnapshotDelete

if TYPE_CHECKING:
    from liveness.heat.recover import Recovery


def node(recovery: Recovery, action: Action) -> Outcome:
    """A snapshot that goes with its stack: again, or it is gone and its stack is to
    hear of it."""
    graph = gone.graph_of(recovery, action)
    found = None
    if graph is not None:
        found = graph.node(action.resource, False, action.node_type)
    if graph is None or found is None:
        return Done()
    if _find(action.resource) is None:
        gone.pass_on(graph, found, action)
        return Done()
    stack = graph.stack
    worker_client.WorkerClient().check_resource(
        rows.trust_context(stack.context),
        action.resource,
        stack.current_traversal,
        sync_point.serialize_input_data({}),
        False,
        None,
        stack.converge,
        node_type=action.node_type,
        abandon=bool(action.abandon),
    )
    return Done()


def delete_again(recovery: Recovery, part: SnapshotDelete) -> None:
    """A snapshot that a user deletes: the same message again, while anybody waits for
    what comes of it."""
    found = _find(part.snapshot_id)
    if found is None or part.current_traversal is None:
        return
    try:
        sync_point.get(rows.admin(), part.snapshot_id, part.current_traversal, True)
    except exception.EntityNotFound:
        return  # it has failed, or is complete
    stack = rows.load_stack(found.stack_id, recovery.threads)
    if stack is not None:
        worker_client.WorkerClient().check_resource_delete_snapshot(
            stack.context, **dataclasses.asdict(part)
        )


def _find(snapshot_id: Any) -> Any | None:
    try:
        return snapshot_objects.Snapshot.get_snapshot(rows.admin(), snapshot_id)
    except exception.NotFound:
        return None
