"""Which process an engine is, and proof that such a process is gone.

Within one boot of one machine, a process is known by its pid and start time, as
long as both sides count pids and time in the same namespaces. The numbers of the
initial namespaces are constants, so they mean something only beside the boot id.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import socket
import sys

from liveness.model import Engine


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """A process, for another one on the same machine to look up. Where the system
    does not say, a field is None and nothing can be proved."""

    host: str
    pid: int
    process_start: int | None
    boot_id: str | None
    namespaces: str | None
    binary: str

    @classmethod
    def of_this_process(cls) -> Identity:
        return cls(
            host=socket.gethostname()[:255] or "unknown",
            pid=os.getpid(),
            process_start=_start_of(os.getpid()),
            boot_id=_read("/proc/sys/kernel/random/boot_id"),
            namespaces=_namespaces(),
            binary=os.path.basename(sys.argv[0] or sys.executable)[:255],
        )

    def can_judge(self, engine: Engine) -> bool:
        """True when this process would see the engine's process if it were there."""
        return (
            None not in (self.boot_id, self.namespaces, engine.process_start)
            and self.boot_id == engine.boot_id
            and self.namespaces == engine.namespaces
        )

    def proof_of_death(self, engine: Engine) -> str | None:
        """Why the engine's process is certainly gone, or None when it may live.

        Being unable to look (ENOENT or EACCES under /proc) proves nothing.
        """
        if not self.can_judge(engine):
            return None
        try:
            os.kill(engine.pid, 0)
        except ProcessLookupError:
            return f"pid {engine.pid} is gone"
        except OSError:
            pass  # it exists and is somebody else's
        started = _start_of(engine.pid)
        if started is not None and started != engine.process_start:
            return f"pid {engine.pid} is another process now"
        with watch(engine) as fd:
            if fd is not None and has_exited(fd):
                return f"pid {engine.pid} has exited"
        return None


@contextlib.contextmanager
def watch(engine: Engine):  # type: ignore[no-untyped-def]
    """A pidfd of the engine's process for the block, or None."""
    fd = open_pidfd(engine)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def open_pidfd(engine: Engine) -> int | None:
    """A file descriptor that becomes readable when the engine's process has exited,
    even before its parent has reaped it; None when that cannot be had."""
    try:
        fd = os.pidfd_open(engine.pid)
    except (OSError, AttributeError):
        return None
    # Looked at after the open: the descriptor is of that very process.
    if _start_of(engine.pid) != engine.process_start:
        os.close(fd)
        return None
    return fd


def has_exited(fd: int) -> bool:
    """True when the process behind a pidfd has exited, all its threads included."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _start_of(pid: int) -> int | None:
    """Start time in clock ticks since boot, or None when it cannot be read."""
    stat = _read(f"/proc/{pid}/stat")
    if stat is None:
        return None
    try:  # the name, in brackets, may hold anything
        return int(stat.rpartition(")")[2].split()[19])
    except (IndexError, ValueError):
        return None


def _namespaces() -> str | None:
    try:
        names = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "time")]
    except OSError:
        return None
    return " ".join(names)


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None
