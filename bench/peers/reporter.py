"""What a peer's worker notes, and how it is asked: the lines of JSON of
:mod:`bench.worker`. Needs nothing but Python."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

CALLS: list[tuple[str, float, float]] = []


def called(payload: dict[str, Any]) -> None:
    """A job runs. One that should hang does so, the first time."""
    CALLS.append((payload["key"], payload["due"], time.time()))


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def serve() -> None:
    """From now on a thread answers; the process ends with its stdin."""
    started = threading.Thread(target=_answer, daemon=True)
    started.start()
    say({"pid": os.getpid(), "cpu": cpu()})


def _answer() -> None:
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "clear":
            CALLS.clear()
        say({"calls": list(CALLS), "cpu": cpu(), "now": time.time()})
    os.kill(os.getpid(), signal.SIGKILL)


def payloads(count: int, due_in: float, spread: float) -> list[dict[str, Any]]:
    """Jobs due at random times within ``spread`` seconds from ``due_in`` on."""
    now = time.time()
    return [
        {"key": f"job-{number}", "due": now + due_in + random.random() * spread}
        for number in range(count)
    ]


def main(
    prepare: Callable[[str], None],
    fill: Callable[[str, list[dict[str, Any]]], None],
    work: Callable[[str], None],
) -> None:
    """The three commands."""
    command, url, *rest = sys.argv[1:]
    if command == "prepare":
        prepare(url)
    elif command == "fill":
        fill(url, payloads(int(rest[0]), float(rest[1]), float(rest[2])))
    else:
        work(url)
        return
    say({"done": command})
