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


class Naming(enum.Enum):
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
        dialect, naming = connection.dialect, naming_of(deadlines)
        statement = self._statements.get(
            naming, dialect, lambda: Prepared(deletion(connection, naming), dialect)
        )
        gone = statement.execute(connection, parameters(deadlines, naming)).rowcount
        return stale(connection, deadlines, gone, again)


def naming_of(deadlines: Sequence[Deadline]) -> Naming:
    """The shortest for ``deadlines``, which are all of one owner."""
    if len(deadlines) == 1:
        return Naming.ONE
    written = {deadline.token - deadline.id for deadline in deadlines}
    return Naming.ALIKE if len(written) == 1 else Naming.EACH


def deletion(connection: sa.Connection, naming: Naming) -> sa.Delete:
    """Of the rows of which the :func:`parameters` have the newest values."""
    if naming is not Naming.ALIKE:
        these = unchanged(connection, naming is Naming.ONE, DONE)
        return sa.delete(D).where(these, _owned())
    ids = among(connection, D.c.id, f"{DONE}ids")
    token = written_token(sa.bindparam(f"{DONE}written", type_=sa.BigInteger))
    return sa.delete(D).where(ids, D.c.token == token, _owned())


def _owned() -> sa.ColumnElement[bool]:
    return looked_at(D.c.owner_id) == sa.bindparam(f"{DONE}owner")


def parameters(deadlines: Sequence[Deadline], naming: Naming) -> dict[str, Any]:
    """What :func:`deletion` so named needs."""
    first = deadlines[0]
    owner = {f"{DONE}owner": first.owner_id}
    if naming is not Naming.ALIKE:
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
