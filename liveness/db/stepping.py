"""The different values of an indexed column, without reading every row."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


def values_of(dialect: str, column: sa.Column[Any]) -> Any:
    """A subquery of every value of ``column``, the first of an index, as ``value``;
    NULL may be among them. It costs as many steps as there are values.

    InnoDB jumps from group to group by itself ("Using index for group-by"), and not for
    the recursive query, which is the "loose index scan" of PostgreSQL's wiki: each
    value is the least that is greater than the one before.
    """
    if dialect == "mysql":
        return sa.select(column.label("value")).group_by(column).subquery("found")
    found = sa.select(sa.func.min(column).label("value")).cte("found", recursive=True)
    following = (
        sa.select(sa.func.min(column))
        .where(column > found.c.value)
        .correlate(found)
        .scalar_subquery()
    )
    return found.union_all(sa.select(following).where(found.c.value.is_not(None)))
