"""The verdict of a run: as JSON, and as a table for people."""

from __future__ import annotations

import platform
import subprocess
from collections import Counter
from collections.abc import Sequence
from typing import Any

from liveness.version import __version__
from tests.chaos import checker, engine_faults, slots
from tests.chaos.evidence import Line, Violation
from tests.chaos.run import Run

SHOWN = 20
"""Violations that the table shows; the JSON has them all."""


def verdict(
    run: Run, lines: list[Line], violations: Sequence[Violation], seconds: float
) -> dict[str, Any]:
    """Everything that a program wants to know of a run."""
    orders = run.orders
    fences = [line for line in lines if line["what"] == "fence"]
    heads = Counter[str]()
    for line in lines:
        if line["what"] == "claimed" and line["how"] == "head":
            heads[line["line"]] += len(line["tokens"] or ())
    return {
        "operations": checker.operations(lines),
        "faults": dict(sorted(run.faults.items())),
        "violations": [
            {
                "invariant": violation.invariant,
                "rule": violation.rule,
                "story": violation.story,
                "operations": list(violation.operations),
            }
            for violation in violations
        ],
        "seed": orders.seed,
        "seconds": orders.duration,
        "duration": round(seconds, 1),
        "engines": orders.engines,
        "incarnations": sum(line["what"] == "started" for line in lines),
        "fences": sum(line.get("answer") is True for line in fences),
        "from heads": {line: heads[line] for line in ("own", "nobodys")},
        "database": run.database.label,
        "versions": {**run.versions, **machine()},
        "commit": _commit(),
        "mutant": orders.mutant,
        "failed faults": run.failed,
        "not run": {**engine_faults.unavailable(), **run.unavailable},
        "history lines": len(lines),
        "folder": str(run.folder),
    }


def lost(
    lines: list[Line], dump: dict[str, Any], violations: Sequence[Violation]
) -> dict[str, int]:
    """What was acknowledged and then lost by failovers, as often as each rule says so
    that is not asked where that is the documented exception."""
    asked = checker.judge(lines, {**dump, "keeps_commits": True})
    before = {str(violation) for violation in violations}
    rules = Counter(v.rule for v in asked if str(v) not in before)
    return dict(sorted(rules.items()))


def table(found: dict[str, Any]) -> str:
    """The same for people."""
    rows = [
        ("operations", found["operations"]),
        ("engines", f"{found['engines']}, {found['incarnations']} incarnations"),
        ("fences", f"{found['fences']}, {found['inherited']} by what was inherited"),
        ("from heads", ", ".join(f"{n} {k}" for k, n in found["from heads"].items())),
        ("duration", f"{found['duration']:g} s"),
        ("database", ", ".join(f"{k} {v}" for k, v in found["versions"].items())),
    ]
    rows += [(f"fault: {kind}", count) for kind, count in found["faults"].items()]
    rows += [(f"NOT RUN: {kind}", why) for kind, why in found["not run"].items()]
    rows += [
        (f"FAILED: {kind}", count) for kind, count in found["failed faults"].items()
    ]
    rows += [(f"LOST: {rule}", count) for rule, count in found.get("lost", {}).items()]
    rows.append(("violations", len(found["violations"])))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    for violation in found["violations"][:SHOWN]:
        lines += [
            "",
            f"{violation['invariant']}. {violation['rule']}: {violation['story']}",
            f"   {', '.join(violation['operations'])}",
        ]
    if len(found["violations"]) > SHOWN:
        lines += ["", f"… and {len(found['violations']) - SHOWN} more, in the JSON."]
    return "\n".join(lines)


def _commit() -> str | None:
    command = ["git", "-C", str(slots.ROOT), "rev-parse", "--short", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None


def machine() -> dict[str, str]:
    """What it all ran on."""
    return {"liveness": __version__, "Python": platform.python_version()}
