"""From which due times on a pass has to look: what was due before was looked for, and
was not there.

While somebody keeps an old snapshot, a database keeps the index entries of all that was
done since, and a search that begins at the first steps over every one of them. A mark
is a hint that may be too late for a row that came after the search and was due before
it (armed in a long transaction of a host's, or brought back by a failover), so once a
lease, and for a lease after anything went wrong, a pass looks at everything.
"""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime, timedelta

from liveness.db.finding import Found, Scope, Since


class Marks:
    """The marks of one engine's passes."""

    def __init__(self) -> None:
        self._now: datetime | None = None
        self._since: Since | None = None
        self._asked: Hashable = None

    def look(self, now: datetime) -> None:
        """The database says ``now``. Afterwards there is no mark if its clock has gone
        back (or is another node's): what is due by it may be before the marks."""
        if self._now is not None and now < self._now:
            self._since = None
        self._now = now

    def since(self, scope: Scope) -> Since | None:
        """From where to look for what ``scope`` asks; None: at everything, as when an
        engine looks for what it may hold without knowing it (``held``)."""
        whole = scope.held or self._asked != _rows_asked_for(scope)
        return None if whole else self._since

    def note(self, scope: Scope, found: Found, margin: float) -> None:
        """All that ``scope`` asks for was ``found``. The marks stay behind what is
        still there, and so many seconds behind the database's clock: what somebody
        makes due now may be seen so much later."""
        assert self._now is not None
        latest = self._now - timedelta(seconds=margin)
        late = latest - timedelta(seconds=scope.grace)
        own = min([latest, *(value.due_at for value in found.own[:1])])
        self._since = Since(own, min(late, found.overdue_from or late))
        self._asked = _rows_asked_for(scope)


def _rows_asked_for(scope: Scope) -> Hashable:
    return scope.kinds, scope.fresh_only, scope.foreign_due
