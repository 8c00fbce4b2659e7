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
            for table in (
                "sync_point",
                "event",
                "snapshot",
                "stack_tag",
                "resource",
                "stack",
                "user_creds",
                "service",
            ):
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

    def deleting(self) -> Deleting:
        """A stack that is being deleted: a resource, and a snapshot, which need
        nothing of each other."""
        return Deleting(self, next(self._numbers))

    def alone(
        self,
        action: str,
        row_action: str = "",
        physical: str | None = None,
        locked_by: str | None = "dead-engine",
        type_: str = "OS::Heat::RandomString",
        tag: str | None = None,
        is_update: bool = True,
        row_status: str = "IN_PROGRESS",
        reason: str = "",
    ) -> Alone:
        """A stack in progress with one resource. ``row_action``: the stack's, if none
        is given."""
        return Alone(
            self,
            next(self._numbers),
            action,
            row_action or action,
            physical,
            locked_by,
            type_,
            tag,
            is_update,
            row_status,
            reason,
        )

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


def _template(session: Any, resources: dict[str, Any]) -> tuple[Any, Any]:
    """A stack's template, and whose it is; both have ids."""
    template = models.RawTemplate(
        template={"heat_template_version": "2021-04-16", "resources": resources},
        files={},
        environment={},
    )
    credentials = models.UserCreds(username="demo", tenant_id="t")
    session.add_all([template, credentials])
    session.flush()
    return template, credentials


