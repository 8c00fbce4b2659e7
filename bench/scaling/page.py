"""What was simulated, as tables and drawings for doc/scaling.md."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import chart, report
from bench.report import number
from bench.scaling import compare
from bench.scaling.compare import Compared
from bench.scaling.server import Topology

RESULTS = report.RESULTS / "scaling.json"
COSTS = report.RESULTS / "service-times.json"
WAKING = report.RESULTS / "waking.json"
RESOURCES = {
    "cpu": "CPU",
    "log": "log (flushes)",
    "network": "network",
    "connections": "connections",
}
LIMITS = {name: what for name, what in RESOURCES.items() if name != "log"} | {
    "housekeeping": "CPU, by housekeeping alone"
}
"""What can be spent. A log cannot: its flushes are shared."""
PLAN = 0.7
"""Of a resource: beyond it, queues grow faster than the load."""

Rows = Sequence[dict[str, Any]]


class Column(NamedTuple):
    """Its head, and what of a row is in it."""

    head: str
    of: Callable[[dict[str, Any]], str]


def _share(name: str) -> Column:
    def text(row: dict[str, Any]) -> str:
        value = row[name]
        return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"

    return Column(RESOURCES.get(name, name), text)


def _figure(head: str, name: str) -> Column:
    return Column(head, lambda row: number(row[name]))


BEAT, LATE = _figure("beat p99, ms", "beat_p99"), _figure("late p99, ms", "late_p99")
EARLY = _figure("late p50, ms", "late_p50")
SUSPENDED = _figure("suspended", "suspended")
WRONG = _figure("fenced alive", "wrongly_fenced")
SERVER = [_share(name) for name in RESOURCES]
REST = [
    *SERVER,
    Column("of the CPU: housekeeping", lambda row: f"{row['housekeeping']:.0%}"),
    _figure("memory of connections, MiB", "memory"),
    _figure("statements/s", "statements"),
    BEAT,
    LATE,
]
DEATH = [
    _figure("dead known, s", "detected_seconds"),
    _figure("all taken over, s", "recovered_seconds"),
    _figure("orphans left", "orphans_left"),
    Column("claims in vain", lambda row: f"{row['in_vain']:.0%}"),
    SERVER[0],
    BEAT,
    WRONG,
]
OTHER = [SERVER[0], SERVER[1], BEAT, EARLY, LATE, SUSPENDED, WRONG]
GROUPS = {
    "rest": REST,
    "remedy": REST,
    "death": DEATH,
    "herd": OTHER,
    "stall": OTHER,
    "disk": OTHER,
    "start": OTHER,
}


def table(lines: Iterable[Sequence[str]], words: int = 1) -> str:
    """In Markdown; the first line is the head, the first ``words`` columns are text."""
    head, *rest = lines
    marks = ["---" if n < words else "---:" for n in range(len(head))]
    return "\n".join("| " + " | ".join(each) + " |" for each in (head, marks, *rest))


def rows_of(rows: Rows, *groups: str) -> str:
    """The table of some groups, which have the same columns."""
    columns = GROUPS[groups[0]]
    if not any(row["group"] in groups for row in rows):
        return "Not simulated yet."
    lines = [["what", "database", *(column.head for column in columns)]]
    lines += [
        [row["name"], row["database"], *(column.of(row) for column in columns)]
        for row in rows
        if row["group"] in groups
    ]
    return table(lines, words=2)


def reaches(points: Sequence[tuple[float, float]], share: float) -> float:
    """How many engines bring a resource to ``share``, by the two largest fleets in
    which it was not exhausted; infinite for what does not grow."""
    usable = [(x, y) for x, y in points if 0 < y < 0.9]
    if len(usable) < 2:
        return math.inf
    (x1, y1), (x2, y2) = usable[-2:]
    slope = math.log(y2 / y1) / math.log(x2 / x1)
    return x2 * (share / y2) ** (1 / slope) if slope > 0.05 else math.inf


def bends(rows: Rows) -> str:
    """At how many engines each resource is spent, the first one first."""
    # A fleet that gets no more CPU does less of everything else, too.
    rest = [row for row in rows if row["group"] == "rest" and row["cpu"] < 0.95]
    found = []
    for name, what in LIMITS.items():
        points = [(row["engines"], row[name]) for row in rest]
        found.append((reaches(points, PLAN), reaches(points, 1.0), what))
    lines = [["resource", f"at {PLAN:.0%}", "spent"]]
    lines += [
        [what, _engines(plan), _engines(all_)] for plan, all_, what in sorted(found)
    ]
    return table(lines)


def _engines(count: float) -> str:
    if count > 1e6:
        return "not within a million"
    return f"{round(count, 1 - math.floor(math.log10(count))):,.0f} engines"


def drawings(rows: Rows, folder: Path) -> None:
    """Every SVG of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    rest = [row for row in rows if row["group"] == "rest"]

    def curve(name: str) -> list[tuple[float, float]]:
        return [(row["engines"], row[name]) for row in rest if row[name]]

    shares = {what: curve(name) for name, what in RESOURCES.items()}
    drawn = {
        "rest": chart.curves(
            "Share of one server that a fleet at rest uses",
            "engines, each with 1,000 deadlines",
            {**shares, "housekeeping (CPU)": curve("housekeeping")},
            {"spent": 1.0},
        ),
        "times": chart.curves(
            "Milliseconds, in a fleet at rest",
            "engines, each with 1,000 deadlines",
            {
                "beat p50": curve("beat_p50"),
                "beat p99": curve("beat_p99"),
                "late p50": curve("late_p50"),
                "late p99": curve("late_p99"),
            },
            {},
        ),
        "death": _bars(
            "After a death", rows, "death", ("detected_seconds", "recovered_seconds")
        ),
        "herd": _bars(
            "Many due at one moment", rows, "herd", ("late_p50", "late_p99"), 1e-3
        ),
    }
    for name, text in drawn.items():
        (folder / f"{name}.svg").write_text(text)


