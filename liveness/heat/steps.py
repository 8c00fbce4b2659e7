"""The steps of the table: what is done about one row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from liveness import Done, Outcome, Rearm
from liveness.heat import failing, lookups, messages, rows
from liveness.heat import resume as resuming
from liveness.heat.case import Case, is_nested

if TYPE_CHECKING:
    from liveness.heat.recover import Recovery

WAIT_SECONDS = 2.0
"""Until a parent looks again whether its nested stack is free."""

send = messages.send
replace = messages.replace


def free_and_send(recovery: Recovery, case: Case) -> Outcome:
    """Clear the dead lock, if there is one, and send the message again: what it was
    for is done again in place."""
    if case.row.engine_id is not None:
        rows.swap(case.row, engine_id=None)
    return send(recovery, case)


def fail_and_send(recovery: Recovery, case: Case) -> Outcome:
    """Heat accepts only a failed one for what comes now."""
    failing.set_failed(case)
    return send(recovery, case)


def leave(recovery: Recovery, case: Case) -> Outcome:
    """The operation is over: no lock of a dead engine may outlive it."""
    if case.row.engine_id is not None:
        if case.row.status == "IN_PROGRESS":
            failing.set_failed(case)
        else:
            rows.swap(case.row, engine_id=None)
    return Done()


def fail_untouched(recovery: Recovery, case: Case) -> Outcome:
    """The operator's word."""
    return failing.fail(recovery, case, "it is not to be retried")


def tell_the_stack(recovery: Recovery, case: Case) -> Outcome:
    """It failed before its engine died, and the stack was not told."""
    row = case.row
    if row.engine_id is not None:
        rows.swap(row, engine_id=None)
    case.stack.mark_failed(f"Resource {row.action} failed: {row.status_reason}")
    return Done()


# --- a create ------------------------------------------------------------------------


def look_for_it(recovery: Recovery, case: Case) -> Outcome:
    """Nothing is known of what it made: look for what can be found, or again."""
    row, rsrc = case.row, case.rsrc
    if is_nested(rsrc):
        made = rows.child_of(row.stack_id, row.name)
    else:
        made = lookups.find(rsrc)
    if made is not None:
        rows.swap(row, physical_resource_id=made)
        raise rows.Lost(f"resource {row.id} had made {made}")
    lookups.tidy(rsrc)
    rows.swap(case.row, engine_id=None, action="INIT", status="COMPLETE")
    return send(recovery, case)


def resume(recovery: Recovery, case: Case) -> Outcome:
    """Wait for what the dead engine began, as it would have."""
    recovery.wait_turn(case.stack)
    begun = resuming.begin(recovery, case)
    match begun:
        case resuming.Begun.ENOUGH:
            return failing.give_up(recovery, case)
        case resuming.Begun.LOST:
            raise rows.Lost(f"resource {case.row.id} has moved on")
    return Done()


def update_nested(recovery: Recovery, case: Case) -> Outcome:
    """The child is updated in place. Its own dead locks come first: a parent that
    is quicker would take half-made resources for complete."""
    if _busy_below(recovery, case.row.physical_resource_id):
        return Rearm(WAIT_SECONDS)
    failing.set_failed(case)
    return send(recovery, case)


def fail_and_replace(recovery: Recovery, case: Case) -> Outcome:
    """The class knows no better: a failed create is replaced, by exactly one."""
    failing.set_failed(case)
    return replace(recovery, case)


def adopt(recovery: Recovery, case: Case) -> Outcome:
    """What is to be adopted is in no row: a repetition would make new things."""
    if case.stack.action != case.stack.ADOPT:
        return fail_and_send(recovery, case)  # the user has thought better of it
    return failing.fail(recovery, case, failing.NO_ADOPT)


def _busy_below(recovery: Recovery, stack_id: str) -> bool:
    """Whether a dead engine still locks something in that stack or below."""
    engines = {
        row.engine_id
        for stack in [stack_id, *(s.id for s in rows.descendants(stack_id))]
        for row in rows.resources_of(stack)
    }
    return any(recovery.is_dead(e) for e in engines if e is not None)
