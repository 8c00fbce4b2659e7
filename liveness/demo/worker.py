"""The engine of the demo as an oslo.service ``Service``.

Import this only after an oslo.service backend was chosen.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from pathlib import Path

from liveness import Liveness
from liveness.demo import journal, plan
from liveness.demo.kinds import ResourceAction, StackTimer
from liveness.demo.workload import Workload
from liveness.service import LivenessService

FENCED = 75  # EX_TEMPFAIL: the launcher starts a new incarnation
WIND_UP = 1.0
"""Seconds in which the workload of a fenced engine notes how it was refused."""


class DemoService(LivenessService):
    """An engine with a workload. Both are made in :meth:`start`, so that they belong
    to the process which the launcher forked for them."""

    def __init__(self, live: Liveness, directory: Path, slot: int) -> None:
        super().__init__(live, self._incarnation)
        self._directory = directory
        self._slot = slot
        self._plan = plan.Plan.load(directory / "plan.json")
        self._workload: Workload | None = None
        live.add_handler(StackTimer(self._get_workload))
        live.add_handler(ResourceAction(self._get_workload))
        live.on_fenced(self._fenced)

    def start(self) -> None:
        """Start a new incarnation, and go on with the stacks of this slot."""
        super().start()
        threading.Thread(target=self._begin, daemon=True).start()

    def stop(self, graceful: bool = True) -> None:
        """Drain; from here on the engine's deadlines are handed back."""
        if self._workload is not None:
            self._workload.note("stopping")
        super().stop(graceful)

    def _incarnation(self) -> str:
        """A new engine id, and a workload whose notes bear it."""
        engine_id = f"{self._plan.prefix}{self._slot}-{secrets.token_hex(2)}"
        path = self._directory / f"engine-{self._slot}-{os.getpid()}.jsonl"
        notes = journal.Journal(path, engine=engine_id)
        notes.note("engine", slot=self._slot, pid=os.getpid())
        self._workload = Workload(self._live, notes)
        return engine_id

    def _begin(self) -> None:
        """When the demo has begun, create the stacks that no earlier incarnation has
        begun to create."""
        go = self._directory / "go"
        while not go.exists():
            time.sleep(0.02)
        begun = _begun(self._directory, self._slot)
        stacks = [s for s in self._plan.stacks() if s.slot == self._slot]
        mine = [stack for stack in stacks if stack.key not in begun]
        self._get_workload().create(mine, float(go.read_text()))

    def _fenced(self, reason: str) -> None:
        workload = self._get_workload()
        workload.note("fenced", reason=reason)
        workload.end(WIND_UP)
        os._exit(FENCED)

    def _get_workload(self) -> Workload:
        assert self._workload is not None
        return self._workload


def _begun(directory: Path, slot: int) -> set[str]:
    """Keys of the timers that may have been armed; one that was refused was not."""
    begun: set[str] = set()
    for note in journal.read(directory, f"engine-{slot}-*.jsonl"):
        if note["event"] == "arming":
            begun.add(note["key"])
        elif note["event"] == "unarmed":
            begun.discard(note["key"])
    return begun
