"""An engine under chaos: a plain program with liveness in it, and a workload.

It is forked, ready to go, by a zygote of its slot: ``python -m tests.chaos.worker FD``.
Its orders are one JSON argument. Commands come on stdin, one JSON object a line:
``{"do": "calm"}`` and ``{"do": "exhaust", "seconds": 3}``. At SIGTERM it drains.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import queue
import random
import signal
import sys
import threading
import time
from typing import Any

import sqlalchemy as sa

from liveness import Liveness, Settings, detector, duty, sweep
from liveness.exceptions import LivenessError
from liveness.identity import Identity
from tests.chaos import history, kinds, mutants, watch
from tests.chaos.history import note
from tests.chaos.workload import Workload, at_work
from tests.processes import zygote
from tests.processes.program import die_with_parent

_calm = threading.Event()


def main() -> int:
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    todo = json.loads(sys.argv[1])
    history.begin(todo["history"], slot=todo["slot"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _live_on(todo["machine"])
    if todo["page"]:
        sweep.PAGE = sweep.OWN_PAGE = todo["page"]
    if todo["window"]:
        detector.WINDOW = sweep.WINDOW = duty.WINDOW = todo["window"]
    mutants.plant(todo.get("mutant"))
    watch.install()
    rng = random.Random(f"{todo['seed']} {todo['slot']} {todo['start']}")
    if todo.get("calm"):
        _calm_down()
    host = _host_engine(todo["options"]["connection"])
    for number in range(1 << 30):
        name = f"{todo['slot']}.{todo['start']}.{number}"
        _one_incarnation(todo, host, name)
        if rng.random() < 0.3:  # others are written so that they start again whole
            break
    return 0


def _live_on(machine: str) -> None:
    """Pretend to be on a machine of that name: whoever is on another one cannot look
    this process up, and has to wait for its silence."""
    mine = dataclasses.replace(
        Identity.of_this_process(), host=machine, boot_id=machine
    )
    Identity.of_this_process = classmethod(lambda cls: mine)  # type: ignore[method-assign, assignment]


def _host_engine(url: str) -> sa.Engine:
    parts = sa.engine.make_url(url)
    patience = {"timeout": 3.0} if parts.drivername == "sqlite" else {}
    if parts.get_backend_name() == "mysql":
        patience = {"connect_timeout": 3, "read_timeout": 5.0, "write_timeout": 5.0}
    elif parts.get_backend_name() == "postgresql":
        patience = {"connect_timeout": 3, "tcp_user_timeout": 5000}
    return sa.create_engine(url, connect_args=patience, pool_size=3, pool_timeout=2)


def _one_incarnation(todo: dict[str, Any], host: sa.Engine, name: str) -> None:
    """One engine's life, until it was fenced; or until SystemExit."""
    commands: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    live = Liveness(Settings.of(**todo["options"]))
    for kind in kinds.KINDS:
        live.add_handler(kind(live))
    live.on_fenced(lambda reason: commands.put(None))
    live.on_fenced(lambda reason: note("fenced", engine=live.engine_id, reason=reason))
    try:
        live.start()
    except LivenessError as error:
        note("not started", error=str(error)[-200:])
        time.sleep(0.3)
        return
    note("started", engine=live.engine_id, name=name, machine=todo["machine"])
    workload = Workload(live, host, name, todo)
    threading.Thread(target=_obey, args=(live, workload), daemon=True).start()
    try:
        if _calm.is_set():
            _wait(commands)
        else:
            with at_work(workload):
                _wait(commands)
    finally:
        note("stopping", engine=live.engine_id)
        live.stop()
        note("stopped", engine=live.engine_id)


def _calm_down() -> None:
    """From now on nothing new is armed, and every handler does its work."""
    kinds.Base.calm = True
    _calm.set()


def _wait(commands: queue.SimpleQueue[Any]) -> None:
    while True:  # so that a signal is heard
        try:
            commands.get(timeout=0.5)
            return
        except queue.Empty:
            continue


_lines: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()


def _obey(live: Liveness, workload: Workload) -> None:
    """Carry out what stdin says, for this incarnation."""
    while live.engine_id and not live._stopped:
        try:
            command = _lines.get(timeout=0.5)
        except queue.Empty:
            continue
        if command["do"] == "calm":
            _calm_down()
            workload.stop()
        elif command["do"] == "exhaust":
            threading.Thread(
                target=_exhaust, args=(live, command["seconds"]), daemon=True
            ).start()


def _exhaust(live: Liveness, seconds: float) -> None:
    """Take every connection that the host program's threads can have."""
    pool, held = live._running._pool, []  # type: ignore[union-attr]
    try:
        for _ in range(live.settings.connections):
            held.append(pool.connect())
        time.sleep(seconds)
    except Exception as error:
        note("exhausting failed", error=type(error).__name__)
    finally:
        for connection in held:
            connection.close()


def _read() -> None:
    for line in sys.stdin:
        _lines.put(json.loads(line))


def run() -> int:
    threading.Thread(target=_read, daemon=True).start()
    return main()


if __name__ == "__main__":
    sys.exit(zygote.main(run))
