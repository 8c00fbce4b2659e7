"""Log lines: one line of text whatever is in them, and fields for programs."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import re
import signal
from pathlib import Path

import pytest
import sqlalchemy as sa
from oslo_log import formatters

from liveness import Park, log
from liveness.cmd import engine as engine_command
from liveness.db import tables
from liveness.events import What
from liveness.model import Deadline
from tests.clock import SettableClock
from tests.commands import Command
from tests.fleet import Driven, Recorder, wait_until
from tests.test_migrations import run

ROOT = Path(__file__).parent.parent
SECRET = "pa55word"
HOSTILE = "k\n2026-11-25 ERROR forged\x1b[2J"


@pytest.fixture
def written():
    """What oslo.log's formatter for programs makes of each line, as it is written."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatters.JSONFormatter())
    logger = logging.getLogger("liveness")
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_a_line_on_a_deadline_has_its_facts_in_fields_and_no_payload(
    synced, written, caplog
):
    caplog.set_level(logging.INFO, logger="liveness")
    recorder = Recorder("timer")
    recorder.answer = Park("no such region\nat all")
    driven = Driven(synced, SettableClock(), (recorder,), "me")
    driven.live.arm("timer", "k", due_in=0, payload={"db": SECRET})
    with driven.connect() as connection:  # another writer is not that strict
        connection.execute(sa.update(tables.deadline).values(key=HOSTILE))
    driven.turn()
    driven.turn()
    driven.settle()
    driven.abandon()
    (line,) = [line for line in written() if line["extra"].get("event") == "parked"]
    assert line["extra"] == {
        "event": "parked",
        "engine_id": "me",
        "kind": "timer",
        "key": HOSTILE,
        "epoch": 2,
        "attempts": 1,
    }
    said = "timer/k\\n2026-11-25 ERROR forged\\x1b[2J"
    reason = "no such region\\nat all"
    assert line["message"] == f"{said} is parked for the operator: {reason}"
    assert line["message"] in caplog.messages  # people read the same
    assert line["funcname"] == "_write"  # and where it came from
    assert SECRET not in json.dumps(written())


def test_a_line_on_an_engine_names_it_in_a_field(synced, written):
    clock = SettableClock()
    driven = Driven(synced, clock, (Recorder("timer"),), "me")
    with driven.connect() as connection:
        driven.parts.engines.fence(connection, driven.row(), None, "test")
    driven.beat()
    driven.abandon()
    (line,) = [line for line in written() if line["extra"].get("event") == "fenced"]
    assert line["extra"] == {"event": "fenced", "engine_id": "me"}


def test_what_is_not_written_costs_no_text():
    class Loud(Deadline):
        __slots__ = ()

        def __str__(self):
            raise AssertionError("nobody reads this")

    value = Loud(*range(len(Deadline._fields) - 4))
    logger = log.get("liveness.off")
    logger.logger.setLevel(logging.ERROR)
    logger.info("%s", value, event="parked")
    with pytest.raises(AssertionError):
        logger.error("%s", value, event="parked")


def test_whatever_text_comes_from_elsewhere_stays_on_its_line(caplog):
    log.get("liveness.x").warning("%s, %s: %d", ValueError(HOSTILE), HOSTILE, 3)
    (message,) = caplog.messages
    assert message.isprintable()
    assert message.endswith(": 3")


# --- every line -----------------------------------------------------------------------


def lines():
    """Each call that logs more than debugging, in the core: (where, its event)."""
    for path in sorted((ROOT / "liveness").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and ast.unparse(node.func.value) == "LOG"
                and node.func.attr != "debug"
            ):
                named = {k.arg: k.value for k in node.keywords}
                yield f"{path.name}:{node.lineno}", named.get("event")


def test_every_line_says_what_happened_and_the_documentation_lists_it():
    text = (ROOT / "doc/source/logging.rst").read_text()
    listed = set(re.findall(r"^   \* - ``([\w-]+)``$", text, re.M))
    said = set()
    for where, event in lines():
        assert isinstance(event, ast.Constant), f"{where}: event= is missing"
        said.add(event.value)
    assert said == listed
    # A thing that has a word in the history has the same one here.
    assert {"registered", "fenced", "parked", "retried", "stopped"} <= {*What} & said
    for name in log.FIELDS:
        assert f"``{name}``" in text


def test_a_running_engine_writes_json_where_it_is_told_to(synced, tmp_path):
    path = tmp_path / "x.conf"
    path.write_text(f"[DEFAULT]\nuse_json = true\n[liveness]\nconnection = {synced}\n")
    command = Command(engine_command.main, "--config-file", str(path))
    wait_until(lambda: '"event": "registered"' in "".join(command.said()), 60)
    os.kill(command.pid, signal.SIGTERM)
    result = command.result()
    assert result.code == 0, result
    lines = (result.out + result.err).splitlines()
    found = [json.loads(line) for line in lines if line[:1] == "{"]
    ours = {f["extra"].get("event"): f["extra"].get("engine_id") for f in found}
    [[(engine_id,)]] = run(synced, "SELECT id FROM liveness_engine")
    assert ours["registered"] == ours["draining"] == ours["stopped"] == engine_id
