"""Sending a message of Heat's again: for the node that waits, with what it needs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from heat.common import exception
from heat.engine import sync_point
from heat.rpc import worker_client
from oslo_config import cfg

from liveness import Done, Outcome
from liveness.heat import failing, gone, names, rows
from liveness.heat.case import Case, resources_of
from liveness.heat.names import Action, Timer

if TYPE_CHECKING:
    from liveness.heat.recover import Recovery


def send(recovery: Recovery, case: Case) -> Outcome:
    """Send the message of the node that waits, once it has all it needs."""
    case = _again(recovery, case)
    stack, node, data = case.stack, case.node, case.data
    if stack.status != stack.IN_PROGRESS or not case.waits or data is None:
        return Done()  # it comes when its turn comes, or is over
    if case.row.status == "COMPLETE" and _tell_the_rest(recovery, case, node):
        return Done()
    abandon = _abandon(recovery, case)
    if abandon is None:
        return failing.fail(recovery, case, "it is not known whether it is to be kept")
    if stack.action == stack.ADOPT:
        return failing.fail(recovery, case, failing.NO_ADOPT)
    context = _context_of(stack)  # may fail, and then nothing was attempted
    recovery.wait_turn(case.stack)
    attempt = recovery.attempts.count(case)
    if attempt is None:
        return failing.give_up(recovery, case)
    tell(recovery, case, f"{case.doing} retriggered", attempt)
    _cast(case, context, abandon)
    return Done()


def replace(recovery: Recovery, case: Case) -> Outcome:
    """Make the replacement of a failed row, and send the message for that one: a
    message for the failed row would make another each time it comes."""
    case = _again(recovery, case)
    node, data = case.node, case.data
    if node is None or data is None:
        return Done()  # it is replaced when its turn comes
    target = dataclasses.replace(case, row=rows.find(case.target))
    needs = {d.primary_key for d in resources_of(data).values() if d}
    try:
        new = target.rsrc.make_replacement(case.stack.t.id, needs)
    except exception.UpdateInProgress:
        raise rows.Lost(f"resource {target.row.id} is locked again") from None
    if new is None:
        return Done()
    return send(recovery, dataclasses.replace(target, row=rows.find(new)))


def resend(recovery: Recovery, case: Case) -> None:
    """Send the message again without counting it: it may have been lost, or what
    it is for is done already."""
    case = _again(recovery, case)
    abandon = _abandon(recovery, case)
    if case.data is not None and abandon is not None:
        _cast(case, _context_of(case.stack), abandon)


def cast_if_ready(recovery: Recovery, action: Action, row: Any) -> None:
    """Send the message of a row that nobody has begun, if its turn has come."""
    case = recovery.look(action, row)
    if case is not None and case.data is not None:
        recovery.wait_turn(case.stack)
        resend(recovery, case)


def tell(recovery: Recovery, case: Case, what: str, attempt: int) -> None:
    """Tell the user."""
    text = f"{case.who}; {what}, attempt {attempt} of {recovery.attempts.most}"
    rows.tell(case.stack, case.row, text)


def _tell_the_rest(recovery: Recovery, case: Case, node: Any) -> bool:
    """Where only some successors know of the node, tell only the others: one that
    was told before may have been replaced since, and would be once more."""
    untold, everybody = case.graph.successors(node)
    if len(untold) == len(everybody):
        return False
    abandon = _abandon(recovery, case)
    gone.propagate(case.graph, node, untold, case.row.id, case.rsrc, abandon)
    return True


def _cast(case: Case, context: Any, abandon: bool) -> None:
    stack, node = case.stack, case.node
    assert node is not None
    extra = case.graph.extra_of(node)
    worker_client.WorkerClient().check_resource(
        context,
        case.row.id,
        stack.current_traversal,
        sync_point.serialize_input_data(case.data),
        node.is_update,
        None,
        stack.converge,
        skip_propagate=extra.get("skip_propagate", False),
        accumulated_failures=extra.get("resource_failures") or None,
        abandon=abandon,
    )


def _again(recovery: Recovery, case: Case) -> Case:
    """The case with the stack as it is now: a message that came while the row was
    locked was dropped, and only we can send it again."""
    stack = rows.load_stack(case.row.stack_id, recovery.threads)
    row = rows.find(case.row.id)
    if stack is None or row is None:
        raise rows.Lost(f"resource {case.row.id} is gone")
    return dataclasses.replace(case, row=row, stack=stack, graph=rows.Graph(stack))


def _context_of(stack: Any) -> Any:
    """What the stack's messages are sent with. Only a DELETE needs a fresh token."""
    if stack.action == stack.DELETE:
        return rows.trust_context(stack.context)
    return stack.context


# --- whether it is an abandon ------------------------------------------------------


def _abandon(recovery: Recovery, case: Case) -> bool | None:
    """Whether what is deleted is to be kept in the cloud; None: nobody knows."""
    stack, action = case.stack, case.action
    if stack.action != stack.DELETE:
        return False
    if action.traversal == stack.current_traversal and action.abandon is not None:
        return action.abandon
    if not cfg.CONF.enable_stack_abandon:
        return False
    found = _timer_of(recovery, stack)
    return None if found is None else found.abandon


def _timer_of(recovery: Recovery, stack: Any) -> Timer | None:
    if recovery.live is None:
        return None
    key = names.timer_key(stack.id, stack.current_traversal)
    found = recovery.live.find(names.TIMER, key)
    return None if found is None else Timer.load(found.payload)
