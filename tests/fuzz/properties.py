"""What must be so whatever comes in. Each is called with one input, and fails by an
``AssertionError``; hypothesis and atheris both call them."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg

from liveness import Settings, exceptions
from liveness.cmd import audit, base, manage
from liveness.db import migration, rows, tables
from tests.clock import SettableClock
from tests.fleet import Driven, Recorder

D, E = tables.deadline, tables.engine

REFUSALS = (exceptions.LivenessError, cfg.Error)
CODES = (0, 1, 2)


# --- configuration ----------------------------------------------------------------


def a_file_is_read_or_refused(data: bytes) -> None:
    """Any bytes as a configuration file: settings, or one line that says what is
    wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "liveness.conf")
        path.write_bytes(data)
        try:
            settings = base.read_settings("liveness-manage", None, [str(path)])
        except (*REFUSALS, OSError) as error:
            _is_a_refusal(error)
        else:
            assert isinstance(settings, Settings)
            assert settings.checked() is settings
        _is_one_line(command("config", "check", "--config-file", str(path)))


def an_option_is_taken_or_refused(name: str, value: Any) -> None:
    """Any value of any option."""
    try:
        settings = Settings.of(**{name: value})
    except REFUSALS as error:
        _is_a_refusal(error)
        return
    for number in (settings.ttl, settings.beat_interval, settings.database_timeout):
        assert math.isfinite(number)
        assert number > 0


def _is_a_refusal(error: Exception) -> None:
    text = " ".join(str(error).split())
    assert text
    assert "Traceback" not in text


# --- payloads ---------------------------------------------------------------------


def a_payload_comes_back_or_is_refused(driven: Driven, payload: Any) -> None:
    """Any Python value as a payload."""
    try:
        value = driven.live.arm("timer", "k", due_in=60, payload=payload)
    except exceptions.InvalidDeadline as error:
        assert "\n" not in str(error)
        assert driven.live.find("timer", "k") is None
        return
    try:
        found = driven.live.find("timer", "k")
        assert found is not None
        assert found.problem is None
        assert value.payload == found.payload == json.loads(json.dumps(payload))
    finally:
        driven.live.disarm(value)


def a_text_is_a_payload_or_a_problem(text: str) -> None:
    """Any text in the payload's column."""
    payload, problem = rows.load_payload(text)
    assert (problem is None) or (payload is None and problem.startswith("its payload"))
    if problem is None:
        with contextlib.suppress(ValueError):  # NaN is read, and never written
            again = rows.dump_payload(payload)
            assert again is None or rows.load_payload(again) == (payload, None)


# --- command lines ------------------------------------------------------------------


PROGRAMS = {"liveness-manage": manage.main, "liveness-audit": audit.main}

STAYS = ("top", "web", "--wait", "complete")
"""Words of what does not end by itself, or is not ours."""


def command(*argv: str, program: str = "liveness-manage") -> tuple[int, str, str]:
    """Exit code and output of a command line, in this process."""
    out, err = io.StringIO(), io.StringIO()
    root = logging.getLogger()
    kept, level, stdin = root.handlers[:], root.level, sys.stdin
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with open(os.devnull) as sys.stdin:
                code = PROGRAMS[program](list(argv))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        finally:
            sys.stdin = stdin
            root.handlers[:], root.level = kept, level
    return code, out.getvalue(), err.getvalue()


def a_command_ends_well(program: str, argv: Sequence[str]) -> None:
    """Any words: an exit code that means something, and at most one line of error."""
    if not any(word.startswith(STAYS) for word in argv):
        _is_one_line(command(*argv, program=program), argv)


def _is_one_line(result: tuple[int, str, str], argv: Sequence[str] = ()) -> None:
    code, out, err = result
    assert code in CODES, (argv, result)
    assert "Traceback" not in err + out, (argv, err)
    assert "unexpected" not in err, (argv, err)
    if code and not out:
        assert err.count("\n") == 1, (argv, err)


# --- rows ---------------------------------------------------------------------------


