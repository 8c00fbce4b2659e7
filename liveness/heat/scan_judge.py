"""Which parts of a stack in progress nobody is working on. Reads nothing itself.

A node of the graph is *ready* when all that it requires have told it so, and *over*
when it has told all that require it (for the last ones: the stack). What is ready and
not over must be in somebody's hands: at work in an engine, or a message in a queue,
which no row shows. So the caller looks twice before it believes what is said here.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Set
from typing import Any

from heat.engine import dependencies, sync_point
from heat.engine.stack import ConvergenceNode

from liveness.heat.names import Action
from liveness.heat.scan_rows import Place, View

ADOPT = "ADOPT"


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """``begun`` False: the operation has not got as far as its sync points, or has no
    nodes. ``lost``: nodes that nobody has."""

    begun: bool
    lost: tuple[Action, ...] = ()


def fingerprint(
    view: View, at_work: Set[str], alive: Callable[[str], bool], timed: bool
) -> str:
    """Changes when anything happened to the stack: a row or a sync point written, an
    action begun or ended, an engine with a lock of it gone."""
    locks = [(r.engine_id, alive(r.engine_id)) for r in _sorted(view) if r.engine_id]
    actions = sorted(key for key in at_work if key.startswith(f"{view.traversal}/"))
    seen = (
        (view.id, view.action, view.traversal, view.edges is None, timed),
        [dataclasses.astuple(row) for row in _sorted(view)],
        sorted((place, point.atomic_key) for place, point in view.points.items()),
        locks,
        actions,
    )
    return hashlib.blake2b(repr(seen).encode(), digest_size=16).hexdigest()


def _sorted(view: View) -> list[Any]:
    return [view.rows[row_id] for row_id in sorted(view.rows)]


def judge(
    view: View,
    at_work: Set[str],
    alive: Callable[[str], bool],
    abandon: bool | None = None,
) -> Verdict:
    """``view`` with its data; ``at_work``: keys of the actions that are written down,
    whoever has them; ``alive(engine_id)``."""
    graph = _Graph(view)
    if not graph.begun:
        return Verdict(begun=False)
    held = _Held(view, at_work, alive, graph.nodes)
    lost = tuple(
        Action(
            resource=held.subject(node),
            traversal=view.traversal,
            is_update=node.is_update,
            node_type=node.node_type,
            abandon=abandon,
            adopt=view.action == ADOPT,
            found=True,
        )
        for node in graph.open()
        if not held(node)
    )
    return Verdict(begun=True, lost=lost)


class _Graph:
    """The nodes of a traversal, and who has been told what."""

    def __init__(self, view: View) -> None:
        edges = view.edges or []
        self._deps = dependencies.Dependencies(
            edges=[tuple(_node(end) for end in edge) for edge in edges]
        )
        self._requires = self._deps.graph()
        self.nodes: set[Any] = set(self._requires)
        self._told = {
            place: _senders(point.input_data) for place, point in view.points.items()
        }
        self._stack: Place = (view.id, True)

    @property
    def begun(self) -> bool:
        """Every node has its sync point, and so has the stack: only then is the first
        message sent. (Without nodes there is none.)"""
        places = {_place(node) for node in self.nodes} | {self._stack}
        return bool(self.nodes) and places <= self._told.keys()

    def open(self) -> Iterator[Any]:
        """Nodes that are ready and not over; when all are over, the stack is not, and
        a last node has to say so again."""
        ready = [n for n in sorted(self.nodes, key=repr) if self._ready(n)]
        left = [node for node in ready if not self._over(node)]
        yield from left or sorted(self._deps.roots(), key=repr)[:1]

    def _ready(self, node: Any) -> bool:
        return set(self._requires[node]) <= self._told[_place(node)]

    def _over(self, node: Any) -> bool:
        after = list(self._deps.required_by(node))
        places = [_place(successor) for successor in after] or [self._stack]
        return all(node in self._told[place] for place in places)


class _Held:
    """Who has a node in hand."""

    def __init__(
        self,
        view: View,
        at_work: Set[str],
        alive: Callable[[str], bool],
        nodes: Set[Any],
    ) -> None:
        self._view = view
        self._alive = alive
        self._in_graph = {node.rsrc_id for node in nodes}
        # Without the part that tells one run of the node from another.
        self._at_work = {key.rpartition("/")[0] for key in at_work}

    def subject(self, node: Any) -> int | str:
        """The row that stands for the node: itself, or what has replaced it since the
        graph was made. (What had done so before is in the graph, at least to be
        cleaned up: a rollback goes back to what was replaced.)"""
        entity: int | str = node.rsrc_id
        while node.is_update and entity in self._view.rows:
            by = self._view.rows[entity].replaced_by
            if by is None or by not in self._view.rows or by in self._in_graph:
                break
            entity = by
        return entity

    def __call__(self, node: Any) -> bool:
        return any(
            self._entity(node, who) for who in {node.rsrc_id, self.subject(node)}
        )

    def _entity(self, node: Any, entity: int | str) -> bool:
        action = Action(entity, self._view.traversal, node.is_update)
        if action.node in self._at_work:
            return True
        row = self._view.rows.get(entity)  # type: ignore[arg-type]
        if row is None or row.engine_id is None:
            return False
        return self._alive(row.engine_id)


def _node(end: Any) -> Any:
    return None if end is None else ConvergenceNode.from_tuple(tuple(end))


def _place(node: Any) -> Place:
    return str(node.rsrc_id), node.is_update


def _senders(input_data: Any) -> frozenset[Any]:
    found = sync_point.deserialize_input_data(input_data or {})
    return frozenset(ConvergenceNode.from_tuple(tuple(key)) for key in found)
