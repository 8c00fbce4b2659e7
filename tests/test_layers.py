"""Imports go down only; one package knows SQL, one module locks, one reads clocks."""

import ast
import functools
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "liveness"

# From the bottom up; a module may import from the lines above its own.
LAYERS = """
    version exceptions model clock pool pace
    log
    events lateness
    conf identity trust skew agenda
    memory bell
    db db.psycopg_timeout db.psycopg_dates db.pymysql_dates
    db.tables db.connection db.stepping db.prepared
    db.rows db.migration
    db.finding
    db.reading
    db.engines
    db.events db.completion db.arming
    db.deadlines db.report
    db.claims db.heads
    backlog
    handlers
    detector heart runner audit chronicle
    settle owner admission metrics walks duty marks
    firing
    sweep
    loop
    running
    engine
    service reports
    liveness
"""
# On top of all that; each may import what is below, and modules of its own package.
PROGRAMS = ("cmd", "demo", "heat")
# heat-manage has the commands of liveness-manage, and its audit adds to that one.
USES = {"heat.manage": "cmd", "heat.audit": "cmd"}

# Engine makes a service when it is asked for one, and not before.
LAZY = {("engine", "service")}


def modules() -> dict[str, Path]:
    """Every module of the package by its name in it; the package itself is liveness."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found[name or "liveness"] = path
    return found


MODULES = modules()
CORE = sorted(name for name in MODULES if name.split(".")[0] not in PROGRAMS)
RANKS = {
    name: rank for rank, line in enumerate(LAYERS.split("\n")) for name in line.split()
}


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(), str(MODULES[name]))


def without_annotations(node: ast.AST) -> Iterator[ast.AST]:
    """Every node, without what only a type checker looks at."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from without_annotations(child)


