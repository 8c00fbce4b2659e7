"""What came of all scenarios: a table to read, and heat-e2e.json to compare."""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.heat.run import Outcome
from tests.heat.scenarios import SCENARIOS


class Report:
    def __init__(self) -> None:
        self.outcomes: dict[str, dict[str, Outcome]] = {}

    def add(self, mode: str, name: str, outcome: Outcome) -> None:
        self.outcomes.setdefault(name, {})[mode] = outcome

    def summary(self) -> dict[str, Any]:
        """The totals with this package; the same of stock Heat below."""
        return {
            **totals(self._of("liveness")),
            "stock": totals(self._of("stock")),
        }

    def as_dict(self) -> dict[str, Any]:
        """The summary, and what came of each scenario."""
        return {
            **self.summary(),
            "scenarios": {
                name: {
                    "what": SCENARIOS[name].text,
                    **{
                        mode: {"outcome": outcome.word, **outcome.as_dict()}
                        for mode, outcome in modes.items()
                    },
                }
                for name, modes in self.outcomes.items()
            },
        }

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_dict(), indent=2) + "\n")

    def table(self) -> list[str]:
        width = max(map(len, self.outcomes), default=8)
        lines = [f"{'scenario':{width}}  {'stock Heat':34}  with liveness"]
        for name, modes in self.outcomes.items():
            stock, ours = modes.get("stock"), modes.get("liveness")
            lines.append(f"{name:{width}}  {brief(stock):34}  {brief(ours)}".rstrip())
        for mode in ("stock", "liveness"):
            if self._of(mode):
                text = ", ".join(f"{k} {v}" for k, v in totals(self._of(mode)).items())
                lines.append(f"{mode}: {text}")
        return lines

    def _of(self, mode: str) -> list[Outcome]:
        return [modes[mode] for modes in self.outcomes.values() if mode in modes]


def totals(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    outcomes = list(outcomes)
    seconds = [value for outcome in outcomes for value in outcome.recovery_seconds]
    return {
        "scenarios_run": len(outcomes),
        "rescued": sum(outcome.rescued for outcome in outcomes),
        "stuck": sum(outcome.stuck for outcome in outcomes),
        "wrong": sum(len(outcome.wrong) for outcome in outcomes),
        "errors": sum(bool(outcome.error) for outcome in outcomes),
        "duplicated_resources": sum(o.duplicated_resources for o in outcomes),
        "leaked_resources": sum(o.leaked_resources for o in outcomes),
        "recovery_seconds_p50": round(statistics.median(seconds), 2)
        if seconds
        else None,
        "recovery_seconds_max": max(seconds, default=None),
    }


def brief(outcome: Outcome | None) -> str:
    if outcome is None:
        return "-"
    ends = sorted(set(outcome.ends.values()))
    text = f"{outcome.word}: {'/'.join(ends)}"
    if outcome.duplicated_resources:
        text += f", {outcome.duplicated_resources} made again"
    if outcome.recovery_seconds:
        text += f", {max(outcome.recovery_seconds):.1f} s"
    return text


def page(summary: dict[str, Any]) -> str:
    """The contents of heat-e2e.json, as a page."""
    lines = [
        "# What becomes of Heat's stacks when engines die",
        "",
        "Heat 27.0.1 in convergence mode with its engines killed, run by `make"
        " heat-e2e` on MariaDB, RabbitMQ and keystone: stock, and with this package."
        " Every line was seen, and every run checks it again. *Stuck* means: in"
        " progress, with living engines beside it, and nobody at work; of stock Heat,"
        " those with a timeout of 2 minutes were looked at again after at least 3."
        " *Made again* counts real creates beyond what the case cannot do without,"
        " *left over* what still exists and no row of Heat's knows; *seconds* are from"
        " the kill until somebody else is at it; where all workers are killed, or one"
        " is given time to end, that is part of it.",
        "",
        "| case | stock Heat | with liveness | seconds |",
        "|---|---|---|---|",
    ]
    for case in summary["scenarios"].values():
        ours = case.get("liveness", {})
        seconds = max(ours.get("recovery_seconds", ()), default="")
        lines.append(
            f"| {case['what']} | {_said(case.get('stock'))} |"
            f" {_said(ours)} | {seconds} |"
        )
    lines += ["", *_counted(summary)]
    return "\n".join(lines) + "\n"


def _said(outcome: dict[str, Any] | None) -> str:
    """One cell of the page."""
    if not outcome:
        return ""
    ends = Counter(outcome["ends"].values())
    text = ", ".join(f"{n} x {end}" if n > 1 else end for end, n in ends.items())
    more = [
        f"{outcome[key]} {words}"
        for key, words in (
            ("duplicated_resources", "made again"),
            ("leaked_resources", "left over"),
        )
        if outcome[key]
    ]
    return f"{outcome['outcome']}: {', '.join([text, *more])}".replace("|", "\\|")


def _counted(summary: dict[str, Any]) -> Iterator[str]:
    """The last lines of the page: how many of what."""
    for mode, name in (("stock", "Stock Heat"), ("liveness", "With liveness")):
        cases = [c[mode] for c in summary["scenarios"].values() if mode in c]
        words = Counter(case["outcome"] for case in cases)
        said = ", ".join(f"{number} {word}" for word, number in words.most_common())
        yield f"- {name}, {len(cases)} cases: {said}."
    median, longest = (summary[f"recovery_seconds_{x}"] for x in ("p50", "max"))
    yield f"- Seconds with liveness: {median} in the median, {longest} at most."


if __name__ == "__main__":
    print(page(json.loads(Path(sys.argv[1]).read_text())), end="")
