"""What a row says, and what is done about it: the table of recoveries.

It is read from above; the first line that fits is the answer. A row that fits none has
its lock cleared and its message sent again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from liveness import Outcome
from liveness.heat import steps, when
from liveness.heat.case import Case

if TYPE_CHECKING:
    from liveness.heat.recover import Recovery

Step = Callable[["Recovery", Case], Outcome]
Condition = Callable[["Recovery", Case], bool]


class Line(NamedTuple):
    """``action`` None: whichever."""

    action: str | None
    status: str
    condition: Condition
    step: Step


IN_PROGRESS, FAILED = "IN_PROGRESS", "FAILED"

OPERATION_OVER: Step = steps.leave
"""The stack's operation is over, whatever the row says."""

TABLE: tuple[Line, ...] = (
    # What the operator has said comes first.
    Line(None, IN_PROGRESS, when.untouched, steps.fail_untouched),
    # A create, by what is known of what it has made.
    Line("CREATE", IN_PROGRESS, when.adopting, steps.adopt),
    Line("CREATE", IN_PROGRESS, when.without_id, steps.look_for_it),
    Line("CREATE", IN_PROGRESS, when.unwanted, steps.fail_and_send),
    Line("CREATE", IN_PROGRESS, when.resumed, steps.resume),
    Line("CREATE", IN_PROGRESS, when.nested, steps.update_nested),
    Line("CREATE", IN_PROGRESS, when.always, steps.fail_and_replace),
    # The other actions.
    Line("ADOPT", IN_PROGRESS, when.always, steps.adopt),
    Line("UPDATE", IN_PROGRESS, when.always, steps.free_and_send),
    Line("DELETE", IN_PROGRESS, when.always, steps.free_and_send),
    Line("SUSPEND", IN_PROGRESS, when.always, steps.free_and_send),
    Line("RESUME", IN_PROGRESS, when.always, steps.fail_and_send),
    Line("CHECK", IN_PROGRESS, when.always, steps.free_and_send),
    Line("SNAPSHOT", IN_PROGRESS, when.always, steps.free_and_send),
    # What has failed, and nobody was told of it.
    Line("ADOPT", FAILED, when.always, steps.free_and_send),
    Line("CREATE", FAILED, when.failed_by_us_and_not_nested, steps.replace),
    Line(None, FAILED, when.failed_by_us, steps.send),
    Line(None, FAILED, when.failed_now, steps.tell_the_stack),
)


def step(recovery: Recovery, case: Case) -> Step:
    """What is to be done about the case's row, whose operation goes on."""
    row = case.row
    for line in TABLE:
        if line.action not in (None, row.action) or line.status != row.status:
            continue
        if line.condition(recovery, case):
            return line.step
    return steps.free_and_send
