"""What the scan's statements read of large tables, by MariaDB's own count."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from heat.db import api as db_api

from liveness.heat.scan_rows import PAGE, Rows

STACKS, EACH = 5_000, 3
"""Stacks in the table, and resources of each."""


@pytest.fixture(scope="module")
def many(heat_database: None) -> Iterator[str]:
    """Many stacks that are over, and one in progress in their midst: its id."""
    from tests.heat.inside.stacks import Stacks

    stacks = Stacks()
    stacks.clear()
    chain = stacks.chain(told=1)
    busy = str(uuid.uuid4())
    with stacks.writing() as session:
        session.execute(sa.text("SET foreign_key_checks = 0"))
        for statement in (
            f"UPDATE stack SET id = '{busy}'",
            f"UPDATE resource SET stack_id = '{busy}'",
            f"UPDATE sync_point SET stack_id = '{busy}'",
            "INSERT INTO stack (id, name, raw_template_id, disable_rollback, action,"
            " status, convergence, current_traversal) SELECT UUID(), 'old',"
            " t.id, 1, 'CREATE', 'COMPLETE', 1, 'over' FROM raw_template t,"
            f" seq_1_to_{STACKS} WHERE t.id = (SELECT MAX(id) FROM raw_template)",
            "INSERT INTO resource (uuid, name, stack_id, action, status, atomic_key)"
            " SELECT UUID(), 'r', id, 'CREATE', 'COMPLETE', 1 FROM stack,"
            f" seq_1_to_{EACH} WHERE name = 'old'",
            "INSERT INTO sync_point (entity_id, traversal_id, is_update, atomic_key,"
            " stack_id) SELECT id, 'over', 1, 0, id FROM stack WHERE name = 'old'",
            "ANALYZE TABLE stack, resource, sync_point",
        ):
            session.execute(sa.text(statement))
        session.execute(sa.text("SET foreign_key_checks = 1"))
    assert chain.traversal
    yield busy
    stacks.clear()


def rows_read(work: Callable[[], Any]) -> tuple[Any, int]:
    """What ``work`` returns, and how many rows the server read for it."""
    count = 0

    def handler_reads(conn: Any) -> int:
        with conn.connection.cursor() as cursor:
            cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
            return sum(int(value) for _, value in cursor.fetchall())

    def before(conn: Any, *rest: Any) -> None:
        nonlocal count
        first = handler_reads(conn)
        second = handler_reads(conn)  # has read what it takes to show this, too
        count -= second + (second - first)

    def after(conn: Any, *rest: Any) -> None:
        nonlocal count
        count += handler_reads(conn)

    engine = db_api.get_engine()
    sa.event.listen(engine, "before_cursor_execute", before)
    sa.event.listen(engine, "after_cursor_execute", after)
    try:
        return work(), count
    finally:
        sa.event.remove(engine, "before_cursor_execute", before)
        sa.event.remove(engine, "after_cursor_execute", after)


def test_a_page_reads_its_rows_and_no_more(many: str) -> None:
    rows = Rows()
    pages, found, after = 0, [], ""
    while after is not None:
        (ids, after), read = rows_read(lambda after=after: rows.page(after))
        assert read <= PAGE + 10
        pages += 1
        found += ids
    assert found == [many]
    assert pages == STACKS // PAGE + 1


@pytest.mark.parametrize("data", [False, True])
def test_a_look_at_a_stack_reads_what_belongs_to_it(many: str, data: bool) -> None:
    view, read = rows_read(lambda: Rows().view(many, data))
    assert len(view.rows) == 2 and len(view.points) == 3
    assert read < 30


def test_a_page_of_locks_reads_its_rows_and_no_more(many: str) -> None:
    rows = Rows()
    after: int | None = 0
    pages = 0
    while after is not None:
        (_, after), read = rows_read(lambda after=after: rows.locked(after))
        assert read <= PAGE + 10
        pages += 1
    assert pages >= STACKS * EACH // PAGE
