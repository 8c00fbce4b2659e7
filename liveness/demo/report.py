"""The summary: as a table, and as one JSON object."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from liveness.demo.check import Verdict
from liveness.demo.stage import Blow, Stage

WRONGS_SHOWN = 10


def facts(verdict: Verdict, stage: Stage, database: str, seconds: float) -> dict:
    """Everything that the run came to, for JSON."""
    killed = _delays(verdict, stage.killed)
    frozen = _delays(verdict, stage.frozen)
    numbers: dict[str, Any] = {
        "engines": stage.plan.engines,
        "seed": stage.plan.seed,
        "database": database,
        "planned": stage.plan.deadlines,
        "armed": verdict.armed,
        "completed": verdict.completed,
        "disarmed": verdict.disarmed,
        "handled": verdict.handled,
        "parked": verdict.parked,
        "waiting": verdict.waiting,
        "restarted": verdict.restarted,
        "retriggered": verdict.retriggered,
        "refused": verdict.refused,
        "lost": len(verdict.lost),
        "early": len(verdict.early),
        "double_held": len(verdict.double_held),
        "moved": len(verdict.moved),
        "first_takeover_seconds": killed[0] if killed else None,
        "last_takeover_seconds": killed[-1] if killed else None,
        "frozen_first_takeover_seconds": frozen[0] if frozen else None,
        "frozen_last_takeover_seconds": frozen[-1] if frozen else None,
        "seconds": round(seconds, 3),
    }
    numbers["ok"] = not verdict.wrongs and bool(verdict.takeovers)
    numbers["problems"] = verdict.wrongs[:WRONGS_SHOWN]
    return numbers


def _delays(verdict: Verdict, blow: Blow | None) -> list[float]:
    if blow is None:
        return []
    return [round(delay, 3) for delay in verdict.delays(blow.engine, blow.at)]


def show(console: Console, numbers: dict) -> None:
    """The summary for people."""
    console.print(_table(numbers))
    for problem in numbers["problems"]:
        console.print(f"  {problem}", style="red", markup=False, highlight=False)
    verdict = "[bold green]Nothing was lost.[/]"
    if not numbers["ok"]:
        wrong = sum(numbers[n] for n in ("lost", "early", "double_held", "moved"))
        why = f"{wrong} things went wrong" if wrong else "nothing was taken over"
        verdict = f"[bold red]Failed: {why}.[/]"
    console.print(
        f"{verdict} {numbers['engines']} engines, seed {numbers['seed']},"
        f" {numbers['seconds']:.1f} s.",
        highlight=False,
    )


def _table(numbers: dict) -> Table:
    table = Table(
        title="Checked against the workload's own list",
        title_justify="left",
        show_header=False,
    )
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for name, value, what in _lines(numbers):
        style = ""
        if name in ("lost", "early", "handled by two holders", "moved"):
            style = "red" if value else "green"
        table.add_row(name, f"[{style}]{value}[/]" if style else str(value), what)
    return table


def _lines(numbers: dict) -> list[tuple[str, Any, str]]:
    handled = f"{numbers['disarmed']} disarmed, {numbers['handled']} handled"
    return [
        ("armed", numbers["armed"], f"of {numbers['planned']} planned"),
        ("completed", numbers["completed"], handled),
        (
            "restarted",
            numbers["restarted"],
            "stack timers of a dead engine, same due time",
        ),
        (
            "retriggered",
            numbers["retriggered"],
            "resource actions of a dead engine, again",
        ),
        (
            "refused",
            numbers["refused"],
            "things a suspended or fenced engine wanted to do",
        ),
        ("lost", numbers["lost"], "armed, and forgotten"),
        ("early", numbers["early"], "handled before their time"),
        ("handled by two holders", numbers["double_held"], "at once, or settled twice"),
        ("moved", numbers["moved"], "restarted with another due time"),
        ("kill to takeover", _range(numbers, ""), "first and last"),
        ("freeze to takeover", _range(numbers, "frozen_"), "first and last"),
    ]


def _range(numbers: dict, which: str) -> str:
    first = numbers[f"{which}first_takeover_seconds"]
    last = numbers[f"{which}last_takeover_seconds"]
    return "-" if first is None else f"{first:.2f} to {last:.2f} s"
