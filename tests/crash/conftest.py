"""How many crash points there were, at the end of the run."""

from __future__ import annotations

import pytest

from tests.crash.points import COUNTED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COUNTED:
        struck, every = map(sum, zip(*COUNTED.values(), strict=True))
        where = f"{len(COUNTED)} operations on databases"
        terminalreporter.write_line(f"{struck} of {every} crash points, in {where}")