def _point(
    stack: Chain | Deleting | Alone,
    entity: str,
    is_update: bool = True,
    told: dict[Any, Any] | None = None,
) -> Any:
    """Where the traversal of ``stack`` waits for those that ``entity`` needs, some of
    whom have ``told``."""
    told = told or {}
    return models.SyncPoint(
        entity_id=entity,
        traversal_id=stack.traversal,
        is_update=is_update,
        atomic_key=len(told),
        stack_id=stack.id,
        input_data=sync_point.serialize_input_data(told),
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
                    senders = {tuple(n): {} for n in before}
                    session.add(_point(self, str(node.rsrc_id), told=senders))
                senders = {tuple(nodes[-1]): {}} if told == length else {}
                session.add(_point(self, self.id, told=senders))

    def _resource(self, done: bool) -> Any:
        return models.Resource(
            name="r",
            stack_id=self.id,
            action="CREATE" if done else "INIT",
            status="COMPLETE",
            atomic_key=1,
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


class Deleting:
    def __init__(self, stacks: Stacks, number: int) -> None:
        self._stacks = stacks
        self.id = str(uuid.UUID(int=number))
        self.traversal = str(uuid.uuid4())
        self.snapshot = str(uuid.uuid4())
        with stacks.writing() as session:
            template, credentials = _template(session, {})
            stack = models.Stack(
                id=self.id,
                name=f"stack-{number}",
                raw_template_id=template.id,
                user_creds_id=credentials.id,
                tenant="t",
                action="DELETE",
                status="IN_PROGRESS",
                convergence=True,
                disable_rollback=True,
                current_traversal=self.traversal,
            )
            session.add(stack)
            session.flush()
            resource = models.Resource(
                name="r",
                stack_id=self.id,
                action="DELETE",
                status="IN_PROGRESS",
                atomic_key=1,
            )
            snapshot = models.Snapshot(
                id=self.snapshot,
                stack_id=self.id,
                tenant="t",
                data={"resources": {}},
                action="CREATE",
                status="COMPLETE",
            )
            session.add_all([resource, snapshot])
            session.flush()
            self.resources = [resource.id]
            self._nodes = [
                ConvergenceNode(resource.id, False),
                ConvergenceNode(self.snapshot, False, "snapshot"),
            ]
            stack.current_deps = {
                "edges": [[node.to_tuple(), None] for node in self._nodes]
            }
            for node in self._nodes:
                session.add(_point(self, str(node.rsrc_id), node.is_update))
            session.add(_point(self, self.id))

    def is_asked_for(self) -> str:
        """A user deletes the snapshot; the traversal in which he does."""
        traversal = str(uuid.uuid4())
        with self._stacks.writing() as session:
            point = _point(self, self.snapshot)
            point.traversal_id = traversal
            session.add(point)
        return traversal

    @property
    def snapshot_status(self) -> tuple[str, str]:
        """Its status, and why."""
        with self._stacks.writing() as session:
            row = session.query(models.Snapshot).filter_by(id=self.snapshot).one()
            return row.status, str(row.status_reason)

    def drop_snapshot(self) -> None:
        self._set("DELETE FROM snapshot WHERE id = :id", id=self.snapshot)

    def tell_of_the_resource(self) -> None:
        sync_point.sync(
            context.get_admin_context(),
            self.id,
            self.traversal,
            True,
            lambda *args: None,
            set(self._nodes),
            {self._nodes[0]: None},
        )

    def is_traversal(self) -> None:
        """Another one than it was."""
        self._set("UPDATE stack SET current_traversal = 'x' WHERE id = :id", id=self.id)

    def is_over(self) -> None:
        self._set("UPDATE stack SET status = 'FAILED' WHERE id = :id", id=self.id)

    def is_late(self) -> None:
        """Past its time."""
        self._set(
            "UPDATE stack SET created_at = '2020-01-01', timeout = 1 WHERE id = :id",
            id=self.id,
        )

    @property
    def status(self) -> str:
        row = self._row()
        return f"{row.action}_{row.status}"

    @property
    def reason(self) -> str:
        return str(self._row().status_reason)

    @property
    def is_gone(self) -> bool:
        return self._row().deleted_at is not None

    @property
    def told(self) -> list[Any]:
        """Of whom the stack has been told."""
        with self._stacks.writing() as session:
            point = session.query(models.SyncPoint).filter_by(entity_id=self.id).one()
            data = sync_point.deserialize_input_data(point.input_data)
        return [ConvergenceNode.from_tuple(key).rsrc_id for key in data]

    @property
    def events(self) -> list[str]:
        with self._stacks.writing() as session:
            found = session.query(models.Event).filter_by(stack_id=self.id)
            return [row.resource_status_reason for row in found.order_by("id")]

    def _row(self) -> Any:
        with self._stacks.writing() as session:
            found = session.query(models.Stack).filter_by(id=self.id).one()
            session.expunge(found)
            return found

    def _set(self, statement: str, **values: Any) -> None:
        with self._stacks.writing() as session:
            session.execute(sa.text(statement), values)


class Alone:
    """A stack in progress with one resource, which an engine has locked."""

    def __init__(
        self,
        stacks: Stacks,
        number: int,
        action: str,
        row_action: str,
        physical: str | None,
        locked_by: str | None,
        type_: str,
        tag: str | None,
        is_update: bool,
        row_status: str,
        reason: str,
    ) -> None:
        self._stacks = stacks
        self.id = str(uuid.UUID(int=number))
        self.traversal = str(uuid.uuid4())
        with stacks.writing() as session:
            template, credentials = _template(session, {"r": {"type": type_}})
            stack = models.Stack(
                id=self.id,
                name=f"stack-{number}",
                raw_template_id=template.id,
                user_creds_id=credentials.id,
                tenant="t",
                action=action,
                status="IN_PROGRESS",
                convergence=True,
                disable_rollback=True,
                current_traversal=self.traversal,
            )
            session.add(stack)
            session.flush()
            if tag:
                session.add(models.StackTag(stack_id=self.id, tag=tag))
            row = models.Resource(
                name="r",
                stack_id=self.id,
                action=row_action,
                status=row_status,
                status_reason=reason,
                physical_resource_id=physical,
                engine_id=locked_by,
                atomic_key=1,
                current_template_id=template.id,
                requires=[],
                needed_by=[],
            )
            session.add(row)
            session.flush()
            self.resource = row.id
            node = ConvergenceNode(row.id, is_update)
            stack.current_deps = {"edges": [[node.to_tuple(), None]]}
            for entity, update in ((str(row.id), is_update), (self.id, True)):
                session.add(_point(self, entity, update))

    def is_replaced_and_cleaned_up(self) -> int:
        """Its resource is gone, and what replaced it has told the clean-up so and not
        yet the one other that needs it, whose row's id is returned."""
        old, name = self.resource, {"name": "r", "stack_id": self.id, "atomic_key": 1}
        with self._stacks.writing() as session:
            row = session.query(models.Resource).filter_by(id=old).one()
            known = {"current_template_id": row.current_template_id}
            new, other = (
                models.Resource(
                    **name, **known, action="CREATE", status="COMPLETE", requires=[]
                )
                for _ in range(2)
            )
            session.add_all([new, other])
            session.flush()
            row.action, row.status, row.replaced_by = "DELETE", "COMPLETE", new.id
            node, cleaning = ConvergenceNode(old, True), ConvergenceNode(old, False)
            waiting = ConvergenceNode(other.id, True)
            edges = [[n.to_tuple(), node.to_tuple()] for n in (cleaning, waiting)]
            stack = session.query(models.Stack).filter_by(id=self.id).one()
            stack.current_deps = {"edges": edges}
            for to, told in ((cleaning, {tuple(node): None}), (waiting, {})):
                session.add(_point(self, str(to.rsrc_id), to.is_update, told))
            self.resource = new.id
            return int(other.id)

    @property
    def status(self) -> str:
        row = self._one(models.Stack, id=self.id)
        return f"{row.action}_{row.status}"

    @property
    def reason(self) -> str:
        return str(self._one(models.Stack, id=self.id).status_reason)

    @property
    def traversal_now(self) -> str:
        return str(self._one(models.Stack, id=self.id).current_traversal)

    @property
    def row(self) -> Any:
        return self._one(models.Resource, id=self.resource)

    @property
    def events(self) -> list[str]:
        with self._stacks.writing() as session:
            found = session.query(models.Event).filter_by(stack_id=self.id)
            return [row.resource_status_reason for row in found.order_by("id")]

    def set(self, statement: str, **values: Any) -> None:
        """``UPDATE stack SET`` so."""
        with self._stacks.writing() as session:
            text = sa.text(f"UPDATE stack SET {statement} WHERE id = :me")
            session.execute(text, {**values, "me": self.id})

    def _one(self, model: Any, **wanted: Any) -> Any:
        with self._stacks.writing() as session:
            found = session.query(model).filter_by(**wanted).one()
            session.expunge(found)
            return found
