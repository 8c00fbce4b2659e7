"""Heat's own rows: what they say now, and writes that count only if nothing moved."""

from __future__ import annotations

import logging
from typing import Any

from heat.common import context, exception
from heat.db import api as db_api
from heat.engine import event, sync_point
from heat.engine import stack as parser
from heat.objects import resource as resource_objects
from heat.objects import stack as stack_objects
from keystoneauth1 import session

LOG = logging.getLogger(__name__)


class Lost(Exception):
    """Somebody else changed the row first: look again."""


def admin() -> Any:
    """A context that may read and write every row."""
    return context.get_admin_context()


def find(resource_id: int | str) -> Any | None:
    """The resource's row, or None."""
    try:
        return resource_objects.Resource.get_obj(admin(), resource_id)
    except exception.NotFound:
        return None


def load_stack(stack_id: str, threads: Any) -> Any | None:
    """The stack with its owner's stored credentials, able to start threads; None when
    it is deleted."""
    row = stack_objects.Stack.get_by_id(admin(), stack_id, show_deleted=False)
    if row is None:
        return None
    stack = parser.Stack.load(admin(), stack=row, use_stored_context=True)
    stack.thread_group_mgr = threads  # before any state is set: events need it
    return stack


def swap(row: Any, **values: Any) -> None:
    """Change the row if it is still as it was read.

    :raises Lost: it is not.
    """
    if not db_api.resource_update(
        admin(), row.id, dict(values), row.atomic_key, row.engine_id
    ):
        raise Lost(f"resource {row.id} has moved on")


def trust_context(stored: Any) -> Any:
    """A context with a token of the stack's trust: what deletes need, for which the
    stored one has no authority."""
    if not stored.trust_id:
        return stored
    plugin = stored.trusts_auth_plugin
    found = plugin.get_access(session.Session(auth=plugin))
    return context.RequestContext(
        auth_token=found.auth_token,
        auth_token_info=found._data,
        user_id=found.user_id,
        username=found.username,
        project_id=found.project_id,
        project_name=found.project_name,
        roles=list(found.role_names),
        user_domain_id=found.user_domain_id,
        project_domain_id=found.project_domain_id,
        trust_id=stored.trust_id,
        trustor_user_id=stored.trustor_user_id,
        is_admin=False,
    )


def tell(stack: Any, row: Any, text: str) -> None:
    """Add an event to the resource for the user to see. A failure is only logged."""
    LOG.warning("Stack %s, resource %s: %s", stack.id, row.name, text)
    try:
        if row.name in stack.t[stack.t.RESOURCES]:
            kind = stack.t[stack.t.RESOURCES][row.name].get("type", "")
        else:
            kind = ""
        event.Event(
            stack.context,
            stack,
            row.action,
            row.status,
            text,
            row.physical_resource_id,
            None,
            None,
            row.name,
            kind,
        ).store()
    except Exception:
        LOG.warning("The event could not be stored.", exc_info=True)


class Graph:
    """The graph of a stack's current traversal, with what its sync points know."""

    def __init__(self, stack: Any) -> None:
        self.stack = stack
        self.deps = stack.convergence_dependencies if stack.current_deps else None
        self.edges = self.deps.graph() if self.deps is not None else {}

    def node(self, resource_id: Any, is_update: bool, kind: str = "resource") -> Any:
        """The node, or None when the graph has none such."""
        node = parser.ConvergenceNode(resource_id, is_update, kind)
        return node if node in self.edges else None

    def point(self, node: Any) -> Any | None:
        """The node's sync point; None when it is gone (or not made yet)."""
        try:
            return sync_point.get(
                admin(), node.rsrc_id, self.stack.current_traversal, node.is_update
            )
        except exception.EntityNotFound:
            return None

    def input_of(self, node: Any) -> dict[Any, Any] | None:
        """What the node was told by all it requires; None when it was not yet."""
        point = self.point(node)
        if point is None:
            return None
        data: dict[Any, Any] = sync_point.deserialize_input_data(point.input_data)
        return data if set(self.edges[node]) <= set(data) else None

    def extra_of(self, node: Any) -> dict[str, Any]:
        """What came along besides: failures of a CHECK, and whether to skip."""
        point = self.point(node)
        if point is None or point.extra_data is None:
            return {}
        extra: dict[str, Any] = sync_point.deserialize_extra_data(point.extra_data)
        return extra

    def told(self, node: Any) -> bool:
        """Whether everybody who waits for the node has been told of it, the stack
        itself excepted: telling that again is how it is completed."""
        waiting = self.deps.required_by(node) if self.deps is not None else ()
        return bool(waiting) and all(
            (point := self.point(other)) is None
            or node in sync_point.deserialize_input_data(point.input_data)
            for other in waiting
        )
