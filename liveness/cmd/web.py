"""``liveness-web``: a page that shows, and does nothing else.

Plain WSGI and HTML, without JavaScript. It needs no right but to read. However many
look at it, the database is looked at once a second at most. Payloads are never read.
"""

from __future__ import annotations

import argparse
import dataclasses
import html
import itertools
import socketserver
import sys
import threading
import time
import wsgiref.simple_server
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from liveness import exceptions, model
from liveness.clock import Clock
from liveness.cmd import app, base, engines
from liveness.cmd.output import printable
from liveness.conf import listening_address

if TYPE_CHECKING:
    import sqlalchemy as sa

    from liveness.conf import Settings
    from liveness.db.report import Listed, ShownEngine
    from liveness.events import Event

ENGINES, ROWS, EVENTS = 500, 100, 2000
"""What is shown at most."""

WINDOWS = 50
"""Windows of the table that are searched for what is asked, from the oldest row on."""

FRESH = 1.0
"""Seconds for which one look serves everybody who asks for the same."""

KEPT = 50
"""Looks that are kept."""

HOUR = timedelta(hours=1)

HEADERS = [
    ("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action "
     "'self'; base-uri 'none'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
]  # fmt: skip

STYLE = """
body { font: 14px/1.4 sans-serif; margin: 1em 2em; color: #222; background: #fff }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin: 1.5em 0 .3em }
table { border-collapse: collapse } th, td { text-align: left; padding: .15em .8em }
td { max-width: 40em; overflow-wrap: break-word }
tr:nth-child(even) { background: #f3f3f3 }
.banner { background: #b00020; color: #fff; padding: .8em 1em; font-weight: bold }
.dead { color: #b00020 } svg { background: #f7f7f7 } rect { fill: #b36b00 }
"""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a request asks to be shown."""

    state: str = ""
    kind: str = ""
    prefix: str = ""

    @classmethod
    def of(cls, query: str) -> Asked:
        """From a query string, whatever is in it."""
        given = {name: values[-1][:255] for name, values in parse_qs(query).items()}
        state = given.get("state", "")
        known = [str(each) for each in model.DeadlineState]
        return cls(
            state if state in known else "",
            given.get("kind", ""),
            given.get("prefix", ""),
        )


@dataclasses.dataclass(frozen=True)
class Seen:
    """One look."""

    now: datetime
    engines: list[ShownEngine]
    counts: dict[str, dict[str, int]]
    events: list[Event]
    parked: list[Listed]
    found: list[Listed]


def look(connection: sa.Connection, asked: Asked) -> Seen:
    """Read what the page shows, in a few statements that each stop somewhere."""
    from liveness.db.events import EventLog, Sought
    from liveness.db.report import Filter, Report

    report = Report(Clock())
    now = report.now(connection)
    events = EventLog(Clock()).newest_first(connection, Sought(since=now - HOUR))
    found = report.deadlines(
        connection,
        Filter(
            states=[asked.state] if asked.state else (),
            kinds=[asked.kind] if asked.kind else (),
            prefix=asked.prefix,
        ),
        windows=WINDOWS,
    )
    return Seen(
        now=now,
        engines=list(itertools.islice(report.engines(connection), ENGINES)),
        counts={
            str(state): report.by_kind(connection, state)
            for state in model.DeadlineState
        },
        events=list(itertools.islice(events, EVENTS)),
        parked=report.some(
            connection, Filter(states=[model.DeadlineState.PARKED]), ROWS
        ),
        found=list(itertools.islice(found, ROWS)) if asked != Asked() else [],
    )


class Page:
    """The WSGI application."""

    def __init__(self, settings: Settings, refresh: float = 5.0) -> None:
        self._settings = settings
        self._refresh = refresh
        self._lock = threading.Lock()
        self._looks: dict[Asked, tuple[float, Seen | str]] = {}

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        status, kind, body = self._answer(environ)
        headers = [
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            *HEADERS,
        ]
        start_response(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: dict[str, Any]) -> tuple[str, str, bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return "405 Method Not Allowed", "text/plain", b"It only shows.\n"
        path = environ.get("PATH_INFO", "/")
        if path == "/style.css":
            return "200 OK", "text/css", STYLE.encode()
        if path != "/":
            return "404 Not Found", "text/plain", b"There is only /.\n"
        asked = Asked.of(environ.get("QUERY_STRING", ""))
        seen = self._seen(asked)
        status = "503 Service Unavailable" if isinstance(seen, str) else "200 OK"
        text = document(seen, asked, self._refresh)
        return status, "text/html; charset=utf-8", text.encode("utf-8", "replace")

    def _seen(self, asked: Asked) -> Seen | str:
        with self._lock:  # one look at a time, for all that ask
            now = time.monotonic()
            at, seen = self._looks.get(asked, (float("-inf"), ""))
            if now - at >= FRESH:
                seen = self._look(asked)
                self._looks[asked] = time.monotonic(), seen
                while len(self._looks) > KEPT:
                    del self._looks[next(iter(self._looks))]
            return seen

    def _look(self, asked: Asked) -> Seen | str:
        from liveness.db import report

        settings = self._settings
        try:
            with report.opened(
                settings.connection, settings.database_timeout
            ) as connection:
                return look(connection, asked)
        except exceptions.DatabaseError as error:
            return str(error)


# --- HTML ---------------------------------------------------------------------------


def e(value: Any) -> str:
    """A value as text in HTML, on one line."""
    return html.escape(printable(value))


def document(seen: Seen | str, asked: Asked, refresh: float) -> str:
    """The whole page."""
    if isinstance(seen, str):
        body = f'<p class="banner" role="alert">Cannot look: {e(base.masked(seen))}</p>'
    else:
        body = "\n".join(_sections(seen, asked))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>liveness</title>
<meta http-equiv="refresh" content="{refresh:g}">
<link rel="stylesheet" href="/style.css"></head>
<body><h1>liveness</h1>
{body}
</body></html>
"""


def _sections(seen: Seen, asked: Asked) -> Iterable[str]:
    from liveness.db.report import WINDOW

    yield f"<p>{e(seen.now)}, by the database's clock</p>"
    yield f"<h2>Engines ({len(seen.engines)})</h2>"
    yield _table(
        ("engine", "host", "pid", "state", "lease", "left", "evidence"),
        map(_engine, seen.engines),
        "No engine.",
    )
    yield "<h2>Deadlines by kind and state</h2>"
    kinds = sorted({kind for counts in seen.counts.values() for kind in counts})
    rows = [
        [e(kind), *(str(counts.get(kind, 0)) for counts in seen.counts.values())]
        for kind in kinds
    ]
    yield _table(("kind", *seen.counts), rows, "No deadline.")
    yield "<h2>What was out of turn in the last hour</h2>"
    yield _timeline(seen)
    yield _table(
        ("at", "what", "subject", "by", "detail"),
        map(_event, seen.events[:ROWS]),
        "Nothing.",
    )
    yield "<h2>Parked</h2>"
    yield _table(
        ("kind", "key", "attempts", "reason"),
        (
            [e(row.kind), e(row.key), str(row.attempts), e(row.last_error)]
            for row in seen.parked
        ),
        "Nothing.",
    )
    yield "<h2>Find deadlines</h2>"
    yield _form(asked)
    if asked != Asked():
        names = ("kind", "key", "state", "owner", "due", "late")
        yield _table(names, map(_deadline, seen.found), "None of those looked at.")
        yield f"<p>The first {ROWS} of the oldest {WINDOWS * WINDOW} rows.</p>"


def _table(names: Iterable[str], rows: Iterable[Sequence[str]], nothing: str) -> str:
    lines = [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows]
    if not lines:
        return f"<p>{nothing}</p>"
    head = "".join(f"<th>{name}</th>" for name in names)
    return "<table>\n<tr>" + head + "</tr>\n" + "\n".join(lines) + "\n</table>"


def _engine(shown: ShownEngine) -> list[str]:
    engine, left = shown.engine, shown.lease_left
    bar = said = ""
    if left is not None:
        value = min(max(left, 0.0), engine.ttl)
        bar = (
            f'<meter min="0" max="{engine.ttl:g}" low="{engine.ttl / 2:g}"'
            f' value="{value:.1f}">{left:.1f} s</meter>'
        )
        said = f"{left:.1f} s"
        if left <= 0:
            said = f'<span class="dead">{said}</span>'
    return [
        e(engine.id),
        e(engine.host),
        str(engine.pid),
        e(engine.state),
        bar,
        said,
        e(engine.fence_evidence),
    ]


def _event(event: Event) -> list[str]:
    subject = event.about_id or event.engine_id
    if event.key is not None:
        subject = f"{event.kind}/{event.key}"
    by = event.engine_id or "operator"
    return [e(event.at), e(event.what), e(subject), e(by), e(event.detail)]


def _deadline(row: Listed) -> list[str]:
    owner = row.owner_id or row.owner_state
    late = f"{row.late:.1f} s"
    return [e(row.kind), e(row.key), e(row.state), e(owner), e(row.due_at), late]


def _timeline(seen: Seen) -> str:
    """Events by minute, as bars; the present is on the right."""
    minutes = Counter(
        int((seen.now - event.at).total_seconds() // 60)
        for event in seen.events
        if event.at is not None
    )
    most = max(minutes.values(), default=1)
    bars = "".join(
        f'<rect x="{(59 - minute) * 10}" y="{60 - 60 * count / most:.1f}" width="8"'
        f' height="{60 * count / most:.1f}"><title>{count}, {minute} minutes ago'
        "</title></rect>"
        for minute, count in sorted(minutes.items())
        if 0 <= minute < 60
    )
    return (
        '<svg width="600" height="60" role="img" aria-label="events by minute">'
        f"{bars}</svg>"
    )


def _form(asked: Asked) -> str:
    options = "".join(
        f"<option{' selected' if state == asked.state else ''}>{state}</option>"
        for state in ("", *model.DeadlineState)
    )
    return (
        f'<form method="get" action="/">State <select name="state">{options}</select>'
        f' kind <input name="kind" value="{e(asked.kind)}">'
        f' key begins <input name="prefix" value="{e(asked.prefix)}">'
        " <button>Find</button></form>"
    )


# --- the program --------------------------------------------------------------------


class Web(app.Command):
    """Serve a page that shows engines, deadlines and takeovers, until Ctrl-C

    It changes nothing, needs no right but to read, and never reads payloads. There is
    no authentication: keep it on the loopback address, or behind something that has
    one.
    """

    examples = ("web", "web --listen 127.0.0.1:8080 --refresh 10")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--listen",
            type=_address,
            default=("127.0.0.1", 8465),
            metavar="HOST:PORT",
            help="where (127.0.0.1:8465)",
        )
        parser.add_argument(
            "--refresh",
            type=engines.seconds,
            default=5.0,
            metavar="SECONDS",
            help="after which the page loads itself again (5)",
        )
        return parser

    def take_action(self, args: argparse.Namespace) -> None:
        settings = self.settings(args)
        with self.database(args):  # a mistake is one line, not a page of it
            pass
        server = _Server(args.listen, _Quiet)
        server.set_app(Page(settings, max(args.refresh, 1.0)))
        host, port = args.listen[0], server.server_address[1]
        self.say(f"http://{host}:{port}/")
        self.app.stdout.flush()
        try:
            server.serve_forever()
        finally:
            server.server_close()


def _address(text: str) -> tuple[str, int]:
    try:
        return listening_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's concern."""


class _Quiet(wsgiref.simple_server.WSGIRequestHandler):
    timeout = 10.0

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: what they ask may be anything."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted. Exit code 1 after a mistake, with one line."""
    description = "Serve a page that shows engines, deadlines and takeovers."
    program = app.Single("liveness-web", description, "web", "liveness.cmd.web:Web")
    try:
        code = program.run(sys.argv[1:] if argv is None else argv)
    except SystemExit as stop:  # after --help
        code = stop.code if isinstance(stop.code, int) else 0
    return base.flushed(program.NAME, code)


if __name__ == "__main__":
    sys.exit(main())
