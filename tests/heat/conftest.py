"""The lab for a whole run, one Heat per mode, and the report at its end."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.heat import venv
from tests.heat.lab import Cloud, Lab
from tests.heat.processes import ROOT, LabError
from tests.heat.report import Report
from tests.heat.run import Stuck

SECONDS = 900  # of one test, with the set-up of everything
# How much of it: 0 nothing, short (the default) what takes some minutes, 1 all.
WANTED = os.environ.get("LIVENESS_HEAT", "") != "0"
SHORT = os.environ.get("LIVENESS_HEAT", "") in ("", "short")

_NEEDS_HEAT = {"cloud", "lab"}

_report = Report()
_stuck: list[Stuck] = []


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "heat: runs a real Heat; not with LIVENESS_HEAT=0"
    )
    config.addinivalue_line("markers", "long: of those, not in the short set")


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """The whole of what needs a real Heat is `make heat-e2e`; the short set is in the
    ordinary suite, and last: it makes an environment and servers of its own."""
    here = Path(__file__).parent
    left_out = []
    last = []
    for item in items:
        if here in item.path.parents and _NEEDS_HEAT & set(item.fixturenames):
            item.add_marker(pytest.mark.heat)
            item.add_marker(pytest.mark.timeout(SECONDS))
            wanted = WANTED and not (SHORT and item.get_closest_marker("long"))
            (last if wanted else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in last + left_out] + last


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    _give_up_for(Cloud.available() or _without_heat())
    cloud = Cloud()
    cloud.start()
    try:
        yield cloud
    finally:
        cloud.close()


def _give_up_for(reason: str | None) -> None:
    if reason is None:
        return
    if os.environ.get("LIVENESS_REQUIRE_SERVERS", "") not in ("", "0"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(f"NO SERVER: {reason}")


def _without_heat() -> str | None:
    """None, or why Heat cannot be installed: mostly, there is no network."""
    try:
        venv.liveness()
    except LabError as error:
        return f"Heat: {error}"
    return None


@pytest.fixture(scope="session")
def _labs(cloud: Cloud) -> Iterator[Callable[[str], Lab]]:
    labs: dict[str, Lab] = {}

    def obtain(mode: str) -> Lab:
        for other, lab in labs.items():
            if other != mode:
                lab.fleet.end()  # two cores are not many
        if mode not in labs:
            labs[mode] = cloud.lab(mode)
            labs[mode].create_schema()
        return labs[mode]

    yield obtain
    for lab in labs.values():
        lab.close()


@pytest.fixture
def lab(mode: str, request: pytest.FixtureRequest) -> Lab:
    """The Heat of this mode, without engines: `start_engines` starts some."""
    if mode == "liveness" and importlib.util.find_spec("liveness.heat") is None:
        pytest.skip("NO liveness.heat in this checkout yet")
    return request.getfixturevalue("_labs")(mode)


@pytest.fixture
def report() -> Report:
    return _report


@pytest.fixture
def stuck() -> list[Stuck]:
    """What no engine will ever finish, so far in this run."""
    return _stuck


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _report.outcomes:
        return
    path = Path(os.environ.get("LIVENESS_HEAT_JSON") or ROOT / "heat-e2e.json")
    _report.write(path)
    terminalreporter.section("Heat, with its engines killed")
    for line in _report.table():
        terminalreporter.write_line(line)
    terminalreporter.write_line(f"written to {path} at {time.strftime('%H:%M:%S')}")
