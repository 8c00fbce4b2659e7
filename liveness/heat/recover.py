"""What is done about work that a dead engine left: row by row.

Nothing here decides who may act: that is the claim of the deadline whose handler calls
in. All the same each write to Heat's rows is a compare-and-set, and whoever loses it
looks again at what the row says now.
"""

from __future__ import annotations

import dataclasses
import logging
import socket
from collections.abc import Callable
from typing import Any

from heat.common import exception
from heat.engine import resource, sync_point
from heat.engine.resources import stack_resource
from heat.rpc import worker_client
from oslo_config import cfg

from liveness import Done, Liveness, Outcome, Rearm, exceptions
from liveness.heat import gone, lookups, names, resume, rows, snapshots, stacks
from liveness.heat.case import DIED, Case, is_nested, resources_of
from liveness.heat.conf import HeatSettings
from liveness.heat.guards import Guards
from liveness.heat.names import Action, Timer
from liveness.heat.rate import Limiter

LOG = logging.getLogger(__name__)

LOOKS = 5
"""Times that a row which moved meanwhile is looked at again at once."""

WAIT_SECONDS = 2.0
"""Until a parent looks again whether its nested stack is free."""


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
        self.live = live
        self.guards = guards
        self._settings = settings
        self.is_dead = is_dead
        self._limiter = Limiter(
            settings.retriggers_per_second, settings.retriggers_per_second_of_project
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
        if action.node_type != "resource":
            return snapshots.node(self, action)
        for _ in range(LOOKS):
            try:
                return self._action(action)
            except rows.Lost as moved:
                LOG.info("%s: %s", action.node, moved)
        raise rows.Lost(f"{action.node} keeps moving")

    def _action(
        self, action: Action, is_dead: Callable[[str], bool] | None = None
    ) -> Outcome:
        is_dead = is_dead or self.is_dead
        row = rows.find(action.resource)
        if row is None:
            return gone.resource(self, action)
        case = self._look(action, row)
        if case is None:
            return Done()
        row, stack = case.row, case.stack
        if row.engine_id is not None and not is_dead(row.engine_id):
            return Done()  # somebody is at it, under a deadline of his own
        if action.found and action.engine not in (None, row.engine_id):
            return Done()  # its lock has been taken care of
        if stack.status != stack.IN_PROGRESS:
            return self._leave(case)
        if stack.has_timed_out():
            return Done()  # its timer does the rest; no message may go out any more
        if not case.waits and row.engine_id is None:
            return Done()
        if self._settings.untouched_tag in (stack.tags or ()):
            return Done()  # it fails when its time is over
        if row.status == "IN_PROGRESS" and case.type in self._settings.untouched_types:
            return self._fail(case, "it is not to be retried")
        step = STEPS.get((row.action, row.status), Recovery._free)
        return step(self, case)

    def _look(self, action: Action, row: Any) -> Case | None:
        stack = rows.load_stack(row.stack_id, self.threads)
        if stack is None:
            return None
        graph = rows.Graph(stack)
        if action.is_update and row.replaced_by is not None and row.engine_id is None:
            # Its update goes on in the replacement, its clean-up in itself.
            row = graph.replacement_of(row) or row
        return Case(action, row, stack, graph)

    # --- the table: what a row says, and what is done ---------------------------

    def _create(self, case: Case) -> Outcome:
        """Interrupted in a create."""
        row, stack = case.row, case.stack
        if stack.action == stack.ADOPT:
            return self._adopt(case)
        rsrc = case.load()
        if row.physical_resource_id is None:
            return self._create_without_id(case, rsrc)
        if case.node is None or not case.node.is_update:
            self._set_failed(case)  # nobody wants it any more
            return self.send(case)
        if case.data is not None and self._is_resumed(rsrc):
            return self._resume(case)
        if isinstance(rsrc, stack_resource.StackResource):
            return self._create_nested(case)
        return self._replace(case)

    def _create_without_id(self, case: Case, rsrc: Any) -> Outcome:
        """Nothing is known of what it made: look for what can be found, or again."""
        row = case.row
        if is_nested(rsrc):
            made = rows.child_of(row.stack_id, row.name)
        else:
            made = lookups.find(rsrc)
        if made is not None:
            rows.swap(row, physical_resource_id=made)
            raise rows.Lost(f"resource {row.id} had made {made}")
        lookups.tidy(rsrc)
        rows.swap(case.row, engine_id=None, action="INIT", status="COMPLETE")
        return self.send(case)

    def _create_nested(self, case: Case) -> Outcome:
        """The child is updated in place. Its own dead locks come first: a parent that
        is quicker would take half-made resources for complete."""
        if self._busy_below(case.row.physical_resource_id):
            return Rearm(WAIT_SECONDS)
        self._set_failed(case)
        return self.send(case)

    def _update(self, case: Case) -> Outcome:
        """Interrupted in an update: done again in place."""
        return self._free(case)

    def _delete(self, case: Case) -> Outcome:
        """Interrupted in a delete: done again, if it is known to be one."""
        return self._free(case)

    def _resume_action(self, case: Case) -> Outcome:
        """Interrupted in a RESUME: Heat accepts only a failed one."""
        self._set_failed(case)
        return self.send(case)

    def _adopt(self, case: Case) -> Outcome:
        """What is to be adopted is in no row: a repetition would make new things."""
        if case.stack.action != case.stack.ADOPT:
            self._set_failed(case)  # the user has thought better of it
            return self.send(case)
        return self._fail(case, "an ADOPT cannot be repeated")

    def _failed(self, case: Case) -> Outcome:
        """It failed, and the stack was not told."""
        row = case.row
        if DIED in (row.status_reason or ""):
            return self._failed_by_us(case)
        if not case.failed_now:
            return self._free(case)
        if row.engine_id is not None:
            rows.swap(row, engine_id=None)
        case.stack.mark_failed(f"Resource {row.action} failed: {row.status_reason}")
        return Done()

    def _failed_by_us(self, case: Case) -> Outcome:
        """A recovery was cut short after it set the row to FAILED."""
        if case.row.action != "CREATE" or is_nested(case.load()):
            return self.send(case)
        return self.replace(case)

    def _free(self, case: Case) -> Outcome:
        """Clear the dead lock, if there is one, and send the message again."""
        if case.row.engine_id is not None:
            rows.swap(case.row, engine_id=None)
        return self.send(case)

    # --- steps ------------------------------------------------------------------

    def _leave(self, case: Case) -> Outcome:
        """The operation is over: no lock of a dead engine may outlive it."""
        if case.row.engine_id is not None:
            if case.row.status == "IN_PROGRESS":
                self._set_failed(case)
            else:
                rows.swap(case.row, engine_id=None)
        return Done()

    def _resume(self, case: Case) -> Outcome:
        """Wait for what the dead engine began, as it would have."""
        self._wait_turn(case)
        begun = resume.begin(self, case)
        match begun:
            case resume.Begun.ENOUGH:
                return self._give_up(case)
            case resume.Begun.LOST:
                raise rows.Lost(f"resource {case.row.id} has moved on")
        return Done()

    def _replace(self, case: Case) -> Outcome:
        """The class knows no better: a failed create is replaced, by exactly one."""
        self._set_failed(case)
        return self.replace(case)

    def replace(self, case: Case) -> Outcome:
        """Make the replacement of a failed row, and send the message for that one: a
        message for the failed row would make another each time it comes."""
        case = self._again(case)
        node, data = case.node, case.data
        if node is None or data is None:
            return Done()  # it is replaced when its turn comes
        target = dataclasses.replace(case, row=rows.find(case.target))
        rsrc = target.load()
        needs = {d.primary_key for d in resources_of(data).values() if d}
        try:
            new = rsrc.make_replacement(case.stack.t.id, needs)
        except exception.UpdateInProgress:
            raise rows.Lost(f"resource {target.row.id} is locked again") from None
        if new is None:
            return Done()
        return self.send(dataclasses.replace(target, row=rows.find(new)))

    def send(self, case: Case) -> Outcome:
        """Send the message of the node that waits, once it has all it needs."""
        case = self._again(case)
        stack, node, data = case.stack, case.node, case.data
        if stack.status != stack.IN_PROGRESS or not case.waits or data is None:
            return Done()  # it comes when its turn comes, or is over
        if case.row.status == "COMPLETE" and self._tell_the_rest(case, node):
            return Done()
        abandon = self._abandon(case)
        if abandon is None:
            return self._fail(case, "it is not known whether it is to be kept")
        if stack.action == stack.ADOPT:
            return self._adopt(case)
        context = _context_of(stack)  # may fail, and then nothing was attempted
        self._wait_turn(case)
        attempt = self.count(case)
        if attempt is None:
            return self._give_up(case)
        self.tell(case, f"{case.doing} retriggered", attempt)
        self._cast(case, context, abandon)
        return Done()

    def tell(self, case: Case, what: str, attempt: int) -> None:
        """Tell the user."""
        most = self._most_attempts
        text = f"{case.who}; {what}, attempt {attempt} of {most}"
        rows.tell(case.stack, case.row, text)

    def _tell_the_rest(self, case: Case, node: Any) -> bool:
        """Where only some successors know of the node, tell only the others: one that
        was told before may have been replaced since, and would be once more."""
        untold, everybody = case.graph.successors(node)
        if len(untold) == len(everybody):
            return False
        rsrc = case.load()
        gone.propagate(case.graph, node, untold, case.row.id, rsrc, self._abandon(case))
        return True

    def resend(self, case: Case) -> None:
        """Send the message again without counting it: it may have been lost, or what
        it is for is done already."""
        case = self._again(case)
        abandon = self._abandon(case)
        if case.data is not None and abandon is not None:
            self._cast(case, _context_of(case.stack), abandon)

    def cast_if_ready(self, action: Action, row: Any) -> None:
        """Send the message of a row that nobody has begun, if its turn has come."""
        case = self._look(action, row)
        if case is not None and case.data is not None:
            self._wait_turn(case)
            self.resend(case)

    def _cast(self, case: Case, context: Any, abandon: bool) -> None:
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

    def _again(self, case: Case) -> Case:
        """The case with the stack as it is now: a message that came while the row was
        locked was dropped, and only we can send it again."""
        stack = rows.load_stack(case.row.stack_id, self.threads)
        row = rows.find(case.row.id)
        if stack is None or row is None:
            raise rows.Lost(f"resource {case.row.id} is gone")
        return dataclasses.replace(case, row=row, stack=stack, graph=rows.Graph(stack))

    # --- actions of this engine, which lives ---------------------------------------

    def aftermath(self, action: Action) -> Outcome:
        """An action of this engine has ended in an error, or was cancelled because it
        took too long: see to it that somebody heard of it."""
        for _ in range(LOOKS):
            try:
                return self._cancelled(action) or self._action(action, self._is_over)
            except rows.Lost as moved:
                LOG.info("%s: %s", action.node, moved)
        raise rows.Lost(f"{action.node} keeps moving")

    def hangs(self, action: Action) -> Outcome:
        """The action cannot even be cancelled: take the resource away from it."""
        row = rows.find(action.resource)
        case = None if row is None else self._look(action, row)
        if case is None or case.stack.status != case.stack.IN_PROGRESS:
            return Done()
        if case.row.engine_id != self.me:
            return Done()
        return self._fail(dataclasses.replace(case, late=True), "it hangs")

    def _is_over(self, engine_id: str) -> bool:
        return engine_id == self.me or self.is_dead(engine_id)

    def _cancelled(self, action: Action) -> Outcome | None:
        """Once more what was cancelled; None when that is not what happened."""
        row = rows.find(action.resource) if action.node_type == "resource" else None
        if row is None or row.status != "FAILED" or row.engine_id is not None:
            return None
        if "aborted" not in (row.status_reason or ""):  # the word is Heat's
            return None
        case = self._look(action, row)
        if case is None or case.stack.status != case.stack.IN_PROGRESS:
            return None
        return self._once_more(dataclasses.replace(case, late=True))

    def _once_more(self, case: Case) -> Outcome:
        if case.row.action == "CREATE":
            return self.replace(case)
        if case.row.action == "UPDATE":
            # In place, as if interrupted: what has failed would be replaced.
            rows.swap(case.row, status="IN_PROGRESS")
        return self.send(case)

    # --- what a give-up looks like -----------------------------------------------

    def _fail(self, case: Case, why: str) -> Outcome:
        """A clean failure, with a reason that says what to do without."""
        stack, row = case.stack, case.row
        reason = f"{case.who} during {stack.action} of {row.name}; {why}"
        if row.engine_id is not None or row.status == "IN_PROGRESS":
            self._set_failed(case, reason)
        rows.tell(stack, row, reason)
        stack.mark_failed(reason)
        return Done()

    def _give_up(self, case: Case) -> Outcome:
        return self._fail(case, f"gave up after {self._most_attempts} attempts")

    def _set_failed(self, case: Case, reason: str | None = None) -> None:
        rows.swap(
            case.row,
            engine_id=None,
            status="FAILED",
            status_reason=reason or f"{case.who} during {case.row.action}",
        )

    # --- questions ---------------------------------------------------------------

    def _is_resumed(self, rsrc: Any) -> bool:
        """Whether a create is finished by asking the cloud, not made again."""
        if is_nested(rsrc):
            check = stack_resource.StackResource.check_create_complete
            return type(rsrc).check_create_complete is check
        own = type(rsrc).needs_replace_failed
        return (
            own is not resource.Resource.needs_replace_failed
            or rsrc.type() in self._settings.resumed_types
        )

    def _abandon(self, case: Case) -> bool | None:
        """Whether what is deleted is to be kept in the cloud; None: nobody knows."""
        stack, action = case.stack, case.action
        if stack.action != stack.DELETE:
            return False
        if action.traversal == stack.current_traversal and action.abandon is not None:
            return action.abandon
        if not cfg.CONF.enable_stack_abandon:
            return False
        found = self._timer_of(stack)
        return None if found is None else found.abandon

    def _timer_of(self, stack: Any) -> Timer | None:
        if self.live is None:
            return None
        key = names.timer_key(stack.id, stack.current_traversal)
        found = self.live.find(names.TIMER, key)
        return None if found is None else Timer.load(found.payload)

    def _busy_below(self, stack_id: str) -> bool:
        """Whether a dead engine still locks something in that stack or below."""
        engines = {
            row.engine_id
            for stack in [stack_id, *(s.id for s in rows.descendants(stack_id))]
            for row in rows.resources_of(stack)
        }
        return any(self.is_dead(e) for e in engines if e is not None)

    # --- attempts ----------------------------------------------------------------

    @property
    def _most_attempts(self) -> int:
        return 5 if self.live is None else self.live.settings.max_attempts

    def count(self, case: Case) -> int | None:
        """Count one more attempt at the node; None when there were enough."""
        if self.live is None:
            return 2
        stack, node = case.stack, case.node
        # By the node, not the row: a replacement is the same work once more.
        action = Action(
            node.rsrc_id if node is not None else case.target,
            stack.current_traversal,
            node is None or node.is_update,
        )
        for number in range(2, self._most_attempts + 1):
            try:
                self.live.arm(
                    names.RETRIGGER,
                    action.attempt_key(number),
                    due_in=max(stack.time_remaining(), 0.0) + 60.0,
                )
            except exceptions.AlreadyArmed:
                continue
            return number
        return None

    def _wait_turn(self, case: Case) -> None:
        self._limiter.wait(case.stack.tenant_id)

    @property
    def grace(self) -> float:
        """Seconds that a living engine is given to time out by itself."""
        return self._settings.timer_grace

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


STEPS: dict[tuple[str, str], Callable[[Recovery, Case], Outcome]] = {
    ("CREATE", "IN_PROGRESS"): Recovery._create,
    ("ADOPT", "IN_PROGRESS"): Recovery._adopt,
    ("UPDATE", "IN_PROGRESS"): Recovery._update,
    ("DELETE", "IN_PROGRESS"): Recovery._delete,
    ("SUSPEND", "IN_PROGRESS"): Recovery._free,
    ("RESUME", "IN_PROGRESS"): Recovery._resume_action,
    ("CHECK", "IN_PROGRESS"): Recovery._free,
    ("SNAPSHOT", "IN_PROGRESS"): Recovery._free,
    **{
        (action, "FAILED"): Recovery._failed
        for action in (
            "CREATE",
            "UPDATE",
            "DELETE",
            "SUSPEND",
            "RESUME",
            "CHECK",
            "SNAPSHOT",
        )
    },
}
"""By action and status of the row; for all others the lock is cleared and the message
sent again."""


def _context_of(stack: Any) -> Any:
    """What the stack's messages are sent with. Only a DELETE needs a fresh token."""
    if stack.action == stack.DELETE:
        return rows.trust_context(stack.context)
    return stack.context