@functools.cache
def _watch() -> list[str]:
    """What this process has executed since: programs, pickles, libraries, modules that
    a payload names."""
    seen: list[str] = []
    bad = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.fork")
    bad += ("pickle.find_class", "ctypes.dlopen", "webbrowser.open", "os.remove")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in bad or (event == "import" and "evil" in str(arguments[0])):
            seen.append(f"{event} {arguments[:1]!r}")

    sys.addaudithook(hook)
    return seen


@contextlib.contextmanager
def nothing_is_executed() -> Iterator[None]:
    """In the block, nothing that a row could have asked for."""
    seen = _watch()
    seen.clear()
    yield
    assert not seen, seen


def an_engine_goes_on(url: str, written: Sequence[tuple[str, dict[str, Any]]]) -> int:
    """Rows of anybody, in tables of those names, among good deadlines: those are
    handled all the same. Return how many rows the database took."""
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        for table in (D, E, tables.event):
            connection.execute(sa.delete(table))
    driven = Driven(url, SettableClock(), (Recorder(),))
    try:
        taken = sum(_write(driven, table, row) for table, row in written)
        driven.live.arm("timer", "good, own", due_in=1)
        _write(driven, "liveness_deadline", ROW | {"key": "good, orphaned"})
        driven.parts._clock.advance(10)
        with nothing_is_executed():
            _live(driven, 5)
        keys = driven.live.handlers.get("timer").keys
        assert {"good, own", "good, orphaned"} <= set(keys), keys
        assert not driven.trust.fenced
        return taken
    finally:
        driven.abandon()


def _live(driven: Driven, turns: int) -> None:
    for _ in range(turns):
        driven.beat()
        driven.turn()
        driven.settle()
        assert not driven.parts.loop._failing
        driven.parts._clock.advance(driven.live.settings.beat_interval)


ROW = {
    "kind": "timer",
    "key": "k",
    "owner_id": None,
    "token": 5,
    "arm_token": 5,
    "epoch": 1,
    "state": "armed",
    "due_at": "2026-01-01 00:00:01.000000",
    "expires_at": "2026-01-01 00:00:01.000000",
    "attempts": 0,
    "max_attempts": 5,
    "payload": None,
    "last_error": None,
    "created_at": "2026-01-01 00:00:00.000000",
    "updated_at": "2026-01-01 00:00:00.000000",
}

ENGINE = {
    "id": "hostile",
    "token": 7,
    "host": "h",
    "pid": 1,
    "process_start": None,
    "boot_id": None,
    "namespaces": None,
    "binary": "b",
    "version": "99",
    "state": "live",
    "started_at": "2026-01-01 00:00:00.000000",
    "beat_seq": 1,
    "beat_at": "2026-01-01 00:00:00.000000",
    "ttl": 30.0,
    "ended_at": None,
    "fenced_by": None,
    "fence_evidence": None,
}

DEFAULTS = {"liveness_deadline": ROW, "liveness_engine": ENGINE}


def _write(driven: Driven, table: str, changes: dict[str, Any]) -> bool:
    """True when the database takes the row. On MariaDB its writer is as careless as
    it can be."""
    row = DEFAULTS[table] | changes
    mysql = driven.parts.database.backend == "mysql"
    names = ", ".join(f"`{name}`" if mysql else f'"{name}"' for name in row)
    values = ", ".join(f":{name}" for name in row)
    insert = sa.text(f"INSERT INTO {table} ({names}) VALUES ({values})")
    engine = sa.create_engine(driven.parts.database.url, poolclass=sa.NullPool)
    try:
        with engine.begin() as connection:
            if mysql:
                connection.exec_driver_sql("SET SESSION sql_mode = ''")
            connection.execute(insert, row)
    except (sa.exc.SQLAlchemyError, ValueError, OverflowError):
        return False
    return True


def fresh(folder: Path) -> str:
    """The URL of an SQLite database with the tables and some rows."""
    url = f"sqlite:///{folder}/fuzz.db"
    migration.sync(url)
    driven = Driven(url, SettableClock(), (Recorder(),))
    for key in ("a", "b"):
        driven.live.arm("timer", key, due_in=60, payload={"password": "x"})
    _write(driven, "liveness_deadline", ROW | {"key": "parked", "state": "parked"})
    driven.abandon()
    return url
