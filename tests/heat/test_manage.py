"""heat-manage with our commands, and Heat's own with the patch that is in the docs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.heat import venv
from tests.heat.lab import Lab
from tests.heat.processes import ROOT
from tests.heat.templates import chain
from tests.proc import until

PAGE = ROOT / "doc" / "source" / "heat-manage.rst"
NATIVE = (
    "db_version",
    "db_sync",
    "migrate_convergence_1",
    "purge_deleted",
    "update_params",
    "resource_data_list",
    "reset_stack_status",
    "migrate_properties_data",
    "service",
)

pytestmark = pytest.mark.parametrize("mode", ["liveness"])


class Manage:
    def __init__(self, lab: Lab, command: list[str]) -> None:
        config = lab.group.path("etc", f"{lab.name}-base.conf")
        self._command = [*command, "--config-file", str(config)]

    def __call__(self, *words: str, code: int | None = 0) -> str:
        done = subprocess.run(
            [*self._command, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        print(done.stderr)
        assert code in (None, done.returncode), done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def manage(lab: Lab) -> Manage:
    return Manage(lab, lab.venv.script("liveness-heat-manage"))


@pytest.fixture
def native(lab: Lab) -> Manage:
    return Manage(lab, lab.cloud.venv.script("heat-manage"))


def test_every_native_command_is_there(manage: Manage, native: Manage) -> None:
    ours, theirs = manage("--help"), native("--help")
    assert ",".join(NATIVE) in theirs and "liveness" not in theirs
    assert ",".join((*NATIVE, "liveness")) in ours
    assert last_line(manage("db_version")) == last_line(native("db_version"))
    assert services(manage) == services(native)


def services(manage: Manage) -> list[str]:
    """The list, without its last column: a time that moves on."""
    return [
        line[: -len("2026-01-01 00:00:00")]
        for line in manage("service", "list").splitlines()
    ]


@pytest.fixture
def engines(lab: Lab) -> None:
    if lab.options is None:
        lab.start_engines()
    else:
        lab.ensure_engines()


def last_line(text: str) -> str:
    return text.splitlines()[-1]  # the others are its log


def test_engines_are_listed_and_the_audit_is_silent(
    lab: Lab, engines: None, manage: Manage
) -> None:
    alive = {worker.engine_id for worker in lab.workers}
    rows = json.loads(manage("liveness", "engine", "list", "-f", "json"))
    assert alive <= {row["id"] for row in rows if row["state"] == "live"}
    host = rows[0]["host"]
    assert alive <= {
        row["id"]
        for row in json.loads(
            manage("liveness", "engine", "list", "--host", host, "-f", "json")
        )
    }
    # Engines of tests before this one may have left something to tidy up.
    ours = ("stack-idle", "stack-untimed", "lock-dead", "engine-stock", "scan-missing")
    found = json.loads(manage("liveness", "audit", "-f", "json", code=None))
    assert [f for f in found["findings"] if f["code"] in ours] == []


def test_a_pause_is_the_fleets_until_it_is_ended(
    lab: Lab, engines: None, manage: Manage
) -> None:
    assert "5 minutes" in manage("liveness", "pause", "--minutes", "5", "--yes")
    kind = ("--kind", "heat_pause", "-f", "json")
    [row] = json.loads(manage("liveness", "deadline", "list", *kind))
    assert row["key"] == "fleet"
    assert manage("liveness", "resume") == "The pause is over.\n"
    assert manage("liveness", "resume") == "There was no pause.\n"


@pytest.mark.long
def test_a_worker_that_is_asked_to_drain_ends_and_a_new_one_comes(
    lab: Lab, engines: None, manage: Manage
) -> None:
    asked = lab.workers[0]
    manage("liveness", "engine", "drain", asked.engine_id, "--yes")
    assert until(lambda: not asked.alive, 30)
    lab.wait_engines()
    rows = json.loads(manage("liveness", "engine", "list", "-f", "json"))
    states = {row["id"]: row["state"] for row in rows}
    assert states[asked.engine_id] == "stopped"
    stack = lab.create_stack(chain(2), timeout_mins=2)
    assert lab.wait_stack(stack, ended=True).state == "CREATE_COMPLETE"


@pytest.mark.long
def test_what_was_parked_goes_on_when_the_operator_says_so(
    lab: Lab, manage: Manage
) -> None:
    lab.start_engines()
    stack = lab.create_stack(chain(2, create_secs=8), timeout_mins=10)
    lab.holder(stack, "r0")
    for worker in lab.workers:
        worker.kill()
    lab.fleet.end()
    lab.query(
        "UPDATE liveness_deadline SET state = 'parked', last_error = 'by a test'"
        " WHERE kind = 'resource_action'"
    )
    lab.start_engines()
    parked = ("deadline", "list", "--state", "parked", "-f", "json")
    [row] = json.loads(manage("liveness", *parked))
    assert lab.stack(stack).state == "CREATE_IN_PROGRESS"
    manage("liveness", "deadline", "retry", row["kind"], row["key"], "--yes")
    assert lab.wait_stack(stack, ended=True).state == "CREATE_COMPLETE"
    assert json.loads(manage("liveness", *parked)) == []


def test_the_audit_says_what_nobody_works_on_and_what_is_done_about_it(
    lab: Lab, manage: Manage
) -> None:
    lab.start_engines(stock=True)
    stack = lab.create_stack(chain(2, create_secs=600), timeout_mins=60)
    held = lab.holder(stack, "r0")
    lab.kill(held)
    for worker in lab.workers:
        worker.kill()
    lab.fleet.end()
    lab.query("DELETE FROM service")
    [row] = [row for row in lab.rows(stack) if row.engine_id]
    found = json.loads(manage("liveness", "audit", "-f", "json", code=1))["findings"]
    by_code = {f["code"]: f for f in found if stack in f["subject"]}
    assert f"resource {row.id} retriggered" in by_code["stack-idle"]["message"]
    assert by_code["stack-untimed"]
    [lock] = [f for f in found if f["code"] == "lock-dead"]
    assert f"resource {row.id} (r0)" == lock["subject"]
    assert "CREATE_IN_PROGRESS, held by engine" in lock["message"]
    assert "then it is finished or made again" in lock["message"]
    ignored = ["--ignore", "stack-idle", "--ignore", "lock-dead"]
    rest = json.loads(manage("liveness", "audit", "-f", "json", *ignored, code=1))[
        "findings"
    ]
    assert {"stack-idle", "lock-dead"} & {f["code"] for f in rest} == set()
    lab.query("UPDATE stack SET status = 'FAILED' WHERE id = %s", stack)
    lab.query("UPDATE resource SET engine_id = NULL WHERE stack_id = %s", stack)


def test_heat_manage_with_the_patch_of_the_docs_has_the_command(
    lab: Lab, tmp_path: Path
) -> None:
    before = venv.unit_tests()[0] / "heat" / "cmd" / "manage.py"
    patched = tmp_path / "manage.py"
    patched.write_text(patch(before.read_text(), diff_in(PAGE)))
    script = tmp_path / "heat-manage"
    script.write_text("import manage\nmanage.main()\n")
    native = Manage(lab, [*lab.venv.python, str(script)])
    assert ",".join((*NATIVE, "liveness")) in native("--help")
    assert native("service", "list")
    assert "engines" not in native("liveness", "engine", "list", "-f", "csv", code=0)


def diff_in(page: Path) -> list[str]:
    _, _, rest = page.read_text().partition(".. code-block:: diff\n\n")
    return [line.removeprefix("    ") for line in rest.splitlines()]


def patch(text: str, diff: list[str]) -> str:
    """Apply a unified diff: each hunk where it says, and nowhere else."""
    lines, moved = text.splitlines(), 0
    position = 0
    for line in diff:
        if line.startswith(("---", "+++")):
            continue
        if line.startswith("@@"):
            position = int(line.split()[1].split(",")[0].lstrip("-")) - 1 + moved
        elif line.startswith("+"):
            lines.insert(position, line[1:])
            position, moved = position + 1, moved + 1
        else:
            assert lines[position] == line[1:], f"line {position + 1} is another"
            position += 1
    return "\n".join(lines) + "\n"
