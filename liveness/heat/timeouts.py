"""Deadlines of resource actions that come to a handler while their engine lives: the
action has had its time, was cancelled for that, or has ended in an error."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from heat.rpc import api as rpc_api

from liveness import Deadline, Done, Outcome, Rearm
from liveness.heat import failing, messages, rows, snapshots
from liveness.heat.case import Case
from liveness.heat.guards import Run
from liveness.heat.names import Action

if TYPE_CHECKING:
    from liveness.heat.engine import HeatEngine
    from liveness.heat.recover import Recovery

LOG = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Between two looks whether a cancelled action has ended."""

LOOKS = 10
"""After which it hangs where nothing can cancel it."""


def expired(engine: HeatEngine, deadline: Deadline, action: Action) -> Outcome:
    """Cancel the action; see to what came of it; or take the resource from it."""
    if action.engine != engine.engine_id:
        return Rearm(LOOK_SECONDS * LOOKS)  # only its own engine can cancel it
    run = engine.guards.get(deadline.key)
    if run is not None:
        return _too_long(engine, run, action)
    return aftermath(engine.recovery, action)


def _too_long(engine: HeatEngine, run: Run, action: Action) -> Outcome:
    run.looks += 1
    if run.looks == 1:
        LOG.warning("%s takes too long: it is cancelled.", action.node)
        if run.queue is not None:
            # Heat's own way, which is for all tasks of a stack: this one's queue only.
            run.queue.put_nowait(rpc_api.THREAD_CANCEL)
    if run.looks > LOOKS:
        return hangs(engine.recovery, action)
    return Rearm(LOOK_SECONDS)


def aftermath(recovery: Recovery, action: Action) -> Outcome:
    """An action of this engine has ended in an error, or was cancelled because it
    took too long: see to it that somebody heard of it."""

    def is_over(engine_id: str) -> bool:
        return engine_id == recovery.me or recovery.is_dead(engine_id)

    def look() -> Outcome:
        return _cancelled(recovery, action) or recovery.once(action, is_over)

    return recovery.until_it_holds(action, look)


def hangs(recovery: Recovery, action: Action) -> Outcome:
    """The action cannot even be cancelled: take the resource away from it."""
    if action.node_type != "resource":
        return snapshots.hangs(recovery, action)
    row = rows.find(action.resource)
    case = None if row is None else recovery.look(action, row)
    if case is None or case.stack.status != case.stack.IN_PROGRESS:
        return Done()
    if case.row.engine_id != recovery.me:
        return Done()
    return failing.fail(recovery, dataclasses.replace(case, late=True), "it hangs")


def _cancelled(recovery: Recovery, action: Action) -> Outcome | None:
    """Once more what was cancelled; None when that is not what happened."""
    row = rows.find(action.resource) if action.node_type == "resource" else None
    if row is None or row.status != "FAILED" or row.engine_id is not None:
        return None
    if "aborted" not in (row.status_reason or ""):  # the word is Heat's
        return None
    case = recovery.look(action, row)
    if case is None or case.stack.status != case.stack.IN_PROGRESS:
        return None
    return _once_more(recovery, dataclasses.replace(case, late=True))


def _once_more(recovery: Recovery, case: Case) -> Outcome:
    if case.row.action == "CREATE":
        return messages.replace(recovery, case)
    if case.row.action == "UPDATE":
        # In place, as if interrupted: what has failed would be replaced.
        rows.swap(case.row, status="IN_PROGRESS")
    return messages.send(recovery, case)
