"""The models of the protocol hold, and the checker finds every mutant of them.

This is the short form: every mutant, and small bounds. The rest is ``make model``.
"""

import functools
import importlib.util
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


def module() -> Any:
    """model/run.py, which is not part of any package."""
    spec = importlib.util.spec_from_file_location("model_run", MODEL / "run.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # for dataclasses
    spec.loader.exec_module(loaded)
    return loaded


def require_spin() -> None:
    missing = [name for name in ("spin", "gcc") if shutil.which(name) is None]
    if missing:
        required = os.environ.get("LIVENESS_REQUIRE_SERVERS", "") not in ("", "0")
        (pytest.fail if required else pytest.skip)(f"not installed: {missing}")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    require_spin()
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


# --- the checker is checked -----------------------------------------------------------
@pytest.fixture
def checker() -> Any:
    require_spin()
    return module()


def test_a_violation_of_a_model_is_a_failure(checker, tmp_path):
    search = checker.Search("takeover", "M_PURGES_AN_OWNER")
    found = checker.run(search, str(tmp_path))
    assert found.problem.startswith("violated: assertion violated")


def test_a_mutant_that_nothing_catches_is_a_failure(checker, tmp_path):
    search = checker.Search("ttl", kind="mutant", name="M_LOWERED_LATER")
    assert checker.run(search, str(tmp_path)).problem == "not caught"


def test_a_search_that_is_not_deep_enough_is_a_failure(checker, tmp_path):
    checker.DEPTH = 20
    found = checker.run(checker.Search("takeover"), str(tmp_path))
    assert found.problem == "the search was cut short"


def test_a_search_that_runs_out_of_memory_is_a_failure(checker, tmp_path):
    checker.MEMORY = 50
    found = checker.run(checker.Search("ttl"), str(tmp_path))
    assert found.problem == "the search was cut short"


def test_a_search_that_runs_out_of_time_is_a_failure(checker, tmp_path):
    checker.PATIENCE = 0.001
    found = checker.run(checker.Search("takeover"), str(tmp_path))
    assert found.problem == "not done in 0.001 s"


def test_what_never_happens_is_a_failure(checker, tmp_path):
    model = (MODEL / "takeover.pml").read_text()
    model = model.replace("open && !owned ->", "open && !owned && false ->")
    (tmp_path / "takeover.pml").write_text(model)
    shutil.copy(MODEL / "common.pml", tmp_path)
    checker.HERE = tmp_path
    found = checker.run(checker.Search("takeover"), str(tmp_path))
    assert found.problem is None
    missing = checker.unreached([found])
    assert "takeover: never: server: the arm is committed" in missing
    assert "takeover: never: TAKEN_MISSING" in missing
    assert "takeover: never: E's row is purged" not in missing


def test_a_model_that_cannot_be_read_is_a_failure(checker, tmp_path):
    (tmp_path / "takeover.pml").write_text("proctype Broken( {")
    checker.HERE = tmp_path
    found = checker.run(checker.Search("takeover"), str(tmp_path))
    assert found.problem.startswith("spin failed")
