"""What setup.py promises is there. The wheel itself is built and tried by
tools/check-dist."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import sys
import types
from pathlib import Path

import pytest

import liveness

ROOT = Path(__file__).parent.parent
# Where the name to import is not the name to install.
IMPORTED_AS = {"SQLAlchemy": "sqlalchemy", "PyMySQL": "pymysql"}


def packages_below(include):
    folders = [path.parent for path in (ROOT / "liveness").rglob("__init__.py")]
    return [".".join(folder.relative_to(ROOT).parts) for folder in folders]


@pytest.fixture(scope="module")
def promised():
    """The arguments of setup(), without setuptools, which a test need not have."""
    given = {}
    stub = types.ModuleType("setuptools")
    stub.setup = given.update
    stub.find_packages = packages_below
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "setuptools", stub)
        runpy.run_path(str(ROOT / "setup.py"))
    return given


def test_the_version_is_the_one_that_the_program_says(promised):
    assert promised["version"] == liveness.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", liveness.__version__)


def test_every_folder_with_code_is_a_package_that_is_installed(promised):
    folders = {path.parent for path in (ROOT / "liveness").rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert names <= set(promised["packages"])
    for name in ("liveness.migrations", "liveness.migrations.versions"):
        assert name in promised["packages"]
        assert (ROOT / promised["package_dir"][name] / "__init__.py").exists()


def test_the_package_is_typed_and_says_so(promised):
    assert "py.typed" in promised["package_data"]["liveness"]
    assert (ROOT / "liveness" / "py.typed").exists()


def test_every_command_can_be_called(promised):
    scripts = promised["entry_points"]["console_scripts"]
    assert {script.split()[0] for script in scripts} >= {
        "liveness-manage",
        "liveness-engine",
        "liveness-demo",
    }
    for script in scripts:
        module, _, function = script.partition(" = ")[2].partition(":")
        if module.startswith("liveness.heat.") and not importlib.util.find_spec("heat"):
            continue  # they need the extra
        assert callable(getattr(importlib.import_module(module), function))


def test_the_options_are_offered_to_the_generator(promised):
    offered = {}
    for entry in promised["entry_points"]["oslo.config.opts"]:
        namespace, _, function = entry.partition(" = ")
        module, _, function = function.partition(":")
        ((group, options),) = getattr(importlib.import_module(module), function)()
        assert group == "liveness"
        offered[namespace] = [option.name for option in options]
    assert "ttl" in offered["liveness"]
    assert "enabled" in offered["liveness.heat"]


def names_of(requirements):
    return {re.match(r"[\w.-]+", line)[0] for line in requirements}


def test_every_requirement_has_both_bounds(promised):
    extras = promised["extras_require"]
    assert set(extras) >= {"heat", "postgresql", "metrics"}
    for line in [*promised["install_requires"], *sum(extras.values(), [])]:
        assert ">=" in line, line
        assert re.search(r",\s*<", line), line


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def modules_used():
    paths = [*(ROOT / "liveness").rglob("*.py"), *(ROOT / "migrations").rglob("*.py")]
    heat = ROOT / "liveness" / "heat"
    names = {
        name for path in paths if heat not in path.parents for name in imported(path)
    }
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


def module_of(name):
    return IMPORTED_AS.get(name, name.replace(".", "_").replace("-", "_"))


def test_what_is_imported_is_required_and_what_is_required_is_used(promised):
    required = {module_of(name) for name in names_of(promised["install_requires"])}
    extras = promised["extras_require"]
    optional = {
        module_of(name)
        for extra in ("postgresql", "metrics", "reports")
        for name in names_of(extras[extra])
    }
    used = modules_used() - {"liveness", "migrations"}
    assert used - required - optional == set()
    assert required - used == set()


def test_nothing_of_heat_is_required_to_run(promised):
    assert not [line for line in promised["install_requires"] if "heat" in line]


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "CHANGELOG.md"])
def test_files_that_the_package_points_at_are_there(name):
    assert (ROOT / name).read_text(encoding="utf-8").strip()
    assert name in (ROOT / "MANIFEST.in").read_text()


def test_the_configuration_and_the_migrations_are_in_the_source_package():
    manifest = (ROOT / "MANIFEST.in").read_text().splitlines()
    for folder in ("etc", "migrations", "tests", "doc", "tools"):
        assert f"graft {folder}" in manifest
