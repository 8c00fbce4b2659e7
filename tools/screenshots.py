#!/usr/bin/env python3
"""Take the pictures of the documentation: of the page, and of ``top``.

Runs the demo a few times on one database, so that there is something to see, and looks
while the last one plays: screenshots.py FOLDER
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

BIN = Path(sys.executable).parent
RUNS = 3
TOP = (108, 30)
PAGE = (1100, 1330)
ADDRESS = "127.0.0.1:18465"
CHROMIUM = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="liveness-screenshots-") as name:
        here = Path(name)
        database = here / "liveness.sqlite"
        url = f"sqlite:///{database}"
        for number in range(1, RUNS):
            print(f"demo {number} of {RUNS}")
            subprocess.run(demo(url), check=True, stdout=subprocess.DEVNULL)
        print(f"demo {RUNS} of {RUNS}, looked at")
        before = fenced(database)
        with served(url):
            terminal = Terminal(url)
            wait_for(terminal.frame)
            with started(*demo(url)):
                wait_for(lambda: fenced(database) > before and silent(database))
                draw(terminal.frame(), folder / "top.svg")
                take_page(folder / "page.png", here)
            terminal.close()


def demo(url: str) -> list[str]:
    return [str(BIN / "liveness-demo"), "--database", url, "--keep", "-f", "json"]


def fenced(database: Path) -> int:
    """How many engines were, so far."""
    return number(database, "SELECT count(*) FROM liveness_event WHERE what = 'fenced'")


def silent(database: Path) -> int:
    """How many have not beaten for a while: the one that is frozen."""
    return number(
        database,
        "SELECT count(*) FROM liveness_engine WHERE state = 'live'"
        " AND beat_at < strftime('%Y-%m-%d %H:%M:%f', 'now', '-3 seconds')",
    )


def number(database: Path, statement: str) -> int:
    with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection:
        return int(connection.execute(statement).fetchone()[0])


def wait_for(so: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not so():
        if time.monotonic() > end:
            sys.exit("screenshots: nothing happened that is worth a picture")
        time.sleep(0.2)


@contextlib.contextmanager
def started(*command: str) -> Iterator[None]:
    """The command as a process, until it is over; killed after an error."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        except BaseException:
            process.send_signal(signal.SIGINT)
            raise


@contextlib.contextmanager
def served(url: str) -> Iterator[None]:
    command = [str(BIN / "liveness-web"), "--connection", url, "--listen", ADDRESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)


def take_page(picture: Path, here: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("screenshots: there is no Chromium here")
    subprocess.run(
        [
            chromium,
            *CHROMIUM,
            f"--user-data-dir={here}/profile",
            f"--window-size={PAGE[0]},{PAGE[1]}",
            f"--screenshot={picture}",
            f"http://{ADDRESS}/",
        ],
        check=True,
        stderr=subprocess.DEVNULL,
        timeout=60,
    )
    print(picture)


class Terminal:
    """``top`` on a terminal of its own, which is read all the time."""

    def __init__(self, url: str) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *TOP[::-1], 0, 0))
        top = [str(BIN / "liveness-manage"), "top", "--interval", "0.5"]
        self._ours, self._said = ours, b""
        self._process = subprocess.Popen(
            [*top, "--connection", url],
            stdin=theirs,
            stdout=theirs,
            env={**os.environ, "TERM": "xterm-256color"},
        )
        os.close(theirs)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # it is over
            while said := os.read(self._ours, 1 << 16):
                self._said = (self._said + said)[-1_000_000:]

    def frame(self) -> str:
        """What stands there now; nothing before the first look."""
        frames = self._said.decode(errors="replace").split("\x1b[H")
        whole = [frame for frame in frames[:-1] if "q: quit" in frame]
        return whole[-1] if whole else ""

    def close(self) -> None:
        os.write(self._ours, b"q")
        self._process.wait(30)


def draw(frame: str, picture: Path) -> None:
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=TOP[0], file=nowhere)
        for line in frame.replace("\r", "").split("\n")[: TOP[1]]:
            console.print(Text.from_ansi(line), no_wrap=True, overflow="crop")
        svg = console.export_svg(title="liveness-manage top", unique_id="top")
    # It would load a font from elsewhere.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "DejaVu Sans Mono")
    picture.write_text("\n".join(line.rstrip() for line in svg.split("\n")) + "\n")
    print(picture)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    main(Path(sys.argv[1]))
