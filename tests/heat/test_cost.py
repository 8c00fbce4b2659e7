"""What Heat pays while all is well."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.heat.lab import Lab
from tests.heat.templates import chain
from tests.proc import until

RESOURCES = 4
KINDS = ("resource_action", "stack_timer")


def statements(lab: Lab) -> Counter[str]:
    """What was sent for deadlines since the log was emptied, by verb and kind."""
    log = lab.query("SELECT CONVERT(argument USING utf8mb4) FROM mysql.general_log")
    found: Counter[str] = Counter()
    for (text,) in log:
        verb = re.match(r"\s*(INSERT INTO|UPDATE|DELETE FROM) liveness_deadline", text)
        if verb is not None:
            kind = re.search(r"'(resource_action|stack_timer|heat_\w+)'", text)
            found[f"{verb[1]} {kind[1] if kind else ''}".strip()] += 1
    return found


@pytest.mark.parametrize("mode", ["liveness"])
def test_a_resource_action_costs_two_statements_and_a_stack_a_few(lab: Lab) -> None:
    lab.start_engines()
    lab.wait_stack(lab.create_stack(chain(1)), "CREATE_COMPLETE")
    # Heat says that a stack is complete before the last guard ends.
    until(lambda: not deadlines(lab, *KINDS), 10)
    lab.query("SET GLOBAL log_output = 'TABLE'")
    lab.query("TRUNCATE mysql.general_log")
    lab.query("SET GLOBAL general_log = 1")
    try:
        stack = lab.create_stack(chain(RESOURCES))
        lab.wait_stack(stack, "CREATE_COMPLETE")
        until(lambda: not deadlines(lab, *KINDS), 10)
    finally:
        lab.query("SET GLOBAL general_log = 0")
    found = statements(lab)
    # Each resource has a node to be made and none to be cleaned up.
    assert found["INSERT INTO resource_action"] == RESOURCES
    # One for the row that Heat makes first, one for the traversal that follows.
    assert found["INSERT INTO stack_timer"] == 2
    deleted = sum(n for text, n in found.items() if text.startswith("DELETE"))
    assert deleted <= RESOURCES + 2


def deadlines(lab: Lab, *kinds: str) -> list[tuple]:
    wanted = ", ".join(f"'{kind}'" for kind in kinds)
    return lab.query(f"SELECT * FROM liveness_deadline WHERE kind IN ({wanted})")
