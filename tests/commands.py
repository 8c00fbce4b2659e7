"""The command lines, each called in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import sys
import traceback
import warnings
from typing import ClassVar

from liveness.cmd import engine, manage
from tests.fleet import wait_until


@dataclasses.dataclass
class Result:
    code: int
    out: str
    err: str


class Command:
    """A command line in a child process of its own; a fork, because starting Python
    anew takes longer than all the rest."""

    running: ClassVar[list[Command]] = []

    def __init__(self, main, *argv, stdout=None, env=None, cwd=None, patch=None):
        self._files = os.memfd_create("out"), os.memfd_create("err")
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            self.running.append(self)
            return
        code = 99
        try:
            os.setsid()
            os.dup2(self._files[0] if stdout is None else stdout, 1)
            os.dup2(self._files[1], 2)
            sys.stdout = open(1, "w", closefd=False)
            sys.stderr = open(2, "w", buffering=1, closefd=False)
            _forget_pytest()
            os.environ.update(env or {})
            os.chdir(cwd or "/")
            if patch is not None:
                patch()
            code = main(list(argv))
            sys.stdout.flush()
        except SystemExit as stop:
            code = stop.code or 0
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def result(self, seconds=60):
        codes = []

        def ended():
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                codes.append(os.waitstatus_to_exitcode(status))
            return pid

        wait_until(ended, seconds)
        self.running.remove(self)
        return Result(codes[0], *self.said())

    def __del__(self):
        # A number over 1023 is none that select() takes, in whoever is forked later.
        for file in getattr(self, "_files", ()):
            with contextlib.suppress(OSError):
                os.close(file)

    def kill(self):
        """End it, and whatever it has started."""
        self.running.remove(self)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def said(self):
        """What it has written so far: (out, err)."""
        return [os.pread(file, 1 << 20, 0).decode() for file in self._files]


def _forget_pytest():
    """Logging and warnings as they are in a fresh process."""
    root = logging.getLogger()
    root.handlers.clear()
    root.setLevel(logging.WARNING)
    warnings.resetwarnings()
    for category in (DeprecationWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)
    warnings.showwarning = lambda *args, **kwargs: sys.stderr.write(f"{args[0]}\n")
    for sign in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def managed(*argv, **how):
    return Command(manage.main, *argv, **how).result()


def engined(*argv, **how):
    return Command(engine.main, *argv, **how).result()


def one_line(result, code=1):
    """The one line on stderr with which a command failed."""
    assert result.code == code, result
    assert result.err.count("\n") == 1, result.err
    assert result.err.endswith("\n")
    assert "Traceback" not in result.err
    assert result.out == ""
    return result.err
