"""Short runs: the product as it is, and with bugs that have to be found.

``LIVENESS_CHAOS=120`` makes each run of the product that many seconds long.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.chaos.slots import ROOT

SECONDS = float(os.environ.get("LIVENESS_CHAOS") or 15)
CLASSES = {"mariadb": servers.MariaDB, "postgresql": servers.PostgreSQL}

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(SECONDS * 3 + 300)]


def chaos(database: str, *words: str, folder: Path) -> tuple[int, dict[str, Any]]:
    """The exit code and the verdict of a run in a process of its own."""
    if reason := CLASSES[database].available():
        if os.environ.get("LIVENESS_REQUIRE_SERVERS", "") not in ("", "0"):
            pytest.fail(f"NO SERVER: {reason}", pytrace=False)
        pytest.skip(f"NO SERVER: {reason}")
    file, kept = folder / "verdict.json", folder / "run"
    command = [sys.executable, "-m", "tests.chaos", "--database", database]
    command += ["--json", str(file), "--keep", str(kept), *words]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(result.stderr[-6000:])
    assert result.returncode in (0, 1), "it could not be run"
    return result.returncode, json.loads(file.read_text())


@pytest.mark.parametrize("database", sorted(CLASSES))
def test_nothing_is_violated(database: str, tmp_path: Path):
    words = ["--seconds", str(SECONDS), "--seed", "11"]
    code, found = chaos(database, *words, folder=tmp_path)
    assert found["violations"] == []
    assert code == 0
    assert found["operations"] > 20
    assert sum(found["faults"].values()) > SECONDS / 4
    assert found["from heads"]["nobodys"] > 0
    assert found["seed"] == 11


@pytest.mark.parametrize(
    ("database", "mutant", "invariant"),
    [
        ("mariadb", "settled-without-the-token", 1),
        ("postgresql", "guard-is-not-told", 3),
    ],
)
def test_a_bug_is_found(database: str, mutant: str, invariant: int, tmp_path: Path):
    code, found = chaos(database, "--mutant", mutant, folder=tmp_path)
    assert code == 1
    assert invariant in {each["invariant"] for each in found["violations"]}
    for violation in found["violations"]:
        assert violation["story"] and violation["operations"]
