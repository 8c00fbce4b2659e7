"""The lab for a whole run, one Heat per mode, and the report at its end."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.heat import venv
from tests.heat.fleet import ini
from tests.heat.lab import Cloud, Lab
from tests.heat.processes import ROOT, Group, LabError
from tests.heat.report import Report
from tests.heat.run import Stuck
from tests.servers import MariaDB

SECONDS = 900  # of one test, with the set-up of everything
# How much of it: 0 nothing, short (the default) what takes some minutes, 1 all.
WANTED = os.environ.get("LIVENESS_HEAT", "") != "0"
SHORT = os.environ.get("LIVENESS_HEAT", "") in ("", "short")

INSIDE = ROOT / "tests" / "heat" / "inside"

_NEEDS_HEAT = {"cloud", "lab", "inside"}

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
    last.sort(key=lambda item: "inside" in item.fixturenames)
    first = [item for item in items if item not in last + left_out]
    items[:] = first + last
    if first and last and not config.option.collectonly:
        _make_environments(config)


def _make_environments(config: pytest.Config) -> None:
    """While the other tests run, when nothing else does: pip takes a minute or two.
    Whoever needs them waits for the rest."""
    process = subprocess.Popen(
        ["nice", "-n", "19", sys.executable, "-m", "tests.heat.venv"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def end() -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # what is half made is made anew
        process.wait()

    config.add_cleanup(end)


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
def inside() -> Iterator[Future[tuple[int, str]]]:
    """What comes of the tests in the folder of that name: their exit code, and what
    they said. They have a process and a server of their own."""
    _give_up_for(MariaDB.available() or _without_heat())
    group, database, executor = Group("inside"), MariaDB(), ThreadPoolExecutor(1)
    try:
        yield executor.submit(_run_inside, group, database)
    finally:
        group.close()
        executor.shutdown()
        database.close()


def _run_inside(group: Group, database: MariaDB) -> tuple[int, str]:
    database.start()
    database.create_database("inside")
    url = database.url("inside")
    heat, (_, packages) = venv.liveness(), venv.unit_tests()
    config = str(group.write("inside.conf", ini({"database": {"connection": url}})))
    for sync in (
        [*heat.script("heat-manage"), "--config-file", config, "db_sync"],
        [*heat.script("liveness-manage"), "db", "sync", "--config-file", config],
    ):
        group.run("sync", sync)
    child = group.spawn(
        "inside",
        [
            *("nice", *heat.python, "-m", "pytest", "-q"),
            *("-p", "no:cacheprovider", "-c", str(INSIDE / "pytest.ini")),
            *("--rootdir", str(ROOT), str(INSIDE)),
        ],
        env={
            "PYTHONPATH": os.pathsep.join([str(packages), str(ROOT)]),
            "LIVENESS_HEAT_URL": url,
        },
    )
    return child.wait(SECONDS), group.log("inside").read_text(errors="replace")


@pytest.fixture(scope="session")
def _labs(
    cloud: Cloud, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], Lab]]:
    if SHORT and any(
        "inside" in getattr(i, "fixturenames", ()) for i in request.session.items
    ):
        request.getfixturevalue("inside")  # beside the others, which mostly wait
    labs: dict[str, Lab] = {}

    def obtain(mode: str) -> Lab:
        for other, lab in labs.items():
            if other != mode:
                lab.fleet.end()  # two cores are not many
        if mode not in labs:
            labs[mode] = cloud.lab(mode)
            labs[mode].create_schema()
            labs[mode].connect()
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
    terminalreporter.write_line(json.dumps(_report.summary()))
    terminalreporter.write_line(f"written to {path} at {time.strftime('%H:%M:%S')}")
