"""The README and the documentation say what is so.

A block under ``.. run: NAME -> TEXT | TEXT`` (a comment; ``<!-- run: … -->`` in
Markdown) is executed as it stands, and must print the texts in that order. A program
named ``service…`` runs until its workers are live, and is ended by SIGTERM.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import liveness
from bench.scaling import __main__ as scaling
from liveness import conf, exceptions
from liveness.db import migration
from tests.fleet import wait_until

ROOT = Path(__file__).parents[1]
DOC = ROOT / "doc"
SOURCE = DOC / "source"
README = ROOT / "README.md"
PAGES = sorted(SOURCE.glob("*.rst"))
RECORDS = sorted((DOC / "decisions").glob("*.rst"))
CORRECTNESS = DOC / "correctness.md"
PERFORMANCE, SCALING = DOC / "performance.md", DOC / "scaling.md"
MARKDOWN = [
    README,
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    CORRECTNESS,
    PERFORMANCE,
    SCALING,
]
EVERY = [*MARKDOWN, *PAGES, *RECORDS]

pytestmark = pytest.mark.skipif(
    not SOURCE.is_dir(), reason="the documentation is not here (an installed package)"
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A code block of a page. ``name`` is set when it is to be executed."""

    page: Path
    language: str
    text: str
    name: str | None
    prints: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.stem}-{self.name}-{self.language}"