def _bars(
    title: str, rows: Rows, group: str, names: Sequence[str], scale: float = 1.0
) -> str:
    words = {
        "detected_seconds": "known",
        "recovered_seconds": "taken over",
        "late_p50": "late p50",
        "late_p99": "late p99",
    }
    values = {
        f"{row['name']} ({_short(row['database'])})": {
            words[name]: (row[name] or 0.0) * scale for name in names
        }
        for row in rows
        if row["group"] == group
    }
    return chart.bars(title, values, "s")


def _short(database: str) -> str:
    return database.split(",")[0] + (" all" if database.endswith("3 written") else "")


def costs() -> str:
    """What was measured, in milliseconds and bytes."""
    measured = json.loads(COSTS.read_text())["costs"]
    sizes = measured["sizes"]
    lines = [["statement", "server CPU, ms", "bytes"]]
    lines += [
        [name.replace("_row", ", each row"), number(value * 1000), number(sizes[name])]
        for name, value in measured.items()
        if name in sizes and name != "fence"
    ]
    memory = number(measured["connection"] / 1024)
    return f"{table(lines)}\n\nA connection: {memory} KiB of the server's memory."


def waking() -> str:
    """What a statement costs a server that is awake, and one that is not."""
    if not WAKING.exists():
        return "Not measured yet."
    saved = json.loads(WAKING.read_text())
    ways = list(next(iter(saved["costs"].values())))
    lines = [["server CPU, ms", *ways]]
    lines += [
        [name, *(number(each[way]) for way in ways)]
        for name, each in saved["costs"].items()
    ]
    idle = number(saved["idle"])
    return (
        f"{_measured_on(WAKING)}.\n\n{table(lines)}\n\nWithout a statement, a hundred"
        f" connections cost {idle} ms a second."
    )


def _measured_on(path: Path) -> str:
    run = json.loads(path.read_text())["run"]
    return (
        f"{run['at']}, liveness {run['liveness']}, {run['cores']} cores ({run['cpu']}),"
        f" load {run['load'][0]:g}"
    )


def _topology() -> str:
    one = Topology()
    return (
        f"{one.cores} cores, {one.flush * 1000:g} ms for a flush,"
        f" {one.round_trip * 1000:g} ms from an engine and back,"
        f" {one.between_nodes * 1000:g} ms between nodes, {one.apply_share:.0%} of a"
        f" write's CPU on the other nodes, a network of {one.link * 8 / 1e9:g} Gbit/s,"
        f" {one.room:,} connections"
    )


def sections(folder: Path) -> dict[str, str]:
    """The text for each mark of the page; its drawings are made."""
    if not RESULTS.exists():
        return {}
    saved = json.loads(RESULTS.read_text())
    rows = saved["rows"]
    drawings(rows, folder)
    compared = [Compared(**each) for each in saved["compared"]]
    return {
        "costs": f"{_measured_on(COSTS)}.\n\n{costs()}",
        "assumed": f"Each server: {_topology()}.",
        "waking": waking(),
        "compared": table(compare.cells(compared), words=2),
        "rest": rows_of(rows, "rest"),
        "bends": bends(rows),
        "remedy": rows_of(rows, "remedy"),
        "death": rows_of(rows, "death"),
        "events": rows_of(rows, "herd", "start", "stall", "disk"),
    }
