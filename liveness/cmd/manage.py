"""``liveness-manage``: the operator's command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from liveness.cmd import base

COMMANDS = {
    "audit": "liveness.cmd.audit:Audit",
    "config check": "liveness.cmd.config:Check",
    "db check": "liveness.cmd.db:Check",
    "db sync": "liveness.cmd.db:Sync",
    "db version": "liveness.cmd.db:Version",
    "deadline disarm": "liveness.cmd.deadlines:Disarm",
    "deadline list": "liveness.cmd.deadlines:List",
    "deadline park": "liveness.cmd.deadlines:Park",
    "deadline retry": "liveness.cmd.deadlines:Retry",
    "deadline show": "liveness.cmd.deadlines:Show",
    "engine drain": "liveness.cmd.engines:Drain",
    "engine fence": "liveness.cmd.engines:Fence",
    "engine list": "liveness.cmd.engines:List",
    "engine show": "liveness.cmd.engines:Show",
    "history": "liveness.cmd.history:History",
    "purge": "liveness.cmd.sweep:Purge",
    "sweep": "liveness.cmd.sweep:Sweep",
    "top": "liveness.cmd.top:Top",
    "web": "liveness.cmd.web:Web",
}
"""The words of each command, and its class. A new command is one line here."""

DESCRIPTION = "Look after the database that liveness engines share."


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 after a mistake, with one line; or what the command says."""
    from liveness.cmd.app import Manage

    program = Manage(DESCRIPTION, COMMANDS)
    try:
        code = program.run(sys.argv[1:] if argv is None else argv)
    except SystemExit as stop:  # after --help
        code = stop.code if isinstance(stop.code, int) else 0
    return base.flushed(program.NAME, code)


if __name__ == "__main__":
    sys.exit(main())
