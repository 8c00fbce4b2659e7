"""Proof that a process is gone; being unable to look proves nothing."""

import contextlib
import dataclasses
import os
import platform
import signal
import subprocess
import sys
import textwrap

import pytest

from liveness import identity
from liveness.identity import Identity
from liveness.model import Engine
from tests.fleet import wait_until

ME = Identity.of_this_process()

pytestmark = pytest.mark.skipif(
    None in (ME.boot_id, ME.namespaces, ME.process_start),
    reason="this system does not say what a process is",
)


def start_of(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return int(file.read().rpartition(")")[2].split()[19])


def engine_of(pid, **changes):
    values = dict.fromkeys(field.name for field in dataclasses.fields(Engine))
    values.update(
        pid=pid,
        process_start=start_of(pid),
        boot_id=ME.boot_id,
        namespaces=ME.namespaces,
    )
    return Engine(**{**values, **changes})


@pytest.fixture
def child():
    """A process of ours that only waits; killed and reaped after the test."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def zombie_of(process):
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, not reaped


def reaped(process):
    process.kill()
    process.wait()


def test_a_process_that_runs_is_not_proven_dead(child):
    assert ME.proof_of_death(engine_of(child.pid)) is None


def test_a_stopped_process_is_not_proven_dead(child):
    engine = engine_of(child.pid)
    child.send_signal(signal.SIGSTOP)
    wait_until(lambda: _state(child.pid) == "T")
    assert ME.proof_of_death(engine) is None


def test_this_very_process_is_not_proven_dead():
    assert ME.proof_of_death(engine_of(os.getpid())) is None


def test_a_pid_that_is_gone_is_proof(child):
    engine = engine_of(child.pid)
    reaped(child)
    assert ME.proof_of_death(engine) == f"pid {child.pid} is gone"


def test_a_zombie_has_exited(child):
    engine = engine_of(child.pid)
    zombie_of(child)
    assert _state(child.pid) == "Z"
    assert ME.proof_of_death(engine) == f"pid {child.pid} has exited"


def test_a_process_that_started_at_another_time_is_another_one(child):
    engine = engine_of(child.pid)
    other = dataclasses.replace(engine, process_start=engine.process_start - 1)
    assert ME.proof_of_death(other) == f"pid {child.pid} is another process now"


UNSEEN = [
    {"boot_id": "another boot"},
    {"boot_id": None},
    {"namespaces": "pid:[1] time:[1]"},
    {"namespaces": None},
    {"process_start": None},
]


@pytest.mark.parametrize("change", UNSEEN, ids=str)
def test_a_process_that_would_not_be_seen_from_here_is_never_proven_dead(child, change):
    engine = engine_of(child.pid, **change)
    assert not ME.can_judge(engine)
    reaped(child)
    assert ME.proof_of_death(engine) is None


@pytest.mark.parametrize("field", ["boot_id", "namespaces"])
def test_who_does_not_know_where_it_is_proves_nothing(child, field):
    blind = dataclasses.replace(ME, **{field: None})
    engine = engine_of(child.pid, **{field: None})
    reaped(child)
    assert blind.proof_of_death(engine) is None


def test_a_start_time_that_cannot_be_read_proves_nothing(child, monkeypatch):
    """hidepid: the process lives, its /proc entry is not there for us."""
    engine = engine_of(child.pid)
    monkeypatch.setattr(identity, "_read", lambda path: None)
    assert ME.proof_of_death(engine) is None


def test_a_pidfd_that_cannot_be_had_proves_nothing(child, monkeypatch):
    engine = engine_of(child.pid)

    def refused(pid):
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", refused)
    assert ME.proof_of_death(engine) is None
    monkeypatch.delattr(os, "pidfd_open")
    assert ME.proof_of_death(engine) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_process_of_another_user_is_not_proven_dead(child):
    """To signal it is forbidden; that it can be forbidden shows that it is there."""
    engine = engine_of(child.pid)
    if (pid := os.fork()) == 0:
        try:
            os.setuid(65534)
            os._exit(0 if ME.proof_of_death(engine) is None else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


EXIT_THREAD = {"x86_64": 60, "aarch64": 93}.get(platform.machine())


@pytest.mark.skipif(EXIT_THREAD is None, reason="the number of the call is not known")
def test_a_process_whose_first_thread_ended_lives(tmp_path):
    """It looks like a zombie, but other threads may write for ever."""
    program = f"""
        import ctypes, threading, time
        threading.Thread(target=time.sleep, args=(60,)).start()
        print("ready", flush=True)
        ctypes.CDLL(None).syscall({EXIT_THREAD}, 0)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE
    )
    try:
        process.stdout.readline()
        engine = engine_of(process.pid)
        wait_until(lambda: _state(process.pid) == "Z")
        assert ME.proof_of_death(engine) is None
    finally:
        process.kill()
        process.communicate()


def test_a_pidfd_is_of_the_process_that_was_meant(child):
    engine = engine_of(child.pid)
    before = _pidfds()
    with identity.watch(engine) as fd:
        assert not identity.has_exited(fd)
        zombie_of(child)
        assert identity.has_exited(fd)
    other = dataclasses.replace(engine, process_start=engine.process_start - 1)
    assert identity.open_pidfd(other) is None
    assert _pidfds() == before


def test_a_name_that_looks_like_a_status_misleads_nobody(tmp_path):
    link = tmp_path / "a) Z 1 (b"
    link.symlink_to(sys.executable)
    process = subprocess.Popen(
        [link, "-c", "input()"], executable=link, stdin=subprocess.PIPE
    )
    try:
        with open(f"/proc/{process.pid}/stat", encoding="utf-8") as file:
            assert "(a) Z 1 (b)" in file.read()
        engine = engine_of(process.pid, process_start=start_of(process.pid))
        assert ME.proof_of_death(engine) is None
    finally:
        process.kill()
        process.communicate()


def _state(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0]


def _pidfds():
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum("pidfd" in link for link in links)
