"""Every example in the help of a command does what it is there to show."""

from __future__ import annotations

import shlex
import shutil
from importlib.metadata import EntryPoint

import pytest

from liveness.cmd import manage
from tests.commands import managed
from tests.fleet import Driven, Recorder
from tests.test_cli_sweep import with_handlers
from tests.test_migrations import run

ENGINE = "0b6f5b0e-0f0c-4d52-8a61-5f6fb6cf4a31"
FILES = ("/etc/liveness/liveness.conf", "/etc/heat/heat.conf")
# Those that go on until they are interrupted.
ENDLESS = {"top", "web"}
# Those whose answer is in their exit code.
JUDGES = {"audit": (0, 1), "engine drain": (0, 1)}


def examples():
    for name, where in manage.COMMANDS.items():
        if name not in ENDLESS:
            for text in EntryPoint(name, where, "").load().examples:
                yield pytest.param(name, text, id=text.replace(ENGINE, "ID"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A database with what the examples are about: a silent engine elsewhere, what it
    had, and what is parked."""
    from liveness.db import migration

    path = tmp_path_factory.mktemp("world") / "liveness.sqlite"
    url = f"sqlite:///{path}"
    migration.sync(url)
    kinds = [Recorder(k) for k in ("stack_timer", "resource_action", "email")]
    engine = Driven(url, handlers=tuple(kinds), engine_id=ENGINE, machine="web-3")
    for kind, key in (
        ("stack_timer", "web-1"),
        ("resource_action", "web-1/server"),
        ("email", "4711"),
    ):
        engine.live.arm(kind, key, due_in=600)
    engine.abandon()
    run(
        url,
        "UPDATE liveness_engine SET beat_at = '2020-01-01 00:00:00.000000', ttl = 1",
    )
    return path


@pytest.mark.parametrize("name, text", list(examples()))
def test_the_example_does_what_it_shows(name, text, world, tmp_path):
    shutil.copy(world, tmp_path)
    url = f"sqlite:///{tmp_path / world.name}"
    if name == "deadline retry":
        run(url, "UPDATE liveness_deadline SET state = 'parked', owner_id = NULL")
    config = tmp_path / "x.conf"
    config.write_text(
        f"[liveness]\nconnection = {url}\nttl = 1\nbeat_interval = 0.2\n"
        "sweep_interval = 0.1\nlease_margin = 0.1\ndatabase_timeout = 0.3\n"
    )
    for path in FILES:
        text = text.replace(path, str(config))
    text = text.replace("sqlite:////var/lib/liveness/liveness.sqlite", url)
    argv = shlex.split(text.replace("--wait 60", "--wait 0"))
    verbs = {"disarm", "park", "retry", "fence", "drain", "sweep", "purge"}
    if set(name.split()) & verbs and "--dry-run" not in argv:
        argv += ["--yes"]
    if "--config-file" not in argv and "--connection" not in argv:
        argv += ["--config-file", str(config)]
    handlers = with_handlers(Recorder("stack_timer"), Recorder("email"))
    result = managed(*argv, patch=handlers)
    assert result.code in JUDGES.get(name, (0,)), result
    assert "Traceback" not in result.err
    if name not in ("audit", "sweep"):  # which warn of whom they fence
        assert result.err.count("\n") == result.code, result
