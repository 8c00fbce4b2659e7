"""Rules that need Heat, and no servers."""

from __future__ import annotations

import os
import subprocess

from tests.heat import venv
from tests.heat.processes import ROOT


def test_the_wrappers_keep_their_rules(need_heat: None) -> None:
    done = subprocess.run(
        [*venv.liveness().python, "-m", "unittest", "tests.heat.inside_heat"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "\nRan " in done.stderr and "Ran 0 " not in done.stderr
