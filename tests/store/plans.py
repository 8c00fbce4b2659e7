"""What the program really sends, explained by the server that is to run it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa

from tests.store.conftest import Store

VERBS = ("SELECT", "WITH", "UPDATE", "DELETE", "SET STATEMENT")


@dataclasses.dataclass
class Access:
    """How one table is read in one place of a plan."""

    table: str
    index: str | None
    whole: bool  # from end to end
    rows: float  # read, on PostgreSQL; expected, on MariaDB


@dataclasses.dataclass
class Explained:
    """One statement that was sent, and its plan."""

    statement: str
    accesses: list[Access]
    sorts: int
    plan: Any

    def __str__(self) -> str:
        return f"{self.statement}\n{json.dumps(self.plan, indent=1, default=str)}"


class Explainer:
    """Explains every statement that connections of ``store`` send, right before it is
    run and in the same transaction; and counts the rows that were read."""

    def __init__(self, store: Store) -> None:
        self._pool = store.pool
        self._mariadb = store.backend == "mysql"
        self.explained: list[Explained] = []
        self.rows_read = 0.0

    def run(self, work: Callable[[sa.Connection], Any]) -> Any:
        """Do ``work`` and explain it. On MariaDB, ``rows_read`` is what the server
        counted; on PostgreSQL, what its plans measured."""
        with self._pool.connect() as connection:
            before = _counted(connection) if self._mariadb else 0
            sa.event.listen(self._pool, "before_cursor_execute", self._hook)
            try:
                result = work(connection)
            finally:
                sa.event.remove(self._pool, "before_cursor_execute", self._hook)
            if self._mariadb:
                # EXPLAIN itself may read: once more, for the numbers alone.
                self.rows_read = _counted(connection) - before
            else:
                self.rows_read = sum(a.rows for e in self.explained for a in e.accesses)
        return result

    def of(self, table: str) -> list[Access]:
        """Every access to ``table``."""
        return [a for e in self.explained for a in e.accesses if a.table == table]

    @property
    def sorts(self) -> int:
        return sum(explained.sorts for explained in self.explained)

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.explained))

    def _hook(
        self,
        connection: Any,
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        many: bool,
    ) -> None:
        if not statement.lstrip("(").startswith(VERBS):
            return
        own = cursor.connection.cursor()
        explain = self._explain_mariadb if self._mariadb else self._explain_postgresql
        self.explained.append(explain(own, statement, parameters))
        own.close()

    @staticmethod
    def _explain_mariadb(cursor: Any, statement: str, parameters: Any) -> Explained:
        prefix, found, rest = statement.partition(" FOR UPDATE liveness")
        if statement.startswith("SET STATEMENT") and found:
            statement = f"UPDATE liveness{rest}"
        cursor.execute(f"EXPLAIN FORMAT=JSON {statement}", parameters)
        plan = json.loads(cursor.fetchone()[0])
        accesses = [
            Access(
                table=table["table_name"],
                index=table.get("key"),
                whole=table.get("access_type") in ("ALL", "index"),
                rows=table.get("rows", 0),
            )
            for table in _values(plan, "table")
            if not table.get("table_name", "<").startswith("<")
        ]
        sorts = sum(1 for _ in _values(plan, "filesort"))
        return Explained(statement, accesses, sorts, plan)

    @staticmethod
    def _explain_postgresql(cursor: Any, statement: str, parameters: Any) -> Explained:
        # Run for its plan, and undone.
        inside = cursor.connection.info.transaction_status.name == "INTRANS"
        cursor.execute("SAVEPOINT explained" if inside else "BEGIN")
        cursor.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters
        )
        plan = cursor.fetchone()[0]
        cursor.execute("ROLLBACK TO SAVEPOINT explained" if inside else "ROLLBACK")
        assert "JIT" not in plan[0], "compiling takes longer than running"
        nodes = list(_nodes(plan[0]["Plan"]))
        accesses = [
            Access(
                table=node["Relation Name"],
                index=next(
                    (n["Index Name"] for n in _nodes(node) if "Index Name" in n), None
                ),
                whole=node["Node Type"] == "Seq Scan",
                rows=(node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
                * node["Actual Loops"],
            )
            for node in nodes
            if "Scan" in node["Node Type"] and "Relation Name" in node
        ]
        sorts = sum(1 for node in nodes if "Sort" in node["Node Type"])
        return Explained(statement, accesses, sorts, plan)


def _values(plan: Any, name: str) -> Iterator[Any]:
    """Every value of that name anywhere in a plan."""
    if isinstance(plan, list):
        for part in plan:
            yield from _values(part, name)
    elif isinstance(plan, dict):
        for key, part in plan.items():
            if key == name:
                yield part
            yield from _values(part, name)


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _counted(connection: sa.Connection) -> int:
    """Rows that MariaDB has read for this session, from tables and indexes (and from
    its own temporary tables)."""
    rows = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'")
    return sum(int(value) for name, value in rows if not name.endswith("deleted"))