def imports(name: str) -> set[str]:
    """The modules of this package that ``name`` imports, wherever in its text."""
    found: set[str] = set()
    for node in without_annotations(tree(name)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {module for full in names if (module := module_of(full))}
    return found


def module_of(full: str) -> str | None:
    """The longest part of a dotted name that is a module of this package."""
    parts = full.split(".")
    if parts[0] != "liveness":
        return None
    for end in range(len(parts), 1, -1):
        name = ".".join(parts[1:end])
        if name in MODULES:
            return name
    return "liveness"


def test_every_module_has_one_layer():
    assert len(LAYERS.split()) == len(RANKS)
    assert set(CORE) == set(RANKS), "LAYERS of this test does not say where they are"


@pytest.mark.parametrize("name", CORE)
def test_imports_go_down_only(name):
    for imported in imports(name):
        if (name, imported) in LAZY:
            continue
        assert RANKS.get(imported, 99) < RANKS[name], f"{name} imports {imported}"


@pytest.mark.parametrize("name", sorted(set(MODULES) - set(CORE)))
def test_programs_import_what_is_below_and_themselves(name):
    program = name.split(".")[0]
    for imported in imports(name) - set(CORE):
        used = imported.split(".")[0]
        assert used in (program, USES.get(name)), f"{name} imports {imported}"


def test_programs_import_in_no_circle():
    order: dict[str, int] = dict.fromkeys(CORE, 0)
    left = set(MODULES) - set(CORE)
    while left:
        ready = {name for name in left if imports(name) - {name} <= order.keys()}
        assert ready, f"a circle among {sorted(left)}"
        order.update(dict.fromkeys(ready, 1))
        left -= ready


def test_a_lazy_import_is_inside_a_function():
    for name, imported in LAZY:
        top = [node for node in tree(name).body if isinstance(node, ast.ImportFrom)]
        assert f"liveness.{imported}" not in {node.module for node in top}
        assert imported in imports(name)


# --- who may do what --------------------------------------------------------


def calls(name: str) -> Iterator[str]:
    """The dotted names of everything that ``name`` calls."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_two_modules_lock_rows():
    users = {
        name for name, path in MODULES.items() if "with_for_update" in path.read_text()
    }
    assert users == {"db.claims", "db.heads"}


def outside_db() -> list[str]:
    return [name for name in CORE if not name.startswith("db")] + sorted(
        name for name in MODULES if name.split(".")[0] in ("cmd", "heat")
    )


STATEMENTS = {"select", "insert", "update", "delete", "text", "union_all", "exists"}


@pytest.mark.parametrize("name", outside_db())
def test_only_the_db_package_writes_statements(name):
    for call in calls(name):
        owner, _, method = call.rpartition(".")
        assert not (owner in ("sa", "sqlalchemy") and method in STATEMENTS), call
        assert method != "exec_driver_sql", call
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.split()
            verb = words[:1] in (["SELECT"], ["UPDATE"], ["INSERT"], ["DELETE"])
            # One word alone is the name of something: Heat's actions have such names.
            assert not (verb and len(words) > 1), node.value


@pytest.mark.parametrize("name", outside_db())
def test_only_the_db_package_touches_the_tables(name):
    """Others may know how long a value may be."""
    for node in ast.walk(tree(name)):
        if not isinstance(node, ast.ImportFrom):
            continue
        names = {alias.name for alias in node.names}
        if node.module == "liveness.db":
            assert "tables" not in names
        if node.module == "liveness.db.tables":
            assert all(taken.endswith("_LENGTH") for taken in names), names


# The demonstration's journal is read by people, and shares no code with the engine.
WALL_CLOCKS = {"clock", "demo.journal"}


@pytest.mark.parametrize("name", sorted(set(MODULES) - WALL_CLOCKS))
def test_only_the_clock_asks_for_the_time_of_day(name):
    asks = {"utcnow", "now", "today", "time", "time_ns", "localtime", "gmtime"}
    for call in calls(name):
        owner, _, method = call.rpartition(".")
        asked = owner.split(".")[-1] in (
            "datetime",
            "date",
            "time",
            "func",
            "timeutils",
        )
        assert not (asked and method in asks), f"{name}: {call}()"


# --- importing it -----------------------------------------------------------

PROBE = """
    import os, sys, threading

    seen = []

    def watch(event, args):
        if event in ("open",):
            path, mode, flags = args
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                seen.append((event, str(path)))
        elif event.split(".")[0] in ("socket", "subprocess", "sqlite3"):
            seen.append((event, repr(args)))
        elif event in ("os.fork", "os.forkpty", "os.posix_spawn", "os.exec"):
            seen.append((event, ""))

    sys.addaudithook(watch)
    before = set(os.listdir("/proc/self/fd"))
    import liveness
    assert set(os.listdir("/proc/self/fd")) == before, "a file stayed open"
    assert seen == [], seen
    assert threading.enumerate() == [threading.main_thread()]
    unwanted = {"heat", "oslo_service", "psycopg", "psycopg2", "pymysql", "sqlite3",
                "cliff", "rich", "eventlet", "prometheus_client",
                "alembic", "sqlalchemy.orm", "sqlalchemy.dialects.postgresql"}
    assert not unwanted & set(sys.modules), unwanted & set(sys.modules)
    assert liveness.Liveness(liveness.Settings())
    assert seen == [] and threading.active_count() == 1
    print("clean")
"""


def test_importing_opens_nothing_and_brings_nothing_along():
    done = subprocess.run(
        [sys.executable, "-B", "-c", textwrap.dedent(PROBE)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "clean", done.stderr


@pytest.mark.parametrize(
    "name", [name for name in CORE if name not in ("liveness", "service")]
)
def test_no_module_of_the_core_needs_an_oslo_service_or_a_driver(name):
    outside = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name)
        for node in without_annotations(tree(name))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    tops = {str(module).split(".")[0] for module in outside}
    driver = name.removeprefix("db.").partition("_")[0]  # of the adapters to one
    allowed = {driver} & {"psycopg", "pymysql"}
    unwanted = {
        "oslo_service",
        "heat",
        "psycopg",
        "pymysql",
        "sqlite3",
        "cliff",
        "rich",
    }
    assert not (tops & unwanted) - allowed
