"""How survivors share what a dead engine had, when that is very much: each takes a
slice of its own, and walks through it page by page.

Slices are counted off in the order of the owner's index, so that no two survivors find
the same rows, and none reads again what has been taken: rows that went leave entries in
the index, and who begins at its head steps over all of them for each page.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Sequence

import sqlalchemy as sa

from liveness.db.finding import FIRST, Finder, Place, Scope
from liveness.model import Deadline

PAGE = 1000
"""Rows taken at once, at most."""

COUNTED = 100_000
"""Rows of an owner that are shared out at once."""

VAIN = 3
"""Pages in a row of which nothing could be taken; then it is left for a while."""


@dataclasses.dataclass(slots=True)
class Walk:
    """One engine's way through one owner's rows: ``left`` in its slice."""

    after: Place = FIRST
    left: int = 0


class Walks:
    """The owners that one engine walks through, in turn. Used by one thread."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._walks: dict[str, Walk] = {}
        self._owner = ""

    def __len__(self) -> int:
        return len(self._walks)

    def __contains__(self, owner: str) -> bool:
        return owner in self._walks

    def keep(self, dead: Collection[str]) -> None:
        """Afterwards only owners that are ``dead`` are walked through."""
        for owner in self._walks.keys() - set(dead):
            del self._walks[owner]

    def begin(self, adoptable: Sequence[Deadline], page: int) -> bool:
        """Walk through the owner of most of a full page, if there is one."""
        owners = Counter(value.owner_id for value in adoptable)
        for owner, count in owners.most_common(1):
            if owner is not None and count >= page / 2:
                self._walks[owner] = Walk()
                return True
        return False

    def next_page(
        self, connection: sa.Connection, scope: Scope, rank: int, of: int, most: int
    ) -> list[Deadline]:
        """The next rows to take, at most so many, of the owner whose turn it is, by
        this engine, which is the ``rank``-th ``of`` so many survivors. A walk ends when
        little is left: that is found as everything else is."""
        if not self._walks:
            return []
        self._owner = next(iter(self._walks))
        walk = self._walks.pop(self._owner)
        if walk.left <= 0 and not self._slice(connection, scope, walk, rank, of):
            return []
        self._walks[self._owner] = walk  # behind the others
        most = min(most, walk.left)
        page = self._finder.orphans_of(connection, scope, self._owner, walk.after, most)
        walk.left = walk.left - len(page) if len(page) == most else 0
        if page:
            walk.after = Place(page[-1].due_at, page[-1].id)
        return page

    def _slice(
        self, connection: sa.Connection, scope: Scope, walk: Walk, rank: int, of: int
    ) -> bool:
        """Choose the next slice, if there are more rows than a pass finds anyway."""
        count = self._finder.count_armed(connection, self._owner, COUNTED)
        if count <= scope.limit:
            return False
        walk.left = -(-count // of)
        skipped = walk.left * (rank % of)
        walk.after = self._finder.place_after(connection, self._owner, skipped) or FIRST
        return True

    def taken(
        self, page: Sequence[Deadline], wanted: int, adopted: int, vain: bool
    ) -> None:
        """Of the last page, so many were to be adopted, and so many were. Others may
        be at work there: the next slice is another one. A walk ends when it is in
        ``vain``, and when it comes to little: what is to be done at once is found page
        by page."""
        if adopted < wanted:
            self._walks[self._owner].left = 0
        if wanted < len(page) / 2 or vain:
            del self._walks[self._owner]
