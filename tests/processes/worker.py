"""A plain Python program with an engine in it, driven by commands on its stdin.

    python -m tests.processes.worker '{"options": {...}, ...}'

``options`` are liveness' own; ``again``: after a fence, go on as a new incarnation;
``linger``: after the engine has stopped, stay until stdin ends; ``bare``: end the main
program without stopping the engine, by its ``end`` or by an ``exit`` with code 3.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

import liveness
from liveness import Liveness, Settings
from liveness.exceptions import LivenessError
from tests.processes import kinds
from tests.processes.journal import note
from tests.processes.program import die_with_parent

_finish: dict[str, threading.Event] = {}


def main() -> int:
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    todo = json.loads(sys.argv[1])
    # An ordinary program's way to end at SIGTERM: through its `with` blocks.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    kinds.watch_settlements()
    try:
        if todo.get("bare"):
            _bare(todo)
        else:
            _run(todo)
    except LivenessError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    return 0


def _run(todo: dict[str, Any]) -> None:
    commands: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(commands,), daemon=True).start()
    again = True
    while again:
        try:
            again = _incarnation(todo, commands) and todo.get("again", False)
        finally:
            note("stopped")
            if todo.get("linger"):
                while commands.get() is not None:
                    kinds.released.set()


def _read(commands: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    for line in sys.stdin:
        commands.put(json.loads(line))
    commands.put(None)


def _incarnation(
    todo: dict[str, Any], commands: queue.SimpleQueue[dict[str, Any] | None]
) -> bool:
    """One engine's life. True when it ended because it was fenced."""
    with liveness.start(
        handlers=[kinds.Timer, kinds.Action],
        engine_id=todo.get("engine_id"),
        **todo["options"],
    ) as live:
        live.on_fenced(lambda reason: commands.put({"do": "fenced"}))
        kinds.the_engine_is(live)
        while (command := commands.get()) is not None:
            if command["do"] == "fenced":
                return True
            try:
                COMMANDS[command.pop("do")](live, **command)
            except Exception as error:
                note("failed", error=type(error).__name__, text=str(error))
    return False


def _bare(todo: dict[str, Any]) -> None:
    live = Liveness(Settings.of(**todo["options"]))
    live.add_handler(kinds.Timer)
    live.start()
    kinds.the_engine_is(live)
    _arm(live, "timer", ["hangs"], due_in=0, payload={"hang": True})
    sys.stdin.readline()
    if todo["bare"] == "exit":
        sys.exit(3)


# --- commands -------------------------------------------------------------------


def _arm(live: Liveness, kind: str, keys: list[str], **rest: Any) -> None:
    arms = [liveness.Arm(kind, key, **rest) for key in keys]
    for deadline in live.arm_many(arms):
        note("armed", **kinds.facts(deadline))


def _guard(live: Liveness, key: str, persist: bool = False, **rest: Any) -> None:
    """Work under a guard until told to finish; ``persist``: also after a refusal."""
    _finish[key] = threading.Event()
    thread = threading.Thread(
        target=_work, args=(live, key, persist, rest), name=f"guard-{key}", daemon=True
    )
    thread.start()


def _work(live: Liveness, key: str, persist: bool, rest: dict[str, Any]) -> None:
    try:
        with live.guard("action", key, **rest) as guard:
            note("armed", **kinds.facts(guard.deadline))
            while not _finish[key].wait(kinds.STEP):
                try:
                    kinds.step(guard.check, guard.deadline)
                except LivenessError:
                    if not persist:
                        raise
            note("finishing", key=key)
        note("finished", key=key)
    except LivenessError as error:
        note("unfinished", key=key, error=type(error).__name__)


def _end(live: Liveness, key: str) -> None:
    _finish[key].set()


def _release(live: Liveness) -> None:
    kinds.released.set()


def _exhaust(live: Liveness) -> None:
    """Take every connection that the host program's threads can have."""
    pool = live._running._pool  # type: ignore[union-attr]
    live._held = [  # type: ignore[attr-defined]
        pool.connect() for _ in range(live.settings.connections)
    ]
    note("exhausted")


def _break_sweep(live: Liveness, how: str) -> None:
    """From now on there is a bug in every sweep."""

    def run_pass(connection: sa.Connection) -> Any:
        note("broken", how=how)
        if how == "hang":
            threading.Event().wait()
        raise RuntimeError("on purpose") if how == "raise" else kinds.Bug("on purpose")

    live._running._sweep.run_pass = run_pass  # type: ignore[union-attr, method-assign]


def _stop_at(live: Liveness, statement: str) -> None:
    """Stop this process, once, right after a statement with that text ran."""

    stopped: list[bool] = []

    @sa.event.listens_for(sa.Engine, "after_cursor_execute")
    def executed(conn: Any, cursor: Any, text: str, *rest: Any) -> None:
        if statement in text and not stopped:
            stopped.append(True)
            note("stopping", statement=text)
            os.kill(os.getpid(), signal.SIGSTOP)

    note("listening")


COMMANDS: dict[str, Callable[..., None]] = {
    "arm": _arm,
    "guard": _guard,
    "end": _end,
    "release": _release,
    "exhaust": _exhaust,
    "break_sweep": _break_sweep,
    "stop_at": _stop_at,
}


if __name__ == "__main__":
    sys.exit(main())
