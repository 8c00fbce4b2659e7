"""What is done about work that a dead engine left.

Nothing here decides who may act: that is the claim of the deadline whose handler calls
in. All the same each write to Heat's rows is a compare-and-set, and whoever loses it
looks again at what the row says now. What is done about which row is a table, in
:mod:`liveness.heat.table`.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

from liveness import Done, Liveness, Outcome
from liveness.heat import gone, rows, snapshots, stacks, table
from liveness.heat.attempts import Attempts
from liveness.heat.case import Case
from liveness.heat.conf import HeatSettings
from liveness.heat.guards import Guards
from liveness.heat.names import Action, Timer
from liveness.heat.rate import Limiter

LOG = logging.getLogger(__name__)

LOOKS = 5
"""Times that a row which moved meanwhile is looked at again at once."""


class Recovery:
    """The recoveries that one engine does. Thread-safe."""

    def __init__(
        self,
        me: str,
        threads: Any,
        settings: HeatSettings,
        is_dead: Callable[[str], bool],
        live: Liveness | None = None,
        guards: Guards | None = None,
    ) -> None:
        """``threads``: the engine's ThreadGroupManager. ``is_dead(engine_id)``: nothing
        of that engine can be running any more. ``live`` and ``guards``: the engine's,
        for counting attempts and for what is resumed; None: neither is done."""
        self.me = me
        self.host = socket.gethostname()
        self.threads = threads
        self.settings = settings
        self.is_dead = is_dead
        self.live = live
        self.guards = guards
        self.attempts = Attempts(live)
        self._limiter = Limiter(
            settings.retriggers_per_second,
            settings.retriggers_per_second_of_project,
            lambda: 1 if live is None else live.fleet_size,
        )

    # --- resource actions -----------------------------------------------------

    def action(self, action: Action) -> Outcome:
        """The engine that had ``action`` is dead (or, ``found``: nobody has it).

        Looks at Heat's rows as they are now and does what they call for: clears the
        dead lock, finishes or repeats or fails the action, sends its message again, or
        nothing when somebody is at it, it is done, or its traversal is over. Calling it
        again is safe at any point.

        ``Done``: nothing more to do. ``Rearm``: it has to wait for others. Raises what
        Heat raises: then it is tried again.
        """
        return self.until_it_holds(action, lambda: self.once(action, self.is_dead))

    def until_it_holds(self, action: Action, look: Callable[[], Outcome]) -> Outcome:
        """``look()``, and again when what it looked at moved meanwhile.

        :raises Lost: it moves each time.
        """
        for _ in range(LOOKS):
            try:
                return look()
            except rows.Lost as moved:
                LOG.info("%s: %s", action.node, moved)
        raise rows.Lost(f"{action.node} keeps moving")

    def once(self, action: Action, is_dead: Callable[[str], bool]) -> Outcome:
        """See :meth:`action`. :raises Lost: a row moved meanwhile."""
        if action.node_type != "resource":
            return snapshots.node(self, action)
        row = rows.find(action.resource)
        if row is None:
            return gone.resource(self, action)
        case = self.look(action, row)
        if case is None or self._is_elsewhere(case, is_dead):
            return Done()
        row, stack = case.row, case.stack
        if stack.status != stack.IN_PROGRESS:
            return table.OPERATION_OVER(self, case)
        if stack.has_timed_out():
            return Done()  # its timer does the rest; no message may go out any more
        if not case.waits and row.engine_id is None:
            return Done()
        if self.settings.untouched_tag in (stack.tags or ()):
            return Done()  # it fails when its time is over
        return table.step(self, case)(self, case)

    def look(self, action: Action, row: Any) -> Case | None:
        """What can be asked about the row; None when its stack is gone."""
        stack = rows.load_stack(row.stack_id, self.threads)
        if stack is None:
            return None
        graph = rows.Graph(stack)
        if action.is_update and row.replaced_by is not None and row.engine_id is None:
            # Its update goes on in the replacement, its clean-up in itself.
            row = graph.replacement_of(row) or row
        return Case(action, row, stack, graph)

    @staticmethod
    def _is_elsewhere(case: Case, is_dead: Callable[[str], bool]) -> bool:
        """Somebody is at it, under a deadline of his own; or what was found has been
        taken care of, and the lock is another's."""
        holder, action = case.row.engine_id, case.action
        if holder is not None and not is_dead(holder):
            return True
        return action.found and action.engine not in (None, holder)

    # --- stacks ------------------------------------------------------------------

    def stack(self, timer: Timer) -> Outcome | None:
        """The engine that began this traversal is dead: begin again what it had not
        begun (no sync points yet), cast first messages that it had not cast.

        None: the stack is well under way, its timer goes on. ``Done``: it is over.
        """
        return stacks.begin_again(self, timer)

    def time_out(self, timer: Timer) -> Outcome:
        """The time of this traversal is over by Heat's rule, and the grace as well:
        fail it as Heat would, rollback included. ``Done``: it was, or it is over.
        ``Rearm``: it has time left after all."""
        return stacks.time_out(self, timer)

    def time_left(self, stack_id: str) -> float:
        """Seconds until the stack's time is over, by Heat's own rule."""
        stack = rows.load_stack(stack_id, self.threads)
        return 0.0 if stack is None else max(float(stack.time_remaining()), 0.0)

    # --- what all steps use -------------------------------------------------------

    def wait_turn(self, stack: Any) -> None:
        """Return when the limits let one more retrigger of the stack's through."""
        self._limiter.wait(stack.tenant_id)

    @property
    def grace(self) -> float:
        """Seconds that a living engine is given to time out by itself."""
        return self.settings.timer_grace
