"""The two kinds of deadlines, and what to do with one."""

from __future__ import annotations

from collections.abc import Callable

from liveness import Deadline, Handler, WhenOrphaned
from liveness.demo import plan
from liveness.demo.journal import now
from liveness.demo.workload import PACE, Workload


class StackTimer(Handler):
    """The stack took too long. An orphan keeps its due time."""

    kind = plan.TIMER
    when_orphaned = WhenOrphaned.ADOPT

    def __init__(self, workload: Callable[[], Workload]) -> None:
        self._workload = workload

    def expired(self, deadline: Deadline) -> None:
        workload = self._workload()
        with workload.handling(deadline) as effect:
            effect()
            workload.time_out(deadline.key)


class ResourceAction(Handler):
    """An action whose engine died half-way: do it again, at once."""

    kind = plan.ACTION
    when_orphaned = WhenOrphaned.RETRIGGER

    def __init__(self, workload: Callable[[], Workload]) -> None:
        self._workload = workload

    def expired(self, deadline: Deadline) -> None:
        workload = self._workload()
        with workload.handling(deadline) as effect:
            until = now() + deadline.payload["seconds"]
            while now() < until:
                effect()
                workload.over.wait(PACE)
            effect()
