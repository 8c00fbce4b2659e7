"""Nodes of which nothing is left: whoever waits for them must hear of it all the same.

Heat's own worker returns without a word when a message's row is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from heat.common import exception
from heat.engine import check_resource
from heat.rpc import worker_client

from liveness import Done, Outcome
from liveness.heat import rows
from liveness.heat.names import Action

if TYPE_CHECKING:
    from liveness.heat.recover import Recovery


def resource(recovery: Recovery, action: Action) -> Outcome:
    """The resource's row is gone: its clean-up is over."""
    graph = graph_of(recovery, action)
    node = None
    if graph is not None and not action.is_update:
        node = graph.node(action.resource, False)
    if graph is not None and node is not None:
        pass_on(graph, node, action)
    return Done()


def propagate(
    graph: rows.Graph,
    node: Any,
    successors: list[Any],
    resource_id: Any,
    rsrc: Any,
    abandon: bool | None,
) -> None:
    """Tell ``successors`` of the node, as Heat's worker would; ``rsrc``: what they are
    told of, for those that are to be updated."""
    stack = graph.stack
    client = worker_client.WorkerClient()
    deletes = stack.action == stack.DELETE
    for other in sorted(successors, key=lambda node: bool(node.is_update)):
        data = None
        if other.is_update and rsrc is not None:
            data = rsrc.node_data().as_dict()
        elif other.rsrc_id != node.rsrc_id:
            data = resource_id
        check_resource.propagate_check_resource(
            rows.trust_context(stack.context) if deletes else stack.context,
            client,
            other.rsrc_id,
            stack.current_traversal,
            set(graph.edges[other]),
            node,
            data,
            other.is_update,
            None,
            converge=stack.converge,
            node_type=other.node_type,
            abandon=bool(abandon),
        )


def pass_on(graph: rows.Graph, node: Any, action: Action) -> None:
    """Tell all that the node is done, the stack as well."""
    untold, _ = graph.successors(node)
    propagate(graph, node, untold, action.resource, None, action.abandon)
    stack = graph.stack
    if stack.action == stack.DELETE:
        stack.context = rows.trust_context(stack.context)
    try:
        check_resource.check_stack_complete(
            stack.context,
            stack,
            stack.current_traversal,
            node.rsrc_id,
            graph.deps,
            node.is_update,
            None,
            node.node_type,
        )
    except exception.EntityNotFound:  # its sync point: the traversal is over
        return


def graph_of(recovery: Recovery, action: Action) -> rows.Graph | None:
    """The graph of the node's stack, if it is still in that traversal."""
    stack_id = rows.stack_of_node(action.resource, action.traversal, action.is_update)
    stack = None if stack_id is None else rows.load_stack(stack_id, recovery.threads)
    if stack is None or stack.status != stack.IN_PROGRESS:
        return None
    if stack.current_traversal != action.traversal:
        return None
    return rows.Graph(stack)
