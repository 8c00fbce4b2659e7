"""Which row stands for a node of the graph."""

from __future__ import annotations

from typing import Any

import pytest

from liveness.heat.scan_judge import judge
from liveness.heat.scan_rows import Point, Row, View

OLD, NEW = 1, 2


def view(*edges: Any) -> View:
    """A stack in whose resource OLD was replaced by NEW; nobody has been told."""
    nodes = {tuple(end) for edge in edges for end in edge if end}
    places = {(str(entity), is_update) for entity, is_update in nodes}
    return View(
        id="stack",
        name="stack",
        action="UPDATE",
        traversal="t",
        edges=list(edges),
        rows={
            OLD: Row(OLD, "r", "CREATE", "COMPLETE", None, 1, None, NEW),
            NEW: Row(NEW, "r", "CREATE", "COMPLETE", None, 1, OLD, None),
        },
        points={place: Point(0) for place in places | {("stack", True)}},
    )


@pytest.mark.parametrize(
    ("edges", "stands"),
    [
        ([[(OLD, True), None]], NEW),
        ([[(OLD, False), (OLD, True)]], NEW),
        ([[(OLD, True), None], [(NEW, False), None]], OLD),
        ([[(OLD, True), None], [(NEW, True), None]], OLD),
    ],
    ids=["replaced", "replaced-and-cleaned-up", "rolled-back", "both-wanted"],
)
def test_what_replaced_a_resource_in_this_traversal_stands_for_it(
    edges: Any, stands: int
) -> None:
    verdict = judge(view(*edges), frozenset(), lambda engine_id: True)
    assert verdict.begun
    assert stands in {action.resource for action in verdict.lost if action.is_update}


def test_without_all_sync_points_it_has_not_begun() -> None:
    seen = view([(OLD, True), None])
    del seen.points["stack", True]
    assert not judge(seen, frozenset(), lambda engine_id: True).begun
