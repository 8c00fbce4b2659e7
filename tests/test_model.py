"""The models of the protocol hold, and the checker finds every mutant of them.

This is the short form: every mutant, and small bounds. The rest is ``make model``.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "model"
PAGE = ROOT / "doc" / "source" / "model.rst"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not MODEL.is_dir(), reason="the models are not here (an installed package)"
    ),
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    missing = [name for name in ("spin", "gcc") if shutil.which(name) is None]
    if missing:
        required = os.environ.get("LIVENESS_REQUIRE_SERVERS", "") not in ("", "0")
        (pytest.fail if required else pytest.skip)(f"not installed: {missing}")
    command = [sys.executable, str(MODEL / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@functools.cache
def verdict() -> dict[str, Any]:
    done = run("--short", "-f", "json")
    assert done.stdout, done.stderr
    return {**json.loads(done.stdout), "status": done.returncode}


def planted() -> set[str]:
    """The mutants that the models have a switch for."""
    texts = [path.read_text() for path in MODEL.glob("*.pml")]
    tests = re.findall(r"^#.*if.*\bM_.*$", "\n".join(texts), re.MULTILINE)
    return set(re.findall(r"\bM_[A-Z_]+", "\n".join(tests)))


def test_every_model_holds_and_nothing_was_left_out():
    assert verdict()["failures"] == []
    assert verdict()["violations"] == 0
    assert verdict()["states"] > 1_000_000
    assert verdict()["status"] == 0


def test_every_mutant_is_caught():
    assert verdict()["caught"] == verdict()["mutants"] >= 50


def test_every_switch_of_a_mutant_is_checked():
    runs = [each["search"].split()[-1] for each in verdict()["runs"]]
    assert {name for name in runs if name.startswith("M_")} == planted()


def test_every_mutant_is_explained():
    explained = re.findall(r"^``(M_[A-Z_]+)``$", PAGE.read_text(), re.MULTILINE)
    assert sorted(explained) == sorted(planted())


def test_every_model_is_checked():
    runs = {each["search"].split()[0] for each in verdict()["runs"]}
    assert runs == {path.stem for path in MODEL.glob("*.pml")} - {"common"}


def test_a_mutant_that_nobody_plants_is_an_error():
    assert run("M_NO_SUCH_MUTANT").returncode == 2


def test_the_way_to_a_violation_can_be_read():
    done = run("M_RESIGN_TRUSTED")
    assert "E has resigned" in done.stdout