_IN_RST = re.compile(
    r"(?:^\.\. run: (?P<mark>.+)\n\n)?"
    r"^\.\. code-block:: (?P<language>\w+)\n\n(?P<text>(?:^(?: {3}.*)?\n)+)",
    re.MULTILINE,
)
_IN_MARKDOWN = re.compile(
    r"(?:^<!-- run: (?P<mark>[^\n]+) -->\n)?"
    r"^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks() -> Iterator[Block]:
    for page in EVERY:
        pattern = _IN_RST if page.suffix == ".rst" else _IN_MARKDOWN
        for found in pattern.finditer(page.read_text() + "\n"):
            name, _, prints = (found["mark"] or "").partition("->")
            texts = [text.strip() for text in prints.split("|")]
            yield Block(
                page,
                found["language"],
                textwrap.dedent(found["text"]),
                name.strip() or None,
                tuple(text for text in texts if text),
            )


BLOCKS = list(blocks())
PROGRAMS = [b for b in BLOCKS if b.name and b.language == "python"]
SERVICES = [b for b in PROGRAMS if b.name.startswith("service")]
SCRIPTS = [b for b in PROGRAMS if b not in SERVICES and b.name != "build"]
COMMANDS = sorted(
    {
        line.strip().removeprefix("$ ")
        for page in EVERY
        for line in page.read_text().splitlines()
        if line.strip().startswith("$ liveness-manage ")
    }
)
Ran = Callable[[str], Path]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the tables, to be copied."""
    path = tmp_path_factory.mktemp("template") / "liveness.sqlite"
    migration.sync(f"sqlite:///{path}")
    return path


def _folder(parent: Path, name: str, template: Path) -> Path:
    """A current folder in which the database of the default connection is ready."""
    folder = parent / name
    folder.mkdir()
    shutil.copy(template, folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, template: Path) -> Path:
    return _folder(tmp_path, "here", template)


def _environment() -> dict[str, str]:
    mine = {k: v for k, v in os.environ.items() if not k.startswith("OS_")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**mine, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def _started(block: Block, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The block as a process, which is over when the context ends."""
    script = folder / f"{block.name}.py"
    script.write_text(block.text)
    with subprocess.Popen(
        [sys.executable, script],
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


# Programs that end by themselves run all at once, forked from one process that has
# imported everything: most of the time of a program of ten lines is its imports.
FORKER = """
import json, os, runpy, sys, traceback
import liveness, liveness.cmd.app, liveness.cmd.manage, liveness.db.migration

def run(folder, argv):
    os.chdir(folder)
    for fd, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY), fd)
    sys.argv = argv
    try:
        if argv[0].endswith(".py"):
            runpy.run_path(argv[0], run_name="__main__")
            return 0
        return liveness.cmd.manage.main(argv[1:])
    except BaseException:
        traceback.print_exc()
        return 1

children = {}
for job in json.load(sys.stdin):
    pid = os.fork()
    if pid == 0:
        code = run(**job)
        sys.stdout.flush()
        os._exit(code)
    children[pid] = job["folder"]
for _ in range(len(children)):
    pid, status = os.wait()
    with open(os.path.join(children[pid], "code"), "w") as file:
        file.write(str(os.waitstatus_to_exitcode(status)))
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Ran:
    """Everything has run; gives the folder of one, with the files out, err, code."""
    parent = tmp_path_factory.mktemp("ran")
    jobs, folders = [], {}
    for number, what in enumerate([*SCRIPTS, *COMMANDS]):
        folder = folders[str(what)] = _folder(parent, str(number), template)
        if isinstance(what, Block):
            argv = [f"{what.name}.py"]
            (folder / argv[0]).write_text(what.text)
        else:
            what = what.replace("/etc/heat/heat.conf", "/etc/liveness/liveness.conf")
            argv = shlex.split(what.replace("/etc/liveness/", f"{folder}/"))
            (folder / "liveness.conf").write_text(
                f"[liveness]\nconnection = sqlite:///{folder}/liveness.sqlite\n"
            )
        jobs.append({"folder": str(folder), "argv": argv})
    with subprocess.Popen(
        [sys.executable, "-c", FORKER],
        env=_environment(),
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(json.dumps(jobs), timeout=90)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # one that hangs, if any
    return lambda what: folders[what]


def _engines(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "liveness.sqlite", timeout=10) as connection:
        return [
            row[0] for row in connection.execute("SELECT state FROM liveness_engine")
        ]


# --- code -----------------------------------------------------------------------------


def _result(folder: Path) -> tuple[str, str, str]:
    code = folder / "code"
    return (
        code.read_text() if code.exists() else "it did not end",
        (folder / "out").read_text(),
        (folder / "err").read_text(),
    )


@pytest.mark.parametrize("block", SCRIPTS, ids=str)
def test_the_example_runs_as_it_stands(block: Block, ran: Ran) -> None:
    code, out, err = _result(ran(str(block)))
    assert code == "0", err
    at = 0
    for text in block.prints:
        assert text in out[at:], f"{text!r} is not in {out[at:]!r}\n{err}"
        at = out.index(text, at) + len(text)


@pytest.mark.parametrize("block", SERVICES, ids=str)
def test_the_service_runs_until_sigterm_and_hands_everything_back(
    block: Block, folder: Path
) -> None:
    with _started(block, folder) as process:
        try:
            wait_until(lambda: _engines(folder) == ["live", "live"], 60)
        finally:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert _engines(folder) == ["stopped", "stopped"]


def test_the_survivor_of_the_readme_finishes_what_the_killed_one_began(
    folder: Path,
) -> None:
    (block,) = [b for b in PROGRAMS if b.name == "build" and b.page == README]
    with _started(block, folder) as killed, _started(block, folder) as survivor:
        assert killed.stdout and survivor.stdout
        assert killed.stdout.readline() == f"{killed.pid} builds: kill -9 it\n"
        assert survivor.stdout.readline() == f"{survivor.pid} builds: kill -9 it\n"
        killed.kill()
        said = survivor.stdout.readline()
    assert said == f"{survivor.pid} finishes image-{killed.pid} {{'tag': 'v1'}}\n"


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language == "python"], ids=str
)
def test_python_is_python(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_works_as_written(command: str, ran: Ran) -> None:
    code, _, err = _result(ran(command))
    assert (code, err) == ("0", "")


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in EVERY:
        for target in re.findall(r"(?:`|\$ )make ([\w-]+)", page.read_text()):
            assert target in targets, f"{page.name}: make {target}"


def test_the_commands_of_the_simulation_work_as_written() -> None:
    found = re.findall(
        r"^python -m bench\.scaling( [^#\n]*)", SCALING.read_text(), re.M
    )
    assert found
    for arguments in found:
        scaling.parser().parse_args(shlex.split(arguments))


def test_what_the_page_on_scaling_says_to_configure_can_be_configured() -> None:
    text = SCALING.read_text()
    known = {opt.dest for opt in conf.OPTIONS} | {"max_connections"}  # the server's
    assert set(re.findall(r"`(\w+_\w+)\b[^`]*`", text)) <= known
    line = re.search(r"^- \*\*Longer intervals\*\*.*?\.\s", text, re.M | re.DOTALL)
    assert line
    given = re.findall(r"`(\w+) = (\d+)`", line[0])
    assert len(given) == 3
    conf.Settings.of(**{name: float(value) for name, value in given})
    head, _, *rows = text.rpartition("| engines in one database")[2].splitlines()
    names = re.findall(r"`(\w+)`", head)[1:]
    assert len(rows) > 3
    for row in rows:
        values = row.split("|")[3:-1]
        conf.Settings.of(**dict(zip(names, map(float, values), strict=True)))


# --- links ----------------------------------------------------------------------------


def _anchor(heading: str) -> str:
    """As the usual viewers of Markdown make it of a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
            assert anchor in map(_anchor, headings), target


@pytest.mark.parametrize("page", [*PAGES, *RECORDS], ids=lambda page: page.name)
def test_every_reference_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    everything = "".join(other.read_text() for other in [*PAGES, *RECORDS])
    terms = set(
        re.findall(r"^   (\w[\w ()]*)$", (SOURCE / "glossary.rst").read_text(), re.M)
    )
    for role, target in re.findall(r":(doc|ref|term):`(?:[^`<]+<)?([^`>]+)>?`", text):
        if role == "doc":
            assert (SOURCE / f"{target}.rst").exists(), target
        elif role == "ref":
            assert f".. _{target}:" in everything, target
        else:
            assert target in terms, target
    for name in re.findall(r"^\.\. (?:image|include):: (\S+)$", text, re.M):
        assert (page.parent / name).exists(), name


def test_every_page_is_in_the_table_of_contents() -> None:
    index = (SOURCE / "index.rst").read_text()
    for page in PAGES:
        assert page.stem == "index" or f"\n   {page.stem}\n" in index, page.name


def test_every_record_is_on_the_page_of_decisions() -> None:
    page = (SOURCE / "decisions.rst").read_text()
    for number, record in enumerate(RECORDS, 1):
        assert record.name.startswith(f"{number:04}-"), record.name
        assert f".. include:: ../decisions/{record.name}\n" in page


def test_every_test_that_is_named_exists() -> None:
    tests = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    for page in [*PAGES, *RECORDS, CORRECTNESS]:
        for name in re.findall(r"`(test_\w+)`", page.read_text()):
            assert f"def {name}(" in tests, f"{page.name}: {name}"


def test_every_mutant_and_every_rule_of_a_promise_exists_and_none_is_left_out() -> None:
    text = CORRECTNESS.read_text()
    promises = text[: text.index("## What each kind of evidence is")]
    model = (ROOT / "model" / "run.py").read_text()
    caught = re.findall(r"planted\(\s*\"mutant\",(.*?)\n    \)", model, re.DOTALL)
    planted = set(re.findall(r"M_\w+", " ".join(caught)))
    assert set(re.findall(r"`(M_\w+)`", promises)) == planted
    rules = "".join(f.read_text() for f in (ROOT / "tests/chaos").glob("rules_*.py"))
    known = set(re.findall(r"^def (\w+)\(.*Iterator\[Violation\]", rules, re.MULTILINE))
    rows = re.findall(r"^\| chaos rules \| (.+) \|$", promises, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == known


def test_the_sets_that_go_together_work_and_add_up() -> None:
    text = (SOURCE / "timing.rst").read_text()
    table = text[text.index("Sets that go together") :].split("* - ")[2:]
    names = (
        "ttl",
        "beat_interval",
        "sweep_interval",
        "lease_margin",
        "database_timeout",
    )
    assert len(table) == 3
    for row in table:
        cells = re.findall(r"^     - (.+)$", row, re.M)
        set_ = liveness.Settings.of(**dict(zip(names, map(float, cells), strict=False)))
        wait = set_.ttl * (1 + set_.clock_drift) + set_.lease_margin
        first, last = wait - set_.beat_interval, wait + 1.1 * set_.sweep_interval
        assert cells[len(names)] == f"{first:.1f} to {last:.1f} s"


# --- nothing is left out --------------------------------------------------------------


def _all_pages() -> str:
    return "\n".join(page.read_text() for page in PAGES)


def test_every_option_is_explained() -> None:
    text = _all_pages()
    assert ".. show-options:: liveness" in text  # each option's own help, from the code
    for option in conf.OPTIONS:
        assert f"``{option.name}``" in text, option.name


def test_every_error_is_explained() -> None:
    text = (SOURCE / "troubleshooting.rst").read_text()
    for name, value in vars(exceptions).items():
        if isinstance(value, type) and value.__module__ == exceptions.__name__:
            assert f"``{name}``" in text, name


def _log_lines() -> Iterator[tuple[str, str]]:
    """The texts of warnings and errors in the code, without what is filled in."""
    for file in sorted((ROOT / "liveness").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "LOG"
                and node.func.attr in ("warning", "error", "exception")
                and isinstance(node.args[0], ast.Constant)
            ):
                yield f"{file.name}:{node.lineno}", node.args[0].value


def test_every_warning_and_error_in_the_log_is_explained() -> None:
    pages = [SOURCE / "troubleshooting.rst", SOURCE / "heat.rst"]
    text = " ".join(" ".join(page.read_text() for page in pages).split())
    for where, line in _log_lines():
        parts = re.split(r"%[-+.\d]*[a-z]", line)
        longest = max((part.strip(" .,:;()") for part in parts), key=len)
        assert longest in text, f"{where}: {line!r}"


# --- and nothing that does not belong -------------------------------------------------

FORBIDDEN = {
    "a path of somebody's machine": re.compile(r"/(work|home|root|Users|tmp/venv)/"),
    "an issue's number": re.compile(r"\bissues? #?\d|(?<!\w)#\d+\b"),
    "a trailing blank": re.compile(r"[ \t]$", re.M),
    "praise": re.compile(r"(?i)\b(blazing|seamless|robust|powerful|state.of.the.art)"),
    "a note to oneself": re.compile(r"\b(TODO|FIXME|XXX)\b"),
}


@pytest.mark.parametrize("page", EVERY, ids=lambda page: page.name)
def test_no_page_has_what_does_not_belong(page: Path) -> None:
    text = page.read_text()
    for what, pattern in FORBIDDEN.items():
        found = pattern.search(text)
        assert found is None, f"{what}: {found and found.group()!r}"
