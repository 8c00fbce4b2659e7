"""The model beside the measurement: engines at rest, of which there are so few that
they can be run for real."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from bench import report
from bench.report import number
from bench.scaling import scenarios
from bench.scaling.costs import Costs
from bench.scaling.scenarios import Case
from bench.scaling.server import Topology

HERE = Topology(cores=2)
ARMED = 10_000
HEADS = ("engines", "what", "simulated", "beside the calibration", "idle.json")
WHAT = {
    "statements": "statements, /s",
    "server_ms": "server CPU, ms per statement",
    "bytes": "bytes per statement",
}


class Compared(NamedTuple):
    """``measured``: right after the costs were, on the same server; ``idle``: by
    ``bench idle``, whenever that was. On a busy machine engines come round less often,
    so what a statement costs is compared, not what a second does."""

    engines: int
    what: str
    simulated: float
    measured: float
    idle: float | None


def compared(
    costs: Costs, calibration: dict[str, Any], tell: Callable[[str], None]
) -> list[Compared]:
    """For each size that was measured with the costs."""
    made = []
    for size, measured in calibration["idle"].items():
        engines = int(size)
        case = Case(engines, ARMED, HERE, within=86400.0 * 365, seconds=120.0)
        outcome = scenarios.run(case, costs, tell)
        simulated = {
            "statements": outcome.statements / engines,
            "server_ms": outcome.cpu * HERE.cores * 1000 / engines,
            "bytes": outcome.network * HERE.link / engines,
        }
        seen = [_per_statement(each) for each in (simulated, measured, _idle(engines))]
        for key, what in WHAT.items():
            here, calibrated, idle = (each.get(key) for each in seen)
            assert here is not None and calibrated is not None
            made.append(Compared(engines, what, here, calibrated, idle))
    return made


def _idle(engines: int) -> dict[str, float]:
    """What ``bench idle`` saved for MariaDB; empty without such a size."""
    names = {"statements": "statements", "server_ms": "server CPU", "bytes": "bytes"}
    values = {
        row.name: row.value
        for row in report.load(report.RESULTS / "idle.json")
        if row.database == "mariadb"
    }
    prefix = f"{engines:,} engines, {ARMED:,} armed"
    found = {key: values.get(f"{prefix}: {name}") for key, name in names.items()}
    return {key: value for key, value in found.items() if value is not None}


def _per_statement(seen: dict[str, float]) -> dict[str, float]:
    statements = seen.get("statements", 1.0)
    each = {key: value / statements for key, value in seen.items()}
    return each | {"statements": statements} if seen else {}


def cells(rows: list[Compared]) -> list[tuple[str, ...]]:
    """The head, and a line for each."""
    return [
        HEADS,
        *((f"{row.engines:,}", row.what, *map(number, row[2:])) for row in rows),
    ]


def table(rows: list[Compared]) -> str:
    """Aligned columns."""
    lines = cells(rows)
    widths = [max(len(line[n]) for line in lines) for n in range(len(HEADS))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )
