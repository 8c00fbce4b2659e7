"""The engine processes of the demo: start, kill, freeze, thaw, end.

A launcher leads each process group and feeds on the demo's pipe: when the demo is
gone, so is the group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

GRACE = 15.0
"""Seconds that engines have to drain before they are killed."""


class Fleet:
    """The launchers, one a slot; engines are named by the pid in their row."""

    def __init__(self, directory: Path, engines: int) -> None:
        self._directory = directory
        self._slots = range(1, engines + 1)
        self._launchers: dict[int, subprocess.Popen[bytes]] = {}
        self._frozen: set[int] = set()

    def start(self) -> None:
        """Start every launcher; each forks its engine."""
        for slot in self._slots:
            with self._log(slot).open("wb") as log:
                self._launchers[slot] = subprocess.Popen(
                    [sys.executable, "-m", "liveness.demo.engine"]
                    + [str(self._directory), str(slot)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def failed(self) -> str | None:
        """That a launcher has ended, if one has."""
        for slot, launcher in self._launchers.items():
            if launcher.poll() is not None:
                return f"engine {slot} has ended. {self.last_words(slot)}"
        return None

    def last_words(self, slot: int) -> str:
        """The last line of its log."""
        lines = self._log(slot).read_text(errors="replace").splitlines()
        return f"Its last words: {lines[-1]}" if lines else "It said nothing."

    def kill(self, pid: int) -> None:
        """SIGKILL an engine; its launcher will start the next one."""
        os.kill(pid, signal.SIGKILL)

    def freeze(self, pid: int) -> None:
        """SIGSTOP an engine: it is there, and does nothing."""
        self._frozen.add(pid)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.02)

    def thaw(self, pid: int) -> None:
        """SIGCONT: it goes on as if nothing had happened."""
        os.kill(pid, signal.SIGCONT)
        self._frozen.discard(pid)

    def drain(self) -> bool:
        """SIGTERM all of them; True when each has handed everything back in time."""
        for pid in list(self._frozen):
            self.thaw(pid)
        for launcher in self._launchers.values():
            launcher.terminate()
        until = time.monotonic() + GRACE
        try:
            for launcher in self._launchers.values():
                launcher.wait(max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> None:
        """SIGKILL whatever is left; none outlives the demo."""
        for launcher in self._launchers.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()
            assert launcher.stdin is not None
            launcher.stdin.close()

    def _log(self, slot: int) -> Path:
        return self._directory / f"engine-{slot}.log"
