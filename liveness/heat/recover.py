"""What is done about work that a dead engine left: row by row.

Nothing here decides who may act: that is the claim of the deadline whose handler calls
in. All the same each write to Heat's rows is a compare-and-set, and whoever loses it
has nothing more to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from liveness import Outcome
from liveness.heat.conf import HeatSettings
from liveness.heat.names import Action, Timer


class Recovery:
    """The recoveries that one engine does. Thread-safe."""

    def __init__(
        self,
        me: str,
        threads: Any,
        settings: HeatSettings,
        is_dead: Callable[[str], bool],
        live: Any = None,
    ) -> None:
        """``threads``: the engine's ThreadGroupManager. ``is_dead(engine_id)``: nothing
        of that engine can be running any more. ``live``: the engine's Liveness, for
        guards of what is resumed and for counting attempts; None: neither is done."""

    def action(self, action: Action) -> Outcome:
        """The engine that had ``action`` is dead (or, ``found``: nobody has it).

        Looks at Heat's rows as they are now and does what they call for: clears the
        dead lock, finishes or repeats or fails the action, sends its message again, or
        nothing when somebody is at it, it is done, or its traversal is over. Calling it
        again is safe at any point.

        ``Done``: nothing more to do. ``Rearm``: it has to wait for others. Raises what
        Heat raises: then it is tried again.
        """
        raise NotImplementedError

    def stack(self, timer: Timer) -> Outcome | None:
        """The engine that began this traversal is dead: begin again what it had not
        begun (no sync points yet), cast first messages that it had not cast.

        None: the stack is well under way, its timer goes on. ``Done``: it is over.
        """
        raise NotImplementedError

    def time_out(self, timer: Timer) -> Outcome:
        """The time of this traversal is over by Heat's rule, and the grace as well:
        fail it as Heat would, rollback included. ``Done``: it was, or it is over.
        ``Rearm``: it has time left after all."""
        raise NotImplementedError

    def time_left(self, stack_id: str) -> float:
        """Seconds until :meth:`time_out` of the stack is due, by Heat's own rule."""
        raise NotImplementedError
