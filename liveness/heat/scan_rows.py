"""What the scan reads of Heat's tables: pages and stacks by key, never the whole."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

from heat.common import context
from heat.db import api as db_api
from heat.db import models

PAGE = 1000
"""Rows of the table ``stack`` that one statement looks at."""

LIMIT = 10_000
"""Resources of one stack that are read at most; a larger one is left alone."""

Place = tuple[str, bool]
"""Where a sync point is: the entity's id as text, and is_update."""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A resource."""

    id: int
    name: str
    action: str
    status: str
    engine_id: str | None
    atomic_key: int | None
    replaces: int | None
    replaced_by: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """A sync point: how often it was written, and with what."""

    atomic_key: int
    input_data: Any = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """A stack in progress as it was at one moment. ``edges`` None: its resources are
    not stored yet."""

    id: str
    name: str
    action: str
    traversal: str
    edges: list[Any] | None = dataclasses.field(compare=False)
    rows: dict[int, Row]
    points: dict[Place, Point]


@dataclasses.dataclass(frozen=True, slots=True)
class Service:
    """An engine in Heat's own table of them."""

    engine_id: str
    host: str
    updated_at: datetime | None
    report_interval: int


_RESOURCE = tuple(
    getattr(models.Resource, field.name) for field in dataclasses.fields(Row)
)


class Rows:
    """Reads Heat's tables through Heat's own connections."""

    def page(self, after: str) -> tuple[list[str], str | None]:
        """The convergence stacks in progress among the next :data:`PAGE` rows, and the
        id to go on after; None: that was the end."""
        stack = models.Stack
        columns = (stack.id, stack.status, stack.deleted_at, stack.convergence)
        with _reading() as session:
            rows = (
                session.query(*columns)
                .filter(stack.id > after)
                .order_by(stack.id)
                .limit(PAGE)
                .all()
            )
        found = [
            row.id
            for row in rows
            if row.status == "IN_PROGRESS" and row.convergence and not row.deleted_at
        ]
        return found, (rows[-1].id if len(rows) == PAGE else None)

    def view(self, stack_id: str, data: bool = False) -> View | None:
        """The stack, if it is in progress. ``data``: with what its sync points hold,
        which may be much."""
        with _reading() as session:
            stack = self._stack(session, stack_id)
            if stack is None:
                return None
            rows = self._resources(session, stack_id)
            if len(rows) > LIMIT:
                return None
            points = self._points(session, stack_id, stack.current_traversal, data)
        deps = stack.current_deps or {}
        return View(
            id=stack.id,
            name=stack.name,
            action=stack.action,
            traversal=stack.current_traversal,
            edges=deps.get("edges"),
            rows={row.id: row for row in rows},
            points=points,
        )

    def locked(self, after: int) -> tuple[list[Row], int | None]:
        """The resources that an engine has locked, among the next :data:`PAGE` rows,
        and the id to go on after; None: that was the end."""
        table = models.Resource
        with _reading() as session:
            rows = (
                session.query(*_RESOURCE)
                .filter(table.id > after)
                .order_by(table.id)
                .limit(PAGE)
                .all()
            )
        found = [Row(*row) for row in rows if row.engine_id is not None]
        return found, (rows[-1].id if len(rows) == PAGE else None)

    def services(self) -> list[Service]:
        """The engines in Heat's own table; those of dead ones stay in it."""
        table = models.Service
        columns = (
            table.engine_id,
            table.host,
            table.updated_at,
            table.created_at,
            table.report_interval,
        )
        with _reading() as session:
            rows = session.query(*columns).filter(table.deleted_at.is_(None)).all()
        return [
            Service(r.engine_id, r.host, r.updated_at or r.created_at, r[4])
            for r in rows
        ]

    def _stack(self, session: Any, stack_id: str) -> Any:
        table = models.Stack
        columns = (
            table.id,
            table.name,
            table.action,
            table.status,
            table.deleted_at,
            table.convergence,
            table.current_traversal,
            table.current_deps,
        )
        row = session.query(*columns).filter(table.id == stack_id).one_or_none()
        if row is None or row.deleted_at or not row.convergence:
            return None
        busy = row.status == "IN_PROGRESS" and row.current_traversal
        return row if busy else None

    def _resources(self, session: Any, stack_id: str) -> list[Row]:
        table = models.Resource
        query = session.query(*_RESOURCE).filter(table.stack_id == stack_id)
        return [Row(*row) for row in query.limit(LIMIT + 1)]

    def _points(
        self, session: Any, stack_id: str, traversal: str, data: bool
    ) -> dict[Place, Point]:
        table = models.SyncPoint
        columns = [table.entity_id, table.is_update, table.atomic_key]
        if data:
            columns.append(table.input_data)
        query = session.query(*columns).filter(
            table.stack_id == stack_id, table.traversal_id == traversal
        )
        return {(row[0], bool(row[1])): Point(*row[2:]) for row in query}


def _reading() -> Any:
    """A session in a transaction that only reads: all of it is of one moment."""
    return db_api.context_manager.reader.using(context.get_admin_context())
