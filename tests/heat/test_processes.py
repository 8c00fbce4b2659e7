"""What the lab starts ends with it; what does not start says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from tests.heat.processes import ROOT, Group, LabError
from tests.proc import Process, until

# Its child gives itself a child, as a master does, and is then killed.
MASTER = "import os, time; os.fork(); print(os.getpid(), flush=True); time.sleep(600)"


def alone(script: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def members(pids: list[int]) -> list[Process]:
    found = [Process.of(pid) for pid in pids]
    assert all(member.alive for member in found)
    return found


def test_nothing_outlives_a_run_that_was_killed():
    run = alone(
        f"""
        import sys, time
        from tests.heat.processes import Group
        group = Group("killed-run")
        child = group.spawn("master", [sys.executable, "-c", {MASTER!r}])
        while len(group.members(child)) < 2:
            time.sleep(0.05)
        print(group.folder, *(member.pid for member in group.members(child)))
        sys.stdout.flush()
        time.sleep(600)
        """
    )
    folder, *pids = run.stdout.readline().split()
    processes = members([int(pid) for pid in pids])
    assert len(processes) == 2 and os.path.isdir(folder)

    run.kill()
    run.wait()

    assert until(lambda: not any(p.alive for p in processes), 30)
    assert until(lambda: not os.path.exists(folder), 30)


def test_a_worker_whose_master_is_dead_still_belongs_to_the_lab():
    group = Group("orphan")
    try:
        child = group.spawn("master", [sys.executable, "-c", MASTER])
        assert until(lambda: len(group.members(child)) == 2, 30)
        (worker,) = [m for m in group.members(child) if m.pid != child.pid]
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert worker.alive
    finally:
        group.close()
    assert not worker.alive


def test_a_program_that_fails_to_start_shows_the_end_of_its_log():
    group = Group("failing")
    try:
        script = "import sys; print('no such realm'); sys.exit(3)"
        with pytest.raises(LabError, match=r"(?s)ended with 3.*no such realm"):
            group.run("probe", [sys.executable, "-c", script])
    finally:
        group.close()


def test_a_pid_that_is_somebody_else_now_is_not_signalled():
    with subprocess.Popen(["sleep", "60"]) as process:
        impostor = Process(process.pid, started=1)
        impostor.send(signal.SIGKILL)
        assert not impostor.alive
        assert Process.of(process.pid).alive
        process.kill()
