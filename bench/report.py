"""Tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.rounds import Row

RESULTS = Path(__file__).parent / "results"

HEADS = ("", "database", "value", "unit", "floor", "ratio", "spread", "goal", "met")


def number(value: float | None) -> str:
    """Three digits that count, and no more."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1
    return f"{value:.{digits}f}"


def cells(row: Row) -> tuple[str, ...]:
    spread = "" if row.spread is None else " - ".join(map(number, row.spread))
    met = {True: "yes", False: "NO", None: ""}[row.met]
    values = (number(row.value), row.unit, number(row.floor), number(row.ratio))
    return (row.name, row.database, *values, spread, row.goal or "", met)


def table(rows: Sequence[Row]) -> str:
    """Aligned columns; numbers to the right."""
    lines = [HEADS, *(cells(row) for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(HEADS))]
    text = []
    for line in lines:
        aligned = [
            cell.rjust(width) if n in (2, 4, 5) else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(aligned).rstrip())
    notes = [f"{row.name} ({row.database}): {row.note}" for row in rows if row.note]
    return "\n".join([*text, *notes])


def markdown(rows: Sequence[Row]) -> str:
    """The same as a table in Markdown, without columns that are empty."""
    lines = [HEADS, *(cells(row) for row in rows)]
    kept = [n for n in range(len(HEADS)) if n < 2 or any(line[n] for line in lines[1:])]
    right = {2, 4, 5}
    marks = ["---:" if n in right else "---" for n in kept]
    text = ["| " + " | ".join(line[n] for n in kept) + " |" for line in lines]
    text.insert(1, "|" + "|".join(marks) + "|")
    return "\n".join(text)


def save(part: str, facts: dict[str, Any], rows: Sequence[Row], folder: Path) -> Path:
    """Write the part's rows; those of databases that this run left out stay."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{part}.json"
    ran = {row.database for row in rows}
    kept = [row for row in load(path) if row.database not in ran]
    runs = {name: run for name, run in facts_of(path).items() if name not in ran}
    text = {
        "part": part,
        "runs": runs | dict.fromkeys(sorted(ran), facts),
        "rows": [row.as_json() for row in [*kept, *rows]],
    }
    path.write_text(json.dumps(text, indent=1) + "\n")
    return path


def facts_of(path: Path) -> dict[str, Any]:
    """On what each database's rows were measured, of such a file."""
    runs: dict[str, Any] = {}
    if path.exists():
        runs = json.loads(path.read_text())["runs"]
    return runs


def load(path: Path) -> list[Row]:
    """The rows of a file that :func:`save` wrote; none when there is none."""
    if not path.exists():
        return []
    return [Row(**row) for row in json.loads(path.read_text())["rows"]]
