"""``liveness-web``: the page as a program of its own."""

from __future__ import annotations

import argparse
import socketserver
import sys
import wsgiref.simple_server
from collections.abc import Sequence
from typing import Any

from liveness.cmd import app, base, engines
from liveness.cmd.web.app import Page
from liveness.conf import listening_address


class Web(app.Command):
    """Serve a page that shows engines, deadlines and takeovers, until Ctrl-C

    It changes nothing, and needs no right but to read. Values in payloads whose names
    sound like secrets are not shown. There is no authentication: keep it on the
    loopback address, or behind something that has one.
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
