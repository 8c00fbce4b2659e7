"""What a peer's worker notes, and how it is asked: the lines of JSON of
:mod:`bench.worker`. Needs nothing but Python.

The commands of a peer's program, each with the URL of its store:

``prepare``  make the tables
``fill``     hand in COUNT jobs that are due from DUE_IN seconds on, within SPREAD
``work``     run jobs as fast as its documentation says how to
``rest``     a worker at its defaults, to which nobody gives work; HURRY times as often,
             for one whose interval is long
``recover``  a worker with LEASE seconds, or the least that it knows, until the dead are
             found out; by the name NAME; whose jobs do not end if HOLDS is 1
"""

from __future__ import annotations

import asyncio
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

RECOVER = sys.argv[3:6] if sys.argv[1:2] == ["recover"] else ["0", "", "0"]
HURRY = float(sys.argv[3]) if sys.argv[1:2] == ["rest"] else 1.0
LEASE, NAME, HOLDS = float(RECOVER[0]), RECOVER[1], RECOVER[2] == "1"


def called(payload: dict[str, Any]) -> None:
    """A job runs."""
    CALLS.append((payload["key"], payload["due"], time.time()))


def ran(payload: dict[str, Any]) -> None:
    """A job runs, in a thread of its own; it ends unless jobs are held."""
    called(payload)
    if HOLDS:
        threading.Event().wait()


async def ran_async(payload: dict[str, Any]) -> None:
    """The same of a coroutine."""
    called(payload)
    if HOLDS:
        await asyncio.Event().wait()


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
    fill: Callable[[str, list[dict[str, Any]]], None] | None,
    work: Callable[[str], None] | None,
    rest: Callable[[str], None],
    recover: Callable[[str, float], None] | None,
) -> None:
    """The commands; None is one that the peer does not have."""
    command, url, *more = sys.argv[1:]
    if command == "prepare":
        prepare(url)
        say({"done": command})
    elif command == "fill" and fill:
        fill(url, payloads(int(more[0]), float(more[1]), float(more[2])))
        say({"done": command})
    elif command == "work" and work:
        work(url)
    elif command == "rest":
        rest(url)
    elif command == "recover" and recover:
        recover(url, LEASE)
    else:
        sys.exit(f"It does not {command}.")
