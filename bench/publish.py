"""``python -m bench.publish``: the saved results as tables and drawings in
doc/performance.md and doc/scaling.md, between their marks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import plot, report
from bench.scaling import page as scaling

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "doc" / "performance.md"
DRAWINGS = ROOT / "doc" / "performance"
SCALING = ROOT / "doc" / "scaling.md"

MARKS = re.compile(
    r"(<!-- results: (?P<part>[a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL
)


def facts(names: list[str], run: dict[str, Any]) -> str:
    """On what the numbers of these databases were measured, and beside what else."""
    servers = ", ".join(
        f"{name} {about['version']}"
        for name, about in run["databases"].items()
        if name in names
    )
    small = " Small sizes: they show that it works, not how fast it is." * run["quick"]
    return (
        f"{servers or ', '.join(names)}: {run['at']}, liveness {run['liveness']},"
        f" Python {run['python']}, {run['cores']} cores ({run['cpu']}), fsync"
        f" {run['fsync_ms']:g} ms, **load {run['load'][0]:g} before and"
        f" {run['load_after']:g} after**.{small}"
    )


def measured(path: Path) -> str:
    """One paragraph for each run that the rows of a file are of."""
    runs: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for name, run in report.facts_of(path).items():
        runs.setdefault(run["at"], ([], run))[0].append(name)
    return "\n\n".join(facts(names, run) for names, run in runs.values())


def section(part: str) -> str:
    """What belongs between the marks of a part."""
    path = report.RESULTS / f"{part}.json"
    rows = report.load(path)
    if not rows:
        return "Not measured yet.\n"
    text = measured(path)
    notes = "".join(f"- {r.name} ({r.database}): {r.note}\n" for r in rows if r.note)
    drawing = plot.svg(part, rows)
    image = ""
    if drawing:
        DRAWINGS.mkdir(exist_ok=True)
        (DRAWINGS / f"{part}.svg").write_text(drawing)
        image = f"![{part}: bars of ratios, goals as marks](performance/{part}.svg)\n\n"
    return f"{text}\n\n{image}{report.markdown(rows)}\n\n{notes}"


def publish(page: Path, text: Callable[[str], str]) -> None:
    """Put the text of each part between the marks of it."""
    made = MARKS.sub(lambda m: f"{m[1]}\n{text(m['part'])}\n{m[3]}", page.read_text())
    page.write_text(made)
    print(f"written: {page.relative_to(ROOT)}")


def main() -> None:
    publish(PAGE, section)
    sections = scaling.sections(SCALING.with_suffix(""))
    publish(SCALING, lambda part: sections.get(part, "Not simulated yet.") + "\n")


if __name__ == "__main__":
    main()
