"""What is said while a run goes on, and at its end."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from liveness import __version__
from tests.endure.stage import Given


class Tell:
    """Says on stderr how far it is."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet

    def __call__(self, text: str, share: float | None = None) -> None:
        if not self._quiet:
            part = "" if share is None else f"{min(share, 1):4.0%}  "
            print(f"{part}{text}", file=sys.stderr, flush=True)


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Of so many seconds."""
    if not values:
        return {}
    ordered = sorted(values)

    def at(share: float) -> float:
        return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 4)

    return {"median": at(0.5), "p99": at(0.99), "max": at(1.0)}


def header(what: str, given: Given) -> dict[str, Any]:
    """Which run, of what, where."""
    return {
        "run": what,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "version": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "database": given.database,
        "engines": given.engines,
        "deadlines": given.deadlines,
        "rate": given.rate,
        "seed": given.seed,
        "options": given.options,
    }


def text(result: dict[str, Any]) -> str:
    """The result as a table for people."""
    lines = []
    for name, value in result.items():
        if name in ("series", "problems"):
            continue
        lines.append(f"{name:<12} {_plain(value)}")
    if result.get("series"):
        lines += ["", *_table(result["series"])]
    lines += ["", *(f"WRONG: {problem}" for problem in result["problems"])]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(series: list[dict[str, Any]]) -> list[str]:
    """One line for each sort of thing: that of the engine that grew the most."""
    worst: dict[str, dict[str, Any]] = {}
    for each in sorted(series, key=lambda each: each["growth"] - each["bound"]):
        sort, of_engine, _ = each["name"].partition(" of p")
        worst[sort + (" of an engine" if of_engine else "")] = each
    names = ("first", "median", "last", "growth", "bound")
    head = f"{'':<26}" + "".join(f"{name:>14}" for name in names)
    rows = [
        f"{sort:<26}"
        + "".join(f"{each[name]:>14,.1f}" for name in names)
        + ("  flat" if each["flat"] else "  GROWS")
        for sort, each in sorted(worst.items())
    ]
    return [head, *rows]


def verdict(result: dict[str, Any]) -> str:
    """The one line at the end."""
    wrong = len(result["problems"])
    said = f"FAILED, {wrong} things are wrong" if wrong else "holds"
    where = f"{result['run']} on {result['server']}, seed {result['seed']}"
    return f"endure {where}: {said}"


def save(result: dict[str, Any], path: str) -> None:
    Path(path).write_text(json.dumps(result, indent=1) + "\n")
