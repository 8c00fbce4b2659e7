"""What a give-up looks like: a clean failure, with a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from liveness import Done, Outcome
from liveness.heat import rows
from liveness.heat.case import Case

if TYPE_CHECKING:
    from liveness.heat.recover import Recovery

NO_ADOPT = "an ADOPT cannot be repeated"


def fail(recovery: Recovery, case: Case, why: str) -> Outcome:
    """The resource and its stack fail, with a reason that says who died, and why it
    is not tried again."""
    stack, row = case.stack, case.row
    reason = f"{case.who} during {stack.action} of {row.name}; {why}"
    if row.engine_id is not None or row.status == "IN_PROGRESS":
        set_failed(case, reason)
    rows.tell(stack, row, reason)
    stack.mark_failed(reason)
    return Done()


def give_up(recovery: Recovery, case: Case) -> Outcome:
    """There were attempts enough."""
    return fail(recovery, case, f"gave up after {recovery.attempts.most} attempts")


def set_failed(case: Case, reason: str | None = None) -> None:
    """The row is FAILED, and nobody's.

    :raises Lost: it has moved on.
    """
    rows.swap(
        case.row,
        engine_id=None,
        status="FAILED",
        status_reason=reason or f"{case.who} during {case.row.action}",
    )
