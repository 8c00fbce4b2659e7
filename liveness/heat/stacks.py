"""What is done about a whole stack: begun again, or timed out, from outside."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any

from heat.common import exception
from heat.engine import stack as parser
from heat.engine import sync_point, worker

from liveness import Done, Outcome, Rearm
from liveness.heat import messages, rows
from liveness.heat.names import Action, Timer

if TYPE_CHECKING:
    from liveness.heat.recover import Recovery

LOG = logging.getLogger(__name__)

TIMED_OUT = uuid.UUID("7c7c3f04-2d3b-4a4e-9d4a-5a1d1b0f6c11")
"""Names the traversals that a time-out begins, so that one that was cut short is known
and can be gone on with."""


# --- begun again --------------------------------------------------------------


def begin_again(recovery: Recovery, timer: Timer) -> Outcome | None:
    """See :meth:`Recovery.stack`."""
    stack = rows.load_stack(timer.stack, recovery.threads)
    if stack is None or stack.status != stack.IN_PROGRESS:
        return Done()
    if stack.current_traversal != timer.traversal:
        return Done()
    if stack.has_timed_out():
        return None
    if not _has_begun(stack):
        _begin(stack, timer)
        return Done()  # under another traversal, which has its own timer
    for node in rows.Graph(stack).edges:
        _cast_first(recovery, stack, node, timer)
    return None


def _has_begun(stack: Any) -> bool:
    """Whether all sync points are there: the stack's own is made last."""
    try:
        sync_point.get(rows.admin(), stack.id, stack.current_traversal, True)
    except exception.EntityNotFound:
        return False
    return True


def _begin(stack: Any, timer: Timer) -> None:
    why = f"{_who(timer)} before the {stack.action} began"
    LOG.warning("Stack %s: %s.", stack.id, why)
    if stack.action == stack.CREATE:
        # Of several who do this at once, the swap of the traversal lets one win.
        stack.converge_stack(stack.t, action=stack.CREATE)
    else:
        # Once more would overwrite what a rollback goes back to, and the start time.
        stack.mark_failed(why)


def _cast_first(recovery: Recovery, stack: Any, node: Any, timer: Timer) -> None:
    """Cast the message of a resource that was never begun though nothing keeps it.
    If it was cast before, Heat's lock lets one of the two work."""
    if not node.is_update:
        return
    row = rows.find(node.rsrc_id)
    if row is None or row.engine_id is not None or row.action != "INIT":
        return
    messages.cast_if_ready(
        recovery,
        Action(node.rsrc_id, stack.current_traversal, True, abandon=timer.abandon),
        row,
    )


def _who(timer: Timer) -> str:
    if timer.engine is None:
        return "Its engine died"
    return f"Engine {timer.engine} on {timer.host} died"


# --- timed out ----------------------------------------------------------------


def time_out(recovery: Recovery, timer: Timer) -> Outcome:
    """See :meth:`Recovery.time_out`."""
    stack = rows.load_stack(timer.stack, recovery.threads)
    if stack is None or stack.status != stack.IN_PROGRESS:
        return Done()
    ours = str(uuid.uuid5(TIMED_OUT, timer.traversal))
    if stack.current_traversal == timer.traversal:
        left = float(stack.time_remaining()) + recovery.grace
        if left > 0:
            return Rearm(left)
        if not _take(stack, ours):
            return Rearm(recovery.grace)  # it is ending just now
    elif stack.current_traversal != ours:
        return Done()
    _fail(recovery, stack)
    return Done()


def _take(stack: Any, traversal: str) -> bool:
    """Make sure that nobody else completes the stack from here on."""
    if stack.action == stack.SNAPSHOT:
        return True  # its traversal is the snapshot's id, and has to stay
    before = stack.current_traversal
    if not rows.take_traversal(stack, traversal):
        return False
    stack.current_traversal = traversal
    sync_point.delete_all(rows.admin(), stack.id, before)
    return True


def _fail(recovery: Recovery, stack: Any) -> None:
    LOG.warning("Stack %s: its time is over, and nobody has said so.", stack.id)
    below = rows.descendants(stack.id)
    for row in below:
        if row.status == stack.IN_PROGRESS:
            child = parser.Stack.load(rows.admin(), stack_id=row.id)
            child.thread_group_mgr = recovery.threads
            worker._stop_traversal(child)
    for stack_id in [*(row.id for row in reversed(below)), stack.id]:
        _free_dead_locks(recovery, stack_id)
    stack.mark_failed("Timed out")


def _free_dead_locks(recovery: Recovery, stack_id: str) -> None:
    """What a rollback or the next operation would else wait for."""
    for row in rows.resources_of(stack_id):
        if row.engine_id is None or not recovery.is_dead(row.engine_id):
            continue
        values: dict[str, str | None] = {"engine_id": None}
        if row.status == "IN_PROGRESS":
            values |= {"status": "FAILED", "status_reason": "Timed out"}
        try:
            rows.swap(row, **values)
        except rows.Lost:
            LOG.info("Resource %s has been freed meanwhile.", row.id)
