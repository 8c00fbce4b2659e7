"""The WSGI application: which page is asked for, and what was seen last.

However many look at it, the database is looked at once a second at most, and a tenth
of the time at most.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from liveness import exceptions
from liveness.cmd import base, glance
from liveness.cmd.redaction import Redaction
from liveness.cmd.web import fleet, found, look
from liveness.cmd.web.frame import Frame, away
from liveness.cmd.web.style import STYLE

if TYPE_CHECKING:
    import sqlalchemy as sa

    from liveness.conf import Settings

T = TypeVar("T")

FRESH, SHARE = 1.0, 10.0
"""Seconds for which one look serves everybody who asks for the same, and how many times
as long as it took; the longer of both."""

KEPT = 50
"""Looks that are kept."""

HEADERS = [
    ("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action "
     "'self'; base-uri 'none'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
]  # fmt: skip

Answer = tuple[str, str, str]
"""Status, type and text."""


@dataclasses.dataclass(frozen=True)
class Away:
    """The database cannot be looked at, and why."""

    problem: str


class Looks(Generic[T]):
    """Looks at the database, one at a time, each shared by all who ask for it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._kept: dict[Hashable, tuple[float, T | Away]] = {}

    def get(self, wanted: Hashable, read: Callable[[sa.Connection], T]) -> T | Away:
        """What ``read`` gives, or gave a moment ago."""
        with self._lock:
            until, seen = self._kept.get(wanted, (float("-inf"), Away("")))
            began = time.monotonic()
            if began >= until:
                seen = self._look(read)
                ended = time.monotonic()
                away = isinstance(seen, Away)
                pause = FRESH if away else max(FRESH, SHARE * (ended - began))
                self._kept[wanted] = ended + pause, seen
                while len(self._kept) > KEPT:
                    del self._kept[next(iter(self._kept))]
            return seen

    def _look(self, read: Callable[[sa.Connection], T]) -> T | Away:
        from liveness.db import report

        url, timeout = self._settings.connection, self._settings.database_timeout
        try:
            with report.opened(url, timeout) as connection:
                return read(connection)
        except exceptions.DatabaseError as error:
            return Away(base.masked(str(error)))


class Page:
    """The WSGI application. ``refresh``: seconds after which a page that is only read
    loads itself again."""

    def __init__(self, settings: Settings, refresh: float = 5.0) -> None:
        self._settings = settings
        self._refresh = refresh
        self._hides = Redaction(settings.redacted)
        self._fleets: Looks[glance.Fleet] = Looks(settings)
        self._others: Looks[Any] = Looks(settings)
        self._last: tuple[float, glance.Fleet] | None = None

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        status, kind, text = self._answer(environ)
        body = text.encode("utf-8", "replace")
        headers = [
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            *HEADERS,
        ]
        if status.startswith("405"):
            headers.append(("Allow", "GET, HEAD"))
        start_response(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: dict[str, Any]) -> Answer:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return "405 Method Not Allowed", "text/plain", "It only shows.\n"
        given = look.asked(environ.get("QUERY_STRING", ""))
        match environ.get("PATH_INFO", "/"):
            case "/style.css":
                return "200 OK", "text/css", STYLE
            case "/":
                return self._seen(given, fleet.overview)
            case "/engines":
                return self._seen(given, fleet.engines)
            case "/deadlines":
                return self._search(look.Search.of(given))
            case "/deadline":
                return self._one(look.Key(given.get("kind", ""), given.get("key", "")))
        return "404 Not Found", "text/plain", "There is no such page; there is /.\n"

    def _seen(
        self, given: dict[str, str], page: Callable[[glance.Fleet, Frame], str]
    ) -> Answer:
        """A page of the whole fleet, as it is or as it was when it was last seen."""
        still = "still" in given
        frame = Frame(None if still else self._refresh, self._hides)
        read = lambda connection: glance.fleet(connection, self._settings)  # noqa: E731
        seen = self._fleets.get("", read)
        if not isinstance(seen, Away):
            self._last = time.monotonic(), seen
            return _html("200 OK", page(seen, frame))
        if self._last is None:
            return _html(UNAVAILABLE, away(seen.problem, frame))
        at, last = self._last
        frame = dataclasses.replace(
            frame, problem=seen.problem, age=time.monotonic() - at
        )
        return _html(UNAVAILABLE, page(last, frame))

    def _search(self, wanted: look.Search) -> Answer:
        frame = Frame(None, self._hides)
        seen = self._others.get(wanted, lambda c: look.search(c, wanted))
        if isinstance(seen, Away):
            return _html(UNAVAILABLE, away(seen.problem, frame))
        return _html("200 OK", found.search(seen, wanted, frame))

    def _one(self, wanted: look.Key) -> Answer:
        frame = Frame(None, self._hides)
        seen = self._others.get(wanted, lambda c: look.one(c, wanted, self._settings))
        if isinstance(seen, Away):
            return _html(UNAVAILABLE, away(seen.problem, frame))
        if seen is None:
            return _html("404 Not Found", found.missing(wanted, frame))
        return _html("200 OK", found.deadline(seen, frame))


UNAVAILABLE = "503 Service Unavailable"


def _html(status: str, text: str) -> Answer:
    return status, "text/html", text
