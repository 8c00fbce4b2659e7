"""Heat's own unit tests, without this package, with it, and with it enabled.

`make heat-unit`. The three runs must not differ in a single test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.heat import venv

SERVICE = (
    "service_engine",
    "software_config",
    "stack_action",
    "stack_adopt",
    "stack_create",
    "stack_delete",
    "stack_events",
    "stack_resources",
    "stack_snapshot",
    "stack_update",
    "threadgroup_mgr",
)
ENGINE = (
    "check_resource",
    "dependencies",
    "engine_worker",
    "node_data",
    "plugin_manager",
    "resource_type",
    "scheduler",
    "snapshots",
    "sync_point",
)
MODULES = (
    "heat.tests.convergence.test_converge",
    "heat.tests.test_convg_stack",
    "heat.tests.test_engine_service",
    "heat.tests.test_resource",
    *(f"heat.tests.engine.test_{name}" for name in ENGINE),
    *(f"heat.tests.engine.service.test_{name}" for name in SERVICE),
)
CHILD = Path(__file__).with_name("unit_child.py")
SECONDS = 900  # of one run


@dataclass(frozen=True)
class Variant:
    name: str
    python: list[str]
    enabled: bool
    plugin: str
    """What must be seen of this package in that process."""


@dataclass(frozen=True)
class Result:
    variant: Variant
    plugin: str
    tests: dict[str, tuple[str, str]]
    """By test: a word, and the reason."""
    seconds: float


def variants() -> list[Variant]:
    stock, ours = venv.stock().python, venv.liveness().python
    return [
        Variant("absent", stock, False, "absent"),
        Variant("disabled", ours, False, "idle"),
        Variant("enabled", ours, True, "active"),
    ]


def run(variant: Variant, folder: Path) -> Result:
    """:raises SystemExit: when the process ends in another way than by itself."""
    out, log = folder / f"{variant.name}.json", folder / f"{variant.name}.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, venv.unit_tests()))
    enabled = "enabled" if variant.enabled else ""
    command = [*variant.python, "-P", str(CHILD), str(out), enabled, *MODULES]
    start = time.monotonic()
    with open(log, "wb") as file:
        code = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
        ).returncode
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise SystemExit(f"{variant.name}: ended with {code}\n{tail}")
    found = json.loads(out.read_text())
    tests = {name: (word, reason) for name, (word, reason) in found["tests"].items()}
    return Result(variant, found["plugin"], tests, time.monotonic() - start)


def differences(results: Iterable[Result]) -> Iterator[str]:
    """What is not as it was in the first, a line for each test."""
    first, *others = results
    for other in others:
        for name in sorted(first.tests.keys() | other.tests.keys()):
            was = first.tests.get(name, ("not run", ""))
            is_now = other.tests.get(name, ("not run", ""))
            if was[0] != is_now[0]:
                yield (
                    f"{name}: {was[0]} when {first.variant.name},"
                    f" {is_now[0]} when {other.variant.name} ({was[1] or is_now[1]})"
                )


def misplaced(results: Iterable[Result]) -> Iterator[str]:
    """Runs that did not run what they should have."""
    for result in results:
        if result.plugin != result.variant.plugin:
            yield (
                f"{result.variant.name}: the plugin should have been"
                f" {result.variant.plugin}, and was {result.plugin}"
            )
        if not result.tests:
            yield f"{result.variant.name}: no test was run"


def table(results: Iterable[Result]) -> Iterator[str]:
    yield f"{'package':10}{'tests':>7}{'ok':>7}{'other':>7}{'seconds':>9}"
    for result in results:
        words = Counter(word for word, _ in result.tests.values())
        ok, total = words.pop("ok", 0), len(result.tests)
        yield (
            f"{result.variant.name:10}{total:7}{ok:7}{total - ok:7}"
            f"{result.seconds:9.0f}  {dict(words) or ''}"
        )


def failing(result: Result) -> Iterator[str]:
    for name, (word, reason) in sorted(result.tests.items()):
        if word not in ("ok", "skipped"):
            yield f"{name}: {word} ({reason})"


def main() -> int:
    results = []
    with tempfile.TemporaryDirectory(prefix="liveness-heat-unit-") as folder:
        for variant in variants():
            print(f"Heat's own tests, this package {variant.name} ...", flush=True)
            results.append(run(variant, Path(folder)))
    print(*table(results), sep="\n")
    for line in failing(results[0]):
        print("fails on stock Heat too:", line)
    wrong = [*misplaced(results), *differences(results)]
    print(*wrong, sep="\n")
    print(f"{len(wrong)} differences" if wrong else "No test differs.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
