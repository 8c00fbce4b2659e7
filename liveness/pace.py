"""How many rows to take at once, so that what is due meanwhile does not wait for long.

The more rows, the cheaper each; but while they are taken, an engine fires nothing.
"""

from __future__ import annotations

AIM = 0.002
"""Seconds that a page may take, however soon something is due."""

LEAST = 50
"""Rows of a page that are worth its statements."""

MEMORY = 4
"""Pages by which the pace is known."""


class Pace:
    """Seconds that a row of one sort takes, by the last pages of them."""

    def __init__(self) -> None:
        self._each = 0.0

    def rows(self, left: float, most: int) -> int:
        """Rows for the next page, at most ``most``: of which half of the seconds that
        are ``left`` should be enough, for a page may take twice as long as the last."""
        seconds = max(left / 2, AIM)
        if seconds >= self._each * most:
            return most
        return max(min(int(seconds / self._each), most), min(LEAST, most))

    def took(self, rows: int, seconds: float) -> None:
        """A page of so many ``rows`` has taken so many ``seconds``."""
        each = seconds / rows
        self._each += (each - self._each) / (MEMORY if self._each else 1)
