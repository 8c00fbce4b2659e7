"""No node survives a test run that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.cluster.conftest import LONG
from tests.galera import Galera
from tests.proc import Process, gone, until
from tests.processes.crew import ROOT

SCRIPT = """
import time
from tests.galera import Galera

galera = Galera()
galera.start()
galera[1].pause()
for node in galera:
    print(node.process.pid, node.process.started, node.folder, flush=True)
time.sleep(600)
"""


@LONG
def test_no_node_survives_a_killed_run(galera: Galera):
    """It is a second cluster: their networks do not know of each other."""
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        lines = [child.stdout.readline().split() for _ in galera]
        child.send_signal(signal.SIGKILL)
    nodes = [Process(int(pid), int(started)) for pid, started, _ in lines]
    assert len(nodes) == 3
    assert gone(nodes, 20)
    folders = [folder for *_, folder in lines]
    assert until(lambda: not any(map(os.path.exists, folders)), 20)
    assert galera.whole
