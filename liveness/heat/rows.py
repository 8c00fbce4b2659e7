"""Heat's own rows: what they say now, and writes that count only if nothing moved."""

from __future__ import annotations

import logging
from typing import Any

from heat.common import context as contexts
from heat.common import exception
from heat.db import api as db_api
from heat.db import models
from heat.engine import event, sync_point
from heat.engine import stack as parser
from heat.objects import resource as resource_objects
from heat.objects import stack as stack_objects

LOG = logging.getLogger(__name__)


class Lost(Exception):
    """Somebody else changed the row first: look again."""


def admin() -> Any:
    """A context that may read and write every row."""
    return contexts.get_admin_context()


def find(resource_id: int | str) -> Any | None:
    """The resource's row, or None."""
    if not str(resource_id).isdecimal():
        return None  # a snapshot's: MySQL would look for the number it begins with
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


def stack_of_node(resource_id: Any, traversal: str, is_update: bool) -> str | None:
    """The id of the stack whose graph has that node, though its row may be gone."""
    point = db_api.sync_point_get(admin(), resource_id, traversal, is_update)
    return None if point is None else str(point.stack_id)


def stack_of_snapshot(snapshot_id: Any) -> str | None:
    """The id of the stack that a snapshot is of; None when the snapshot is gone.
    (Heat's own look-up shows nobody but its project that it is there.)"""
    table = models.Snapshot
    with db_api.context_manager.reader.using(context := admin()):
        found = context.session.query(table.stack_id).filter(table.id == snapshot_id)
        stack_id: str | None = found.scalar()
    return stack_id


def child_of(stack_id: str, resource_name: str) -> str | None:
    """The id of the stack that is nested in a resource, whatever its row says."""
    for child in stack_objects.Stack.get_all_by_owner_id(admin(), stack_id):
        if child.parent_resource_name == resource_name:
            return str(child.id)
    return None


def descendants(stack_id: str) -> list[Any]:
    """The rows of all stacks nested below, the deepest last."""
    below = stack_objects.Stack.get_all_by_owner_id(admin(), stack_id)
    return [row for child in below for row in [child, *descendants(child.id)]]


def resources_of(stack_id: str) -> list[Any]:
    """The rows of the stack's resources."""
    found = db_api.resource_get_all_active_by_stack(admin(), stack_id)
    return list(found.values())


def take_traversal(stack: Any, traversal: str) -> bool:
    """Give a stack that is still in its traversal another one, so that nobody who is
    in the old one can complete it any more."""
    with db_api.context_manager.writer.using(context := admin()):
        counted = (
            context.session.query(models.Stack)
            .filter_by(
                id=stack.id,
                status=stack.IN_PROGRESS,
                current_traversal=stack.current_traversal,
            )
            .update({"current_traversal": traversal}, synchronize_session=False)
        )
    return bool(counted)


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
    found = plugin.get_access(stored.keystone_session)
    return contexts.RequestContext(
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
    known = stack.t[stack.t.RESOURCES]
    kind = known[row.name].get("type", "") if row.name in known else ""
    _event(
        stack,
        row.action,
        row.status,
        text,
        row.physical_resource_id,
        None,
        None,
        row.name,
        kind,
    )


def tell_of_stack(stack: Any, text: str) -> None:
    """The same for the stack as a whole."""
    LOG.warning("Stack %s: %s", stack.id, text)
    _event(
        stack,
        stack.action,
        stack.status,
        text,
        stack.id,
        None,
        None,
        stack.name,
        "OS::Heat::Stack",
    )


def _event(stack: Any, *values: Any) -> None:
    try:
        event.Event(stack.context, stack, *values).store()
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

    def replacement_of(self, row: Any) -> Any | None:
        """The row that this traversal has made in place of another; one of an earlier
        traversal is a node itself."""
        later = find(row.replaced_by)
        if later is None or later.replaces != row.id:
            return None
        if any(self.node(later.id, is_update) for is_update in (True, False)):
            return None
        return later

    def cleaned_up_for(self, row: Any) -> int | None:
        """The row that this one has replaced in this traversal and that has been
        cleaned up since. Heat then clears ``replaces``; only the old row tells, until
        the traversal is over."""
        with db_api.context_manager.reader.using(context := admin()):
            found = context.session.query(models.Resource.id).filter_by(
                stack_id=self.stack.id, replaced_by=row.id
            )
            olds = [int(old) for (old,) in found]
        return next((old for old in olds if self.node(old, True) is not None), None)

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

    def successors(self, node: Any) -> tuple[list[Any], list[Any]]:
        """Who waits for the node: those that have not been told of it, and all."""
        everybody = list(self.deps.required_by(node)) if self.deps is not None else []
        untold = [
            other
            for other in everybody
            if (point := self.point(other)) is not None
            and node not in sync_point.deserialize_input_data(point.input_data)
        ]
        return untold, everybody

    def told(self, node: Any) -> bool:
        """Whether everybody who waits for the node has been told of it. Nobody but the
        stack waits for a root, and telling that again does no harm."""
        untold, everybody = self.successors(node)
        return bool(everybody) and not untold
