"""The conditions of the table: what is asked about a case before a step is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heat.engine import resource
from heat.engine.resources import stack_resource

from liveness.heat.case import DIED, Case, is_nested

if TYPE_CHECKING:
    from liveness.heat.recover import Recovery


def always(recovery: Recovery, case: Case) -> bool:
    """Nothing is asked."""
    return True


def untouched(recovery: Recovery, case: Case) -> bool:
    """The operator wants no resource of this type to be retried."""
    return case.type in recovery.settings.untouched_types


def adopting(recovery: Recovery, case: Case) -> bool:
    """The stack is being adopted."""
    return bool(case.stack.action == case.stack.ADOPT)


def without_id(recovery: Recovery, case: Case) -> bool:
    """Nothing is known of what the create has made."""
    return case.row.physical_resource_id is None


def unwanted(recovery: Recovery, case: Case) -> bool:
    """Nobody waits for its update any more: it is to be cleaned up, if anything."""
    return case.node is None or not case.node.is_update


def resumed(recovery: Recovery, case: Case) -> bool:
    """Its create is finished by asking the cloud, not made again."""
    if case.data is None:
        return False
    rsrc = case.rsrc
    if is_nested(rsrc):
        check = stack_resource.StackResource.check_create_complete
        return bool(type(rsrc).check_create_complete is check)
    own = type(rsrc).needs_replace_failed
    return (
        own is not resource.Resource.needs_replace_failed
        or rsrc.type() in recovery.settings.resumed_types
    )


def nested(recovery: Recovery, case: Case) -> bool:
    """It is a stack of its own."""
    return is_nested(case.rsrc)


def failed_by_us(recovery: Recovery, case: Case) -> bool:
    """A recovery was cut short after it had set the row to FAILED."""
    return DIED in (case.row.status_reason or "")


def failed_by_us_and_not_nested(recovery: Recovery, case: Case) -> bool:
    """The same, and its create is made again by a replacement."""
    return failed_by_us(recovery, case) and not nested(recovery, case)


def failed_now(recovery: Recovery, case: Case) -> bool:
    """It has failed in this very operation."""
    return case.failed_now
