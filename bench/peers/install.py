"""What the peers need, in environments of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.crew import ROOT
from bench.peers.catalogue import ENVIRONMENT, HEAT, HERE, NODE, PEERS, Peer
from tests.heat import venv
from tests.heat.processes import LabError


class Missing(Exception):
    """A peer cannot be had here; the text says why."""


def set_up(names: Sequence[str], tell: Any) -> list[Peer]:
    """Install what the peers need.

    :raises Missing: it cannot be had.
    """
    peers = [PEERS[name] for name in names]
    if any(peer.environment == ENVIRONMENT and not peer.node for peer in peers):
        _python(tell)
    if any(peer.environment == HEAT for peer in peers):
        _heat(tell)
    if any(peer.node for peer in peers):
        _node(tell)
    if any("redis" in peer.stores for peer in peers) and not shutil.which(
        "redis-server"
    ):
        raise Missing("There is no Redis server (apt-get install redis-server)")
    return peers


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
