"""How often a node was retriggered. The message has no room for a number."""

from __future__ import annotations

from typing import Any

from liveness import Liveness, exceptions
from liveness.heat import names
from liveness.heat.case import Case
from liveness.heat.names import Action


class Attempts:
    """Counts by deadlines of a kind of its own, which end by themselves."""

    def __init__(self, live: Liveness | None) -> None:
        """``live`` None: nothing is counted, each attempt is the second."""
        self._live = live

    @property
    def most(self) -> int:
        """Attempts after which a node is given up."""
        return 5 if self._live is None else self._live.settings.max_attempts

    def count(self, case: Case) -> int | None:
        """Count one more attempt at the node; None when there were enough."""
        node = case.node
        # By the node, not the row: a replacement is the same work once more.
        return self.count_node(
            case.stack,
            node.rsrc_id if node is not None else case.target,
            node is None or node.is_update,
        )

    def count_node(self, stack: Any, entity: int | str, is_update: bool) -> int | None:
        """The same for a node of the stack's current traversal."""
        if self._live is None:
            return 2
        action = Action(entity, stack.current_traversal, is_update)
        for number in range(2, self.most + 1):
            try:
                self._live.arm(
                    names.RETRIGGER,
                    action.attempt_key(number),
                    due_in=max(stack.time_remaining(), 0.0) + 60.0,
                )
            except exceptions.AlreadyArmed:
                continue
            return number
        return None
