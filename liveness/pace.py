"""How many rows to take at once, so that what is due meanwhile does not wait for long.

The more rows, the cheaper each; but while they are taken, an engine fires nothing.
"""

from __future__ import annotations

AIM = 0.004
"""Seconds that a page may take, however soon something is due."""

LEAST = 100
"""Rows of a page that are worth its statements."""

MEMORY = 4
"""Pages by which the pace is known."""


class Pace:
    """Seconds that a row of one sort takes, by the last pages of them."""

    def __init__(
        self, each: float = 0.0, aim: float | None = None, least: int | None = None
    ) -> None:
        """``each``: what to go by until the first page is done; ``aim`` and ``least``:
        in place of :data:`AIM` and :data:`LEAST`."""
        self._each = each
        self._aim = AIM if aim is None else aim
        self._least = LEAST if least is None else least
        self._known = False

    def seconds(self, rows: int) -> float:
        """That so many ``rows`` should take."""
        return self._each * rows

    def rows(self, left: float, most: int, besides: int = 0) -> int:
        """Rows for the next page, at most ``most``: for which half of the seconds that
        are ``left`` should be enough, for a page may take twice as long as the last.
        So many ``besides`` are taken with it in any case."""
        seconds = max(left / 2, self._aim)
        if seconds >= self.seconds(most + besides):
            return most
        enough = int(seconds / self._each) - besides
        return max(min(enough, most), min(self._least, most))

    def took(self, rows: int, seconds: float) -> None:
        """A page of so many ``rows`` has taken so many ``seconds``."""
        each = seconds / rows
        self._each += (each - self._each) / (MEMORY if self._known else 1)
        self._known = True
