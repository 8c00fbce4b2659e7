"""What the peers need, in environments of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.crew import ROOT
from bench.peers.catalogue import ENVIRONMENT, HEAT, HERE, NODE, PEERS, Peer
from tests.heat import venv
from tests.heat.processes import LabError


class Missing(Exception):
    """A peer cannot be had here; the text says why."""


def set_up(names: Sequence[str], tell: Any) -> list[Peer]:
    """Install what the peers need; those that can be had, and a word on stderr about
    what the others lack."""
    peers = [PEERS[name] for name in names]
    every = dict.fromkeys(need for peer in peers for need in needs(peer))
    had = {need for need in every if _had(need, tell)}
    return [peer for peer in peers if had.issuperset(needs(peer))]


def needs(peer: Peer) -> list[Callable[[Any], None]]:
    """What sees to what the peer needs."""
    if peer.node:
        found = [_node]
    else:
        found = [_heat if peer.environment == HEAT else _python]
    return [*found, _redis] if "redis" in peer.stores else found


def _had(need: Callable[[Any], None], tell: Any) -> bool:
    try:
        need(tell)
    except Missing as error:
        print(f"Not measured: {error}", file=sys.stderr)
        return False
    return True


def _redis(tell: Any) -> None:
    if shutil.which("redis-server") is None:
        raise Missing("there is no Redis server (apt-get install redis-server)")


def _python(tell: Any) -> None:
    wanted = HERE / "requirements.txt"
    stamp = ENVIRONMENT / "stamp"
    if stamp.exists() and stamp.stat().st_mtime >= wanted.stat().st_mtime:
        return
    tell(f"installing {wanted.relative_to(ROOT)} into {ENVIRONMENT.name}")
    _call([sys.executable, "-m", "venv", str(ENVIRONMENT)])
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    _call([*pip, "--disable-pip-version-check", "-r", str(wanted)])
    stamp.touch()


def _heat(tell: Any) -> None:
    tell(f"installing a Heat into {HEAT.name}, unless it is there")
    try:
        venv.stock()
    except LabError as error:
        raise Missing(str(error)) from error


def _node(tell: Any) -> None:
    if shutil.which("npm") is None:
        raise Missing("graphile and pgboss need Node 20 (apt-get install nodejs npm)")
    wanted = NODE / "package.json"
    stamp = NODE / "node_modules" / ".stamp"
    if stamp.exists() and stamp.stat().st_mtime >= wanted.stat().st_mtime:
        return
    tell(f"installing {wanted.relative_to(ROOT)}")
    _call(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=NODE)
    stamp.touch()


def _call(command: list[str], cwd: Path = ROOT) -> None:
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise Missing(f"{' '.join(command[:4])} failed:\n{done.stdout[-1500:]}")
