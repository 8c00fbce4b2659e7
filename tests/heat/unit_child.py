"""Run tests of Heat's own in this process, and write down what came of each.

Started by unit.py as a script, by the Python of one variant.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import unittest
from pathlib import Path
from typing import Any


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


def plugin() -> str:
    """What is to be seen here of the package liveness."""
    found = importlib.metadata.entry_points(group="heat.stack_lifecycle_plugins")
    if not any(point.value.startswith("liveness.") for point in found):
        return "absent"
    method = importlib.import_module("heat.engine.worker").WorkerService.check_resource
    while method is not None:
        if f"{os.sep}liveness{os.sep}" in method.__code__.co_filename:
            return "active"
        method = getattr(method, "__wrapped__", None)
    return "idle"


def main(out: str, modules: list[str]) -> None:
    sys.argv[0] = "heat-engine"
    importlib.import_module("heat.tests.common")  # chooses oslo.service's backend
    loader = unittest.defaultTestLoader
    tests = unittest.TestSuite(loader.loadTestsFromName(name) for name in modules)
    outcomes = Outcomes()
    tests.run(outcomes)
    found = {"plugin": plugin(), "tests": outcomes.tests}
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
