"""Run tests of Heat's own in this process, and write down what came of each.

Started by unit.py as a script, by the Python of one variant.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import sqlite3
import sys
import unittest
from pathlib import Path
from typing import Any

from oslo_config import cfg


class Outcomes(unittest.TestResult):
    """What came of each test: a word, and for people the reason."""

    def __init__(self) -> None:
        super().__init__()
        self.tests: dict[str, list[str]] = {}

    def startTest(self, test: Any) -> None:
        super().startTest(test)
        self.tests[test.id()] = ["no outcome", ""]

    def addSuccess(self, test: Any, details: Any = None) -> None:
        self._note(test, "ok")

    def addError(self, test: Any, err: Any = None, details: Any = None) -> None:
        self._note(test, "error", _reason(err, details))

    def addFailure(self, test: Any, err: Any = None, details: Any = None) -> None:
        self._note(test, "failed", _reason(err, details))

    def addSkip(self, test: Any, reason: str = "", details: Any = None) -> None:
        self._note(test, "skipped", reason)

    def addExpectedFailure(self, test: Any, err: Any = None, details=None) -> None:
        self._note(test, "failed as expected")

    def addUnexpectedSuccess(self, test: Any, details: Any = None) -> None:
        self._note(test, "unexpected success")

    def _note(self, test: Any, word: str, reason: str = "") -> None:
        before = self.tests.get(test.id(), ["no outcome"])[0]
        if before in ("no outcome", "ok"):  # a clean-up may fail, too
            self.tests[test.id()] = [word, reason]


def _reason(err: Any, details: Any) -> str:
    if err is not None:
        text = f"{err[0].__name__}: {err[1]}"
    else:
        text = "\n".join(details[name].as_text() for name in sorted(details))
    lines = text.strip().splitlines() or [""]
    return lines[-1].strip()[:300]


def enable(database: Path) -> None:
    """What heat.conf would say; and an engine that runs, so that the tests' actions
    and stacks are written down. Nothing is scanned, and a pause lets nothing be
    recovered: Heat's database is in memory, one connection, not for two threads."""
    from liveness import conf as core
    from liveness.db import migration
    from liveness.heat import conf, engine, pause, scan

    url = f"sqlite:///{database}"
    migration.sync(url)
    cfg.set_defaults(core.OPTIONS, connection=url)
    cfg.set_defaults(conf.OPTIONS, enabled=True)
    scan.begin = scan.after_death = _nothing
    # Tests stop services that they have not started, and go on.
    engine.HeatEngine.begin_stop = engine.HeatEngine.end = _nothing
    cfg.CONF([], default_config_files=[])
    engine.HeatEngine("an-engine-of-the-tests", None, cfg.CONF).begin()
    running = engine.current()
    assert running is not None
    running.live.arm(pause.PAUSE, pause.KEY, due_in=86400)


def _nothing(*arguments: Any) -> None:
    pass


def plugin(database: Path) -> str:
    """What is to be seen here of the package liveness."""
    found = importlib.metadata.entry_points(group="heat.stack_lifecycle_plugins")
    if not any(point.value.startswith("liveness.") for point in found):
        return "absent"
    loaded = sys.modules.get("liveness.heat.plugin")
    if loaded is None or not loaded.INSTALLED:
        return "idle"
    return "active" if armed(database) else "active, and nothing was written down"


def armed(database: Path) -> int:
    """How many deadlines there have ever been."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        row = connection.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'liveness_deadline'"
        ).fetchone()
    return 0 if row is None else int(row[0])


def main(out: str, enabled: str, modules: list[str]) -> None:
    sys.argv[0] = "heat-engine"
    importlib.import_module("heat.tests.common")  # chooses oslo.service's backend
    database = Path(out).with_suffix(".sqlite")
    if enabled == "enabled":
        enable(database)
    loader = unittest.defaultTestLoader
    tests = unittest.TestSuite(loader.loadTestsFromName(name) for name in modules)
    outcomes = Outcomes()
    tests.run(outcomes)
    found = {"plugin": plugin(database), "tests": outcomes.tests}
    Path(out).write_text(json.dumps(found))
    os._exit(0)  # whatever threads are left


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
