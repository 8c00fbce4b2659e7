"""Runs the tests of the folder ``inside``, which need Heat in their process."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.heat import venv
from tests.heat.lab import Lab
from tests.heat.processes import ROOT

HERE = ROOT / "tests" / "heat" / "inside"


@pytest.mark.parametrize("mode", ["liveness"])
def test_inside_a_process_with_heat(mode: str, lab: Lab) -> None:
    lab.fleet.end()
    lab.options = None
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    _, packages = venv.unit_tests()
    environment["PYTHONPATH"] = os.pathsep.join([str(packages), str(ROOT)])
    environment["LIVENESS_HEAT_URL"] = lab.cloud.database.url(lab.name)
    command = [*venv.liveness().python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-c", str(HERE / "pytest.ini"), "--rootdir", str(ROOT), str(HERE)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
