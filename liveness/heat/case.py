"""One resource that a dead engine had, and what can be asked about it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from heat.engine import node_data, resource
from heat.engine.resources import stack_resource

from liveness.heat import rows
from liveness.heat.names import Action

DIED = "died during"
"""In the reason of a row that was set to FAILED because its engine died."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A resource that a dead engine had, as Heat's rows are now.

    ``target`` is the row's id that the graph knows: what the row replaces, for a row
    that is a replacement. ``late``: its engine lives, and was too slow."""

    action: Action
    row: Any
    stack: Any
    graph: rows.Graph
    late: bool = False

    @property
    def target(self) -> int:
        for is_update in (True, False):
            if self.graph.node(self.row.id, is_update) is not None:
                return int(self.row.id)
        return int(
            self.row.replaces or self.graph.cleaned_up_for(self.row) or self.row.id
        )

    @property
    def node(self) -> Any | None:
        """The node that waits for this resource in the current traversal: the one that
        the dead engine was at; in a later traversal the update, if it has one."""
        graph, action = self.graph, self.action
        if action.traversal == self.stack.current_traversal:
            return graph.node(self.target, action.is_update)
        update = graph.node(self.target, True)
        return update or graph.node(self.target, False)

    @property
    def data(self) -> dict[Any, Any] | None:
        """What the node was told; None when it was not yet told everything."""
        return None if self.node is None else self.graph.input_of(self.node)

    @property
    def is_current(self) -> bool:
        """Whether the dead engine was at it for the stack's current traversal."""
        return self.action.traversal == str(self.stack.current_traversal)

    @property
    def waits(self) -> bool:
        """Whether anybody waits for what is still to come of it."""
        if self.node is None:
            return False
        return self.row.status != "COMPLETE" or not self.graph.told(self.node)

    @property
    def failed_now(self) -> bool:
        """Whether it has failed in this very operation, so that the stack is to hear of
        it, and not in one before, which this one has to overcome."""
        row, stack, node = self.row, self.stack, self.node
        if node is None or not self.is_current or stack.action == stack.CHECK:
            return False
        if not node.is_update and row.action not in ("DELETE", "SUSPEND"):
            return False
        begun = stack.updated_time or stack.created_time
        return bool((row.updated_at or begun) >= begun)

    @property
    def type(self) -> str:
        """The resource's type, by the current template."""
        try:
            definition = self.stack.defn.resource_definition(self.row.name)
        except KeyError:
            return ""
        return str(definition.resource_type)

    @property
    def doing(self) -> str:
        """What the node's message makes an engine do, in the user's words."""
        clean_up = self.node is not None and not self.node.is_update
        return f"{self.stack.action}{' (clean-up)' if clean_up else ''}"

    @functools.cached_property
    def rsrc(self) -> Any:
        """The resource, loaded once."""
        return self.load()

    def load(self) -> Any:
        """The resource, of its own class, able to act."""
        stack, node = self.stack, self.node
        is_update = node is None or bool(node.is_update)
        # What a clean-up is told are ids, and it needs none of them.
        data = resources_of(self.data or {}) if is_update else {}
        rsrc, definition, latest = resource.Resource.load(
            stack.context, self.row.id, stack.current_traversal, is_update, data
        )
        rsrc.kept_alive = definition, latest  # it has only weak references to them
        latest.thread_group_mgr = stack.thread_group_mgr
        return rsrc

    @property
    def who(self) -> str:
        """For the event: who died."""
        if self.late and self.action.engine is not None:
            return f"it took too long in engine {self.action.engine}"
        return died(self.action)


def died(action: Action) -> str:
    """For the event: who was at it."""
    if action.engine is None:
        return "no engine was working on it any more"
    return f"engine {action.engine} on {action.host} died"


def resources_of(data: dict[Any, Any]) -> dict[str, Any]:
    """What the node's input data says of the resources that it needs."""
    found: dict[str, Any] = node_data.load_resources_data(data)
    return found


def is_nested(rsrc: Any) -> bool:
    """Whether the resource is a stack of its own."""
    return isinstance(rsrc, stack_resource.StackResource)
