"""Stacks in progress, written into Heat's tables row by row."""

from __future__ import annotations

import itertools
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from heat.common import context
from heat.db import api as db_api
from heat.db import models
from heat.engine import sync_point
from heat.engine.stack import ConvergenceNode


class Stacks:
    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def writing(self) -> Any:
        return db_api.context_manager.writer.using(context.get_admin_context())

    def clear(self) -> None:
        with self.writing() as session:
            for table in ("sync_point", "event", "resource", "stack", "service"):
                session.execute(sa.text(f"DELETE FROM `{table}`"))
            for table in ("liveness_deadline", "liveness_engine"):
                session.execute(sa.text(f"DELETE FROM {table}"))

    def chain(
        self,
        told: int = 0,
        length: int = 2,
        action: str = "CREATE",
        begun: bool = True,
        locked_by: str | None = None,
    ) -> Chain:
        """A stack whose resources need one another in a row; the first ``told`` of
        them are complete, and have said so."""
        return Chain(self, next(self._numbers), told, length, action, begun, locked_by)

    def service(self, engine_id: str, age: float, interval: int = 60) -> None:
        """An engine in Heat's own table, that reported ``age`` seconds ago."""
        at = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=age)
        with self.writing() as session:
            session.execute(
                sa.text("DELETE FROM service WHERE engine_id = :id"), {"id": engine_id}
            )
            session.add(
                models.Service(
                    engine_id=engine_id,
                    host="h",
                    hostname="h",
                    binary="heat-engine",
                    topic="engine",
                    report_interval=interval,
                    updated_at=at,
                )
            )


class Chain:
    def __init__(
        self,
        stacks: Stacks,
        number: int,
        told: int,
        length: int,
        action: str,
        begun: bool,
        locked_by: str | None,
    ) -> None:
        self._stacks = stacks
        self.traversal = str(uuid.uuid4())
        with stacks.writing() as session:
            template = models.RawTemplate(template={}, files={}, environment={})
            session.add(template)
            session.flush()
            stack = models.Stack(
                id=str(uuid.UUID(int=number)),
                name=f"stack-{number}",
                raw_template_id=template.id,
                action=action,
                status="IN_PROGRESS",
                convergence=True,
                disable_rollback=True,
                current_traversal=self.traversal,
            )
            session.add(stack)
            session.flush()
            self.id = stack.id
            rows = [self._resource(i < told) for i in range(length)]
            if locked_by:
                rows[told].engine_id, rows[told].status = locked_by, "IN_PROGRESS"
            session.add_all(rows)
            session.flush()
            self.resources = [row.id for row in rows]
            nodes = [ConvergenceNode(row_id, True) for row_id in self.resources]
            edges = [[tuple(nodes[0])[:2], None]]
            edges += [
                [tuple(after)[:2], tuple(before)[:2]]
                for before, after in itertools.pairwise(nodes)
            ]
            if begun:
                stack.current_deps = {"edges": edges}
                for index, node in enumerate(nodes):
                    before = nodes[index - 1 : index] if index <= told else []
                    session.add(self._point(str(node.rsrc_id), before))
                session.add(self._point(self.id, nodes[-1:] if told == length else []))

    def _resource(self, done: bool) -> Any:
        return models.Resource(
            name="r",
            stack_id=self.id,
            action="CREATE" if done else "INIT",
            status="COMPLETE",
            atomic_key=1,
        )

    def _point(self, entity: str, senders: list[Any]) -> Any:
        return models.SyncPoint(
            entity_id=entity,
            traversal_id=self.traversal,
            is_update=True,
            atomic_key=len(senders),
            stack_id=self.id,
            input_data=sync_point.serialize_input_data({tuple(s): {} for s in senders}),
        )

    def touch(self) -> None:
        """Something happens to a resource of it."""
        self.set(
            "UPDATE resource SET atomic_key = atomic_key + 1 WHERE id = :id",
            id=self.resources[-1],
        )

    def end(self) -> None:
        self.set("UPDATE stack SET status = 'COMPLETE' WHERE id = :id", id=self.id)

    def set(self, statement: str, **values: Any) -> None:
        with self._stacks.writing() as session:
            session.execute(sa.text(statement), values)
