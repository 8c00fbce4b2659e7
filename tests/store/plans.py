"""What the program really sends, explained by the server that is to run it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from tests.store.conftest import Store

DEADLINE = "liveness_deadline"


@dataclasses.dataclass
class Access:
    """How one table is read in one place of a plan."""

    table: str
    index: str | None
    whole: bool  # every row of the table or of the index
    rows: float  # read, by measurement where the server measures
    sorts: bool = False


@dataclasses.dataclass
class Explained:
    """One statement that was sent, and its plan."""

    statement: str
    accesses: list[Access]
    sorts: int
    plan: Any

    def of(self, table: str) -> list[Access]:
        return [access for access in self.accesses if access.table == table]

    def __str__(self) -> str:
        return f"{self.statement}\n{json.dumps(self.plan, indent=1, default=str)}"


class Explainer:
    """Explains every statement that a connection of ``store`` sends, right before it
    is run, and in the same transaction."""

    def __init__(self, store: Store) -> None:
        self._pool = store.pool
        self._explain = {
            "mysql": self._mariadb,
            "postgresql": self._postgresql,
        }[store.backend]
        self.explained: list[Explained] = []

    def __enter__(self) -> Explainer:
        sa.event.listen(self._pool, "before_cursor_execute", self._hook)
        return self

    def __exit__(self, *exc: object) -> None:
        sa.event.remove(self._pool, "before_cursor_execute", self._hook)

    def _hook(
        self,
        connection: Any,
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        many: bool,
    ) -> None:
        if statement.split()[0] in ("SELECT", "WITH", "UPDATE", "DELETE", "INSERT"):
            own = cursor.connection.cursor()
            self._explain(own, statement, parameters)
            own.close()

    # --- MariaDB: the plan as it would be, and counters for what was read -------

    def _mariadb(self, cursor: Any, statement: str, parameters: Any) -> None:
        cursor.execute(f"EXPLAIN FORMAT=JSON {statement}", parameters)
        plan = json.loads(cursor.fetchone()[0])
        accesses = [
            Access(
                table=table["table_name"],
                index=table.get("key"),
                whole=table.get("access_type") in ("ALL", "index"),
                rows=table.get("rows", 0),
            )
            for table in _find(plan, "table")
            if "table_name" in table
        ]
        sorts = sum(1 for _ in _find(plan, "filesort"))
        self.explained.append(Explained(statement, accesses, sorts, plan))

    # --- PostgreSQL: run for the plan, and undone -------------------------------

    def _postgresql(self, cursor: Any, statement: str, parameters: Any) -> None:
        inside = cursor.connection.info.transaction_status.name == "INTRANS"
        cursor.execute("SAVEPOINT explained" if inside else "BEGIN")
        cursor.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters
        )
        plan = cursor.fetchone()[0]
        cursor.execute("ROLLBACK TO SAVEPOINT explained" if inside else "ROLLBACK")
        nodes = list(_nodes(plan[0]["Plan"]))
        accesses = [
            Access(
                table=node["Relation Name"],
                index=node.get("Index Name") or _bitmap_index(node),
                whole=node["Node Type"] == "Seq Scan",
                rows=(node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
                * node["Actual Loops"],
            )
            for node in nodes
            if "Scan" in node["Node Type"] and "Relation Name" in node
        ]
        sorts = sum(1 for node in nodes if "Sort" in node["Node Type"])
        self.explained.append(Explained(statement, accesses, sorts, plan))


def _find(plan: Any, name: str) -> Iterator[Any]:
    """Every value of that name anywhere in a plan."""
    if isinstance(plan, list):
        for part in plan:
            yield from _find(part, name)
    elif isinstance(plan, dict):
        for key, part in plan.items():
            if key == name:
                yield part
            yield from _find(part, name)


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _bitmap_index(node: dict[str, Any]) -> str | None:
    return next((n["Index Name"] for n in _nodes(node) if "Index Name" in n), None)


def rows_read(store: Store, connection: sa.Connection, work: Any) -> int:
    """What MariaDB counts as read from tables and indexes during ``work``."""
    before = _counters(connection)
    work()
    after = _counters(connection)
    return sum(after.values()) - sum(before.values())


def _counters(connection: sa.Connection) -> dict[str, int]:
    rows = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'")
    return {
        name: int(value)
        for name, value in rows
        # Reading a temporary table of the result is no reading of a table.
        if name not in ("Handler_read_rnd_deleted",)
    }
