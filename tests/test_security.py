"""SQL has values as parameters only: in the code, and whatever an operator types."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from liveness import Settings
from liveness.clock import Clock
from liveness.cmd import app, deadlines, manage
from liveness.db.events import EventLog, Sought
from liveness.db.report import Report, opened
from liveness.events import Event, What
from tests.fleet import Driven, Recorder
from tests.test_migrations import run, table_names

ROOT = Path(__file__).parent.parent
DIRECT = ("text", "exec_driver_sql", "execute", "bindparams")


def texts():
    """Every text that is sent as SQL as it stands: (where, the argument)."""
    for path in [*(ROOT / "liveness").rglob("*.py"), *(ROOT / "migrations").rglob("*")]:
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in DIRECT
                and node.args
            ):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.args[0]


def test_no_sql_is_put_together_from_values():
    """A constant of the module may be filled in, and nothing that moves."""
    seen = 0
    for where, argument in texts():
        for node in ast.walk(argument):
            seen += isinstance(node, ast.Constant)
            if isinstance(node, ast.FormattedValue):
                name = ast.unparse(node.value)
                assert name.isupper(), f"{where}: {name} in SQL"
            if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mod, ast.Add)):
                halves = (node.left, node.right)
                strings = [h for h in halves if isinstance(h, ast.Constant)]
                assert not any(isinstance(h.value, str) for h in strings), where
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr not in ("format", "join"), where
    assert seen > 10


SQL = "x' OR '1'='1"
HOSTILE = st.one_of(
    st.sampled_from(
        [SQL, '"; DROP TABLE liveness_engine; --', "%", "_", "\\", "a%b_c"]
    ),
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9
    ),
)
KINDS = ("timer", "a%_b", "x' OR '1'='1")
KEYS = ("web-1", "web_1", "100%", SQL, "\\", "ü")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from liveness.db import migration

    url = f"sqlite:///{tmp_path_factory.mktemp('hostile')}/x.db"
    migration.sync(url)
    kinds = tuple(Recorder(f"kind{n}") for n in range(len(KINDS)))
    engine = Driven(url, handlers=kinds, engine_id="me")
    for n, kind in enumerate(KINDS):
        for key in KEYS:
            engine.live.arm(f"kind{n}", key, due_in=600)
        with engine.connect() as connection:
            connection.exec_driver_sql(
                "UPDATE liveness_deadline SET kind = ? WHERE kind = ?",
                (kind, f"kind{n}"),
            )
            events = [Event(What.PARKED, "me", None, kind, key) for key in KEYS]
            EventLog(Clock()).add(connection, events)
    engine.abandon()
    return url


def parsed(words):
    program = app.Manage("", manage.COMMANDS)
    program.options = argparse.Namespace(verbose=1)
    return deadlines.List(program, None).get_parser("x").parse_args(words)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(kind=HOSTILE, prefix=HOSTILE, owner=HOSTILE)
@example(kind=SQL, prefix=SQL, owner="me")
@example(kind="a%_b", prefix="web_", owner="me")
def test_whatever_a_filter_says_is_text_and_chooses_what_it_says(
    world, kind, prefix, owner
):
    every = {(k, key) for k in KINDS for key in KEYS}
    with opened(world, 5.0) as connection:
        report = Report(Clock())

        def found(*words):
            wanted = deadlines.wanted(parsed(words), Settings())
            rows = report.deadlines(connection, wanted)
            return {(row.kind, row.key) for row in rows}

        assert found(f"--kind={kind}") == {e for e in every if e[0] == kind}
        starts = {e for e in every if e[1].startswith(prefix)}
        assert found(f"--prefix={prefix}") == starts
        assert found(f"--owner={owner}") == (every if owner == "me" else set())
        both = report.deadline(connection, kind, prefix)
        assert (both is not None) == ((kind, prefix) in every)
        assert bool(report.engines_like(connection, owner)) == "me".startswith(owner)
        sought = Sought(kind=kind)
        events = EventLog(Clock()).newest_first(connection, sought)
        assert len(list(events)) == len(KEYS) * (kind in KINDS)
    assert len(run(world, "SELECT id FROM liveness_deadline")[0]) == len(every)
    assert {"liveness_engine", "liveness_deadline"} < table_names(world)
