"""Processes of a private lab, none of which outlives the run that started it.

Each program is started in a session of its own and in the lab's folder. Whatever
is in one of those sessions and works below that folder belongs to the lab: also a
worker whose master was killed. A guard process waits for the end of the test run,
however it comes, and then ends them all by pid and removes the folder.
"""

from __future__ import annotations

import atexit
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.proc import Process, everybody, until

ROOT = Path(__file__).parents[2]


class LabError(Exception):
    """Something of the lab did not come up; the message ends with its log."""


def session_of(leader: Process, folder: str) -> list[Process]:
    """Who is in the session that `leader` made; it may be dead itself."""
    found = []
    for pid, stat in everybody():
        if stat.session != leader.pid or stat.started < leader.started:
            continue
        try:
            place = os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            continue
        if place == folder or place.startswith(folder + os.sep):
            found.append(Process(pid, stat.started))
    return found


def end_session(leader: Process, folder: str, seconds: float = 20) -> None:
    """End all of it, until nobody is left who could have forked another."""

    def gone() -> bool:
        members = session_of(leader, folder)
        for member in members:
            member.send(signal.SIGKILL)
        return not any(member.alive for member in members)

    if not until(gone, seconds, step=0.02):
        raise LabError(f"session {leader.pid} cannot be ended")


class Group:
    """The lab's folder, and the sessions in it."""

    def __init__(self, name: str = "heat") -> None:
        self.folder = os.path.realpath(tempfile.mkdtemp(prefix=f"liveness-{name}-"))
        self._owner = os.getpid()
        self._children: dict[int, subprocess.Popen] = {}
        self.path("log").mkdir()
        self._sessions = self.path("sessions")
        self._sessions.touch()
        self._guard = subprocess.Popen(
            [sys.executable, "-m", __name__, str(os.getpid()), self.folder],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(self._close_at_exit)

    def path(self, *names: str) -> Path:
        return Path(self.folder, *names)

    def write(self, name: str, text: str) -> Path:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def log(self, name: str) -> Path:
        return self.path("log", f"{name}.log")

    def tail(self, name: str, lines: int = 25) -> str:
        try:
            text = self.log(name).read_text(errors="replace")
        except FileNotFoundError:
            return f"({name}: no log)"
        return f"--- {name}:\n" + "\n".join(text.splitlines()[-lines:])

    def spawn(
        self,
        name: str,
        command: list[str],
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
    ) -> subprocess.Popen:
        """Start `command`; what it says goes to the log of that name."""
        with open(self.log(name), "ab") as log:
            child = subprocess.Popen(
                command,
                cwd=cwd or self.folder,
                env={**_environment(), **(env or {})},
                stdin=stdin,
                stdout=log if stdout is None else stdout,
                stderr=log,
                start_new_session=True,
                text=True,
            )
        leader = Process.of(child.pid)
        self._children[child.pid] = child
        with open(self._sessions, "a") as file:
            file.write(f"{leader.pid} {leader.started}\n")
        return child

    def run(
        self,
        name: str,
        command: list[str],
        env: dict[str, str] | None = None,
        seconds: float = 180,
    ) -> None:
        """Run `command` to its end, which must be a good one."""
        child = self.spawn(name, command, env)
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end(child)
            code = f"nothing within {seconds} s"
        if code != 0:
            raise LabError(f"{name} ended with {code}\n{self.tail(name)}")

    def members(self, child: subprocess.Popen) -> list[Process]:
        return session_of(self._leader(child.pid), self.folder)

    def end(self, child: subprocess.Popen) -> None:
        """End the whole session of `child`."""
        end_session(self._leader(child.pid), self.folder)
        child.wait()

    def close(self) -> None:
        atexit.unregister(self._close_at_exit)
        end_all(self.folder)
        for child in self._children.values():
            child.wait()
        self._guard.kill()
        self._guard.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _leader(self, pid: int) -> Process:
        for leader in _leaders(self.folder):
            if leader.pid == pid:
                return leader
        raise LabError(f"{pid} is not of this lab")

    def _close_at_exit(self) -> None:
        # A child forked by a test has inherited this hook, not the lab.
        if os.getpid() == self._owner:
            self.close()


def _environment() -> dict[str, str]:
    """Ours, less what would make a Python look elsewhere for its modules."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}


def _leaders(folder: str) -> list[Process]:
    try:
        lines = Path(folder, "sessions").read_text().splitlines()
    except FileNotFoundError:
        return []
    # The last first: engines end before the servers they would complain about.
    return [Process(*map(int, line.split())) for line in reversed(lines)]


def end_all(folder: str) -> None:
    for leader in _leaders(folder):
        end_session(leader, folder)


def guard(parent: int, folder: str) -> None:
    """Wait for the end of `parent`, then leave nothing of its lab."""
    try:
        handle = os.pidfd_open(parent)
    except ProcessLookupError:
        pass
    else:
        select.select([handle], [], [])
    end_all(folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    guard(int(sys.argv[1]), sys.argv[2])
