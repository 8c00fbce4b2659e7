"""Forks workers from one process that has imported everything.

A worker is a plain program (``python -m tests.processes.worker``); what is saved is a
second of imports for each of the many that the tests start. The zygote itself opens no
database and starts no thread.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.processes.program import die_with_parent


class Forked:
    """A process forked by the zygote; to its user, as a ``subprocess.Popen``."""

    def __init__(self, zygote: Zygote, pid: int, stdin: Any) -> None:
        self.pid = pid
        self.stdin = stdin
        self._zygote = zygote

    def poll(self) -> int | None:
        return self._zygote.exit_code(self.pid)

    def wait(self, timeout: float = 60) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.01)
        return code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, 9)


class Zygote:
    """The zygote, as the test run sees it."""

    def __init__(
        self,
        root: str,
        module: str = "tests.processes.zygote",
        env: dict[str, str] | None = None,
    ) -> None:
        """``module`` calls :func:`main` with what its children are to run."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._codes: dict[int, int | None] = {}
        with theirs:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                cwd=root,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def fork(self, arguments: list[str], env: dict[str, str], log: str) -> Forked:
        """Start a worker; its stdin is a pipe, its output goes to the file ``log``."""
        reading, writing = os.pipe()
        request = {"arguments": arguments, "env": env, "log": log}
        socket.send_fds(self._socket, [json.dumps(request).encode()], [reading])
        os.close(reading)
        while "forked" not in (answer := self._receive()):
            pass
        self._codes[answer["forked"]] = None
        return Forked(self, answer["forked"], os.fdopen(writing, "wb"))

    def exit_code(self, pid: int) -> int | None:
        while select.select([self._socket], [], [], 0)[0]:
            self._receive()
        return self._codes[pid]

    def close(self) -> None:
        self._socket.close()
        self._popen.wait()

    def _receive(self) -> dict[str, Any]:
        data = self._socket.recv(1 << 16)
        if not data:
            raise RuntimeError("the zygote is dead")
        answer = json.loads(data)
        if "exited" in answer:
            self._codes[answer["exited"]] = answer["code"]
        return answer


def main(run: Callable[[], int]) -> int:
    """In the zygote: until the other end closes. In each child: ``run()``."""
    die_with_parent()
    requests = socket.socket(fileno=int(sys.argv[1]))
    children: dict[int, int] = {}
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd in children:
                poll.unregister(fd)
                os.close(fd)
                pid, status = os.waitpid(children.pop(fd), 0)
                code = os.waitstatus_to_exitcode(status)
                requests.send(json.dumps({"exited": pid, "code": code}).encode())
                continue
            data, stdin, _, _ = socket.recv_fds(requests, 1 << 16, 1)
            if not data:
                return 0
            pid = os.fork()
            if pid == 0:
                requests.close()
                for other in children:
                    os.close(other)
                _become(json.loads(data), stdin[0])
                return run()
            os.close(stdin[0])
            requests.send(json.dumps({"forked": pid}).encode())
            handle = os.pidfd_open(pid)
            children[handle] = pid
            poll.register(handle, select.POLLIN)


def _become(request: dict[str, Any], stdin: int) -> None:
    os.dup2(stdin, 0)
    os.close(stdin)
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    sys.stdin = open(0, closefd=False)
    os.environ.update(request["env"])
    sys.argv = request["arguments"]


if __name__ == "__main__":
    from tests.processes import worker

    sys.exit(main(worker.main))
