"""The judge: histories and the database's own journal in, violations out.

It knows nothing of the program but the names of its columns and states. It can be
called again on the folder of any run: ``python -m tests.chaos.checker FOLDER``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.chaos import history, rules_engines, rules_rows
from tests.chaos.evidence import Evidence, Line, Violation, every

OPERATIONS = ("end", "called")
"""Lines that count as an operation: what a host asked for, and a handler's run."""


def judge(lines: list[Line], dump: dict[str, Any]) -> list[Violation]:
    """Everything that must not be, by invariant."""
    evidence = Evidence(lines, dump)
    rules = (*rules_rows.RULES, *rules_engines.RULES)
    return sorted(every(rules, evidence), key=lambda v: (v.invariant, v.rule))


def operations(lines: list[Line]) -> int:
    """How many operations there were."""
    return sum(line["what"] in OPERATIONS for line in lines)


def main() -> int:
    folder = Path(sys.argv[1])
    with open(folder / "database.json") as file:
        dump = json.load(file)
    lines = list(history.read(folder))
    violations = judge(lines, dump)
    for violation in violations:
        print(violation)
    print(f"{operations(lines)} operations, {len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
