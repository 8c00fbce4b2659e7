"""A headless Chromium, and the page served to it by its own server."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver

from liveness import Settings
from liveness.cmd import web
from liveness.cmd.web import program
from tests.commands import Command
from tests.fleet import wait_until

NAMES = {"chromium": ("chromium", "chromium-browser"), "driver": ("chromedriver",)}

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def found(what: str) -> str | None:
    """Where Chromium, or its driver, is."""
    return next(filter(None, map(shutil.which, NAMES[what])), None)


def missing() -> str | None:
    """Why there is no browser to be had, or None."""
    lacking = [name for name in NAMES if found(name) is None]
    return f"Chromium ({' and '.join(lacking)} not found)" if lacking else None


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own, in which no page may run a script."""
    options = webdriver.ChromeOptions()
    options.binary_location = found("chromium") or ""
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    javascript = {"profile.managed_default_content_settings.javascript": 2}
    options.add_experimental_option("prefs", javascript)
    service = webdriver.ChromeService(executable_path=found("driver"))
    driver = webdriver.Chrome(options, service)
    try:
        driver.set_page_load_timeout(30)
        yield driver
    finally:
        driver.quit()


@contextlib.contextmanager
def served(url: str, refresh: float = 1000.0, **options: Any) -> Iterator[str]:
    """The page of that database on a port of this process; gives its address."""
    server = program._Server(("127.0.0.1", 0), program._Quiet)
    server.set_app(web.Page(Settings.of(connection=url, **options), refresh))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def program_of(url: str, *argv: str) -> Iterator[str]:
    """The page as a program; gives its address. Ctrl-C ends it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    listen = ("--listen", f"127.0.0.1:{port}")
    command = Command(web.main, "--connection", url, *listen, *argv)

    def answers() -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/style.css")
            return connection.getresponse().status == 200
        except OSError:
            return False

    wait_until(answers, 60)
    yield f"http://127.0.0.1:{port}"
    os.kill(command.pid, signal.SIGINT)
    assert command.result().code == 130
