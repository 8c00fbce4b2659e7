"""What is printed for shells really completes: in a bash and a zsh, as people type."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import time

import pytest

from tests.commands import managed

START = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(cat script)"\n'),
    "zsh": (
        ["zsh", "-f", "-i"],
        'autoload -U compinit; compinit -u; eval "$(cat script)"\n',
    ),
}


class Shell:
    """An interactive shell on a terminal, in a folder with the script and a file."""

    def __init__(self, name, folder):
        argv, begin = START[name]
        self.pid, self.terminal = pty.fork()
        if not self.pid:
            os.chdir(folder)
            env = {"PATH": os.environ["PATH"], "TERM": "dumb", "PS1": "ready> "}
            os.execvpe(argv[0], argv, {**env, "HOME": str(folder)})
        self.type(begin + "echo be''gun\n")
        self.until("begun")

    def type(self, text):
        os.write(self.terminal, text.encode())

    def until(self, text):
        """What it writes until ``text`` is there."""
        said, end = "", time.monotonic() + 60
        while text not in said:
            left = end - time.monotonic()
            assert left > 0, f"{text!r} is not in {said!r}"
            if select.select([self.terminal], [], [], left)[0]:
                said += os.read(self.terminal, 4096).decode(errors="replace")
        return said

    def completed(self, line):
        """The line as it stands after a press of the tabulator key."""
        # Then to its beginning, and to its end, to have it echoed.
        self.type(f"{line}\t\x01echo '<\x05>'\n")
        found = None
        said = ""
        while not found:
            said += self.until("\n")
            found = re.search(r"\n<(.*)>\r?\n", said)
        return found[1]

    def close(self):
        os.close(self.terminal)
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


@pytest.fixture(params=START)
def shell(request, tmp_path):
    if shutil.which(request.param) is None:
        pytest.skip(f"NO SERVER: {request.param}")
    argv = ["complete", "--shell", request.param]
    result = managed(*argv)
    assert (result.code, result.err) == (0, "")
    (tmp_path / "script").write_text(result.out)
    (tmp_path / "engines.conf").write_text("")
    made = Shell(request.param, tmp_path)
    yield made
    made.close()


COMPLETED = {
    "liveness-manage engi": "liveness-manage engine",
    "liveness-manage engine fe": "liveness-manage engine fence",
    "liveness-manage deadline list --orph": "deadline list --orphaned",
    "liveness-manage engine list --state drai": "--state draining",
    "liveness-manage deadline list -f js": "-f json",
    "liveness-manage db sync --config-file eng": "--config-file engines.conf",
    "liveness-manage sweep --dry": "sweep --dry-run",
    "liveness-audit --recov": "liveness-audit --recover",
}


def test_a_shell_completes_what_is_typed(shell):
    for typed, means in COMPLETED.items():
        assert shell.completed(typed).rstrip().endswith(means), typed
