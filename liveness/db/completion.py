"""The end of deadlines that are done: their rows go, if nobody took them over."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from liveness.db import tables
from liveness.db.prepared import Prepared, Statements
from liveness.db.rows import (
    among,
    looked_at,
    numbers_of,
    unchanged,
    written_token,
)
from liveness.model import Deadline

D = tables.deadline

DONE = "done_"
"""Before the names of the parameters."""


class Form(enum.Enum):
    """How a statement names the rows that it deletes: the one, those that one statement
    claimed, whose tokens are made of one number, or each by its token."""

    ONE = enum.auto()
    ALIKE = enum.auto()
    EACH = enum.auto()


class Completion:
    """Deletes rows of one owner, alone or in a statement with more."""

    def __init__(self) -> None:
        self._statements = Statements()

    def run(
        self, connection: sa.Connection, deadlines: Sequence[Deadline], again: bool
    ) -> set[int]:
        """See :meth:`liveness.db.deadlines.Deadlines.complete`."""
        dialect, form = connection.dialect, form_of(deadlines)
        statement = self._statements.get(
            form, dialect, lambda: Prepared(deletion(connection, form), dialect)
        )
        gone = statement.execute(connection, parameters(deadlines, form)).rowcount
        return stale(connection, deadlines, gone, again)


def form_of(deadlines: Sequence[Deadline]) -> Form:
    """The shortest form for ``deadlines``, which are all of one owner."""
    if len(deadlines) == 1:
        return Form.ONE
    written = {deadline.token - deadline.id for deadline in deadlines}
    return Form.ALIKE if len(written) == 1 else Form.EACH


def deletion(connection: sa.Connection, form: Form) -> sa.Delete:
    """Of the rows of which the :func:`parameters` have the newest values."""
    if form is not Form.ALIKE:
        these = unchanged(connection, form is Form.ONE, DONE)
        return sa.delete(D).where(these, _owned())
    ids = among(connection, D.c.id, f"{DONE}ids")
    token = written_token(sa.bindparam(f"{DONE}written", type_=sa.BigInteger))
    return sa.delete(D).where(ids, D.c.token == token, _owned())


def _owned() -> sa.ColumnElement[bool]:
    return looked_at(D.c.owner_id) == sa.bindparam(f"{DONE}owner")


def parameters(deadlines: Sequence[Deadline], form: Form) -> dict[str, Any]:
    """What :func:`deletion` in that form needs."""
    first = deadlines[0]
    owner = {f"{DONE}owner": first.owner_id}
    if form is not Form.ALIKE:
        return owner | numbers_of(deadlines, DONE)
    ids = [deadline.id for deadline in deadlines]
    return {**owner, f"{DONE}ids": ids, f"{DONE}written": first.token - first.id}


def stale(
    connection: sa.Connection, deadlines: Sequence[Deadline], gone: int, again: bool
) -> set[int]:
    """The ids of those that were not deleted, of which ``gone`` rows were."""
    ids = [deadline.id for deadline in deadlines]
    if gone == len(ids):
        return set()
    if len(ids) == 1 and not again:
        return set(ids)
    left = sa.select(D.c.id).where(among(connection, D.c.id, "ids"))
    return set(connection.execute(left, {"ids": ids}).scalars())
