"""The command lines, as processes: what they print, where, and their exit codes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from oslo_config import cfg

from liveness import Settings
from liveness.cmd import app, embed, engine, manage
from liveness.db import migration
from tests.commands import Command, Result, engined, managed, one_line
from tests.fleet import wait_until
from tests.test_migrations import pretend, run, table_names

ROOT = Path(__file__).parent.parent


@pytest.fixture
def config(sqlite_url, tmp_path):
    path = tmp_path / "liveness.conf"
    path.write_text(f"[liveness]\nconnection = {sqlite_url}\n")
    return str(path)


# --- liveness-manage: help and mistakes -------------------------------------------


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["help"]])
def test_the_help_lists_every_command_with_what_it_does(argv):
    result = managed(*argv)
    assert (result.code, result.err) == (0, "")
    for name in manage.COMMANDS:
        assert f"\n  {name} " in result.out
    assert "Make the tables, or bring them up" in result.out


def test_without_a_command_the_help_is_shown_and_nothing_was_done():
    result = managed()
    assert (result.code, result.err) == (1, "")
    assert "usage: liveness-manage" in result.out


@pytest.mark.parametrize("name", manage.COMMANDS)
def test_every_command_has_help_with_examples_that_can_be_parsed(name):
    words = name.split()
    result = managed(*words, "--help")
    assert (result.code, result.err) == (0, "")
    assert "--connection URL" in result.out
    assert "--config-file FILE" in result.out
    assert (
        "Exit code 0: " in " ".join(result.out.split()) or "Exit code 0 " in result.out
    )
    examples = result.out.partition("\nexamples:\n")[2].splitlines()
    assert examples
    program = app.Manage("", manage.COMMANDS)
    for example in examples:
        prog, *argv = example.partition(" | ")[0].split()
        assert prog == "liveness-manage"
        factory, found, rest = program.command_manager.find_command(argv)
        assert found == name
        program.options = None
        factory(program, None).get_parser(name).parse_args(rest)
    assert managed("help", *words).out == result.out
    assert managed("--help", *words, "--connection", "x").out == result.out


@pytest.mark.parametrize("main", [manage.main, engine.main])
def test_the_version_is_that_of_the_package(main):
    from liveness import __version__

    result = Command(main, "--version").result()
    prog = {manage.main: "liveness-manage", engine.main: "liveness-engine"}[main]
    assert result == Result(0, f"{prog} {__version__}\n", "")


SECRET = "hunter2-" + "s3cr3t"
SECRET_URL = f"mysql+pymysql://user:{SECRET}@127.0.0.1/x"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nonsense"], ["'nonsense'", "db sync", "db check"]),
        (["nonsense", "--help"], ["'nonsense'"]),
        ([""], ["''", "db sync"]),
        (["", "--connection", "x"], ["''"]),
        (["db"], ["'db'", "db sync, db version"]),
        (["db", "nonsense"], ["'db nonsense'", "db sync"]),
        (["--nonsense"], ["--nonsense"]),
        (["db", "sync", "--nonsense"], ["--nonsense", "db sync --help"]),
        (["db", "sync", "more"], ["more", "db sync --help"]),
        (["db", "sync", SECRET_URL], ["user:***@127.0.0.1/x"]),
        ([SECRET_URL], ["user:***@127.0.0.1/x"]),
        (["db", "sync", "--connection"], ["--connection", "expected one argument"]),
        (["db", "version", "-f", "xml"], ["xml", "table", "json", "csv", "value"]),
        (["db", "sync", "--config-file", "/nowhere/x.conf"], ["/nowhere/x.conf"]),
        (["db", "sync", "--config-dir", "/nowhere"], ["/nowhere"]),
        (["help", "nonsense"], ["'nonsense'", "db sync"]),
        (
            ["db", "sync", "--connection", "oracle://u:p@h/x"],
            ["oracle", "mysql+pymysql"],
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_that_says_which(argv, words):
    text = one_line(managed(*argv))
    assert text.startswith("liveness-manage: ")
    for word in words:
        assert word in text
    assert SECRET not in text


@pytest.mark.parametrize("form", ["--config-file={}", "--config-file {}"])
def test_a_file_that_is_no_text_is_named(form, tmp_path):
    path = tmp_path / "x.conf"
    path.write_bytes(b"[liveness]\nttl = 9\xff\n")
    for words in (["config", "check"], ["db", "version"]):
        text = one_line(managed(*words, *form.format(path).split()))
        assert f"{path}: not UTF-8 text (byte 0xff)" in text
    assert str(path) in one_line(engined(*form.format(path).split()))


@pytest.mark.parametrize("argv", [["--nonsense"], ["--connection", "nonsense"], ["-f"]])
def test_a_mistake_of_the_user_is_no_difference_of_the_schema(argv):
    one_line(managed("db", "check", *argv), code=2)


def test_an_unknown_column_is_named_with_those_there_are(synced):
    text = one_line(managed("db", "version", "--connection", synced, "-c", "colour"))
    assert "colour" in text
    assert "schema" in text


@pytest.mark.parametrize("command", [["db", "sync"], ["db", "version"]])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[liveness]\nttl = 5\n", ["ttl", "5 s", "beat_interval"]),
        ("[liveness]\nttl = ten\n", ["ttl", "ten"]),
        (f"[liveness]\nconnection {SECRET}\n", ["test.conf:2", "'='"]),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_says_where(
    tmp_path, command, text, words
):
    path = tmp_path / "test.conf"
    path.write_text(text)
    said = one_line(managed(*command, "--config-file", str(path), cwd=tmp_path))
    for word in words:
        assert word in said
    assert SECRET not in said
    assert list(tmp_path.iterdir()) == [path]


def broken(*args, **kwargs):
    raise RuntimeError(f"a bug with {SECRET_URL}\nin two lines")


def break_migration():
    migration.version = broken


def test_a_bug_is_one_line_too_and_says_how_to_see_where(synced):
    argv = ["db", "version", "--connection", synced]
    text = one_line(managed(*argv, patch=break_migration))
    assert "RuntimeError" in text
    assert "--debug" in text
    assert SECRET not in text


def test_debug_shows_where_an_error_came_from_and_no_password(synced):
    argv = ["--debug", "db", "version", "--connection", synced]
    result = managed(*argv, patch=break_migration)
    assert result.code == 1
    assert "Traceback" in result.err
    assert "in broken" in result.err
    assert SECRET not in result.err


# --- liveness-manage: db ----------------------------------------------------------


def test_sync_says_what_it_did(database_url):
    argv = ["db", "sync", "--connection", database_url]
    first, second = managed(*argv), managed(*argv)
    assert (first.code, first.err) == (second.code, second.err) == (0, "")
    assert f" was brought from nothing to {migration.needed()}.\n" in first.out
    assert "there was nothing to do" in second.out
    assert "not-a-secret" not in first.out + second.out
    assert migration.differences(database_url) == []


def test_a_quiet_sync_says_nothing(sqlite_url):
    assert managed("db", "sync", "-q", "--connection", sqlite_url) == Result(0, "", "")
    assert migration.version(sqlite_url) == migration.needed()


def test_a_verbose_sync_tells_of_each_step_on_stderr(sqlite_url):
    result = managed("-v", "db", "sync", "--connection", sqlite_url)
    assert "Running upgrade" in result.err
    assert "Running" not in result.out


def test_version_shows_the_schema_in_every_format(synced):
    needed = migration.needed()
    argv = ["db", "version", "--connection", synced]
    shown = {
        form: managed(*argv, "-f", form).out
        for form in ("table", "json", "csv", "value")
    }
    facts = json.loads(shown["json"])
    assert facts == {
        "database": synced.replace("sqlite:", "sqlite+pysqlite:"),
        "schema": needed,
        "needed": needed,
        "state": "current",
    }
    assert shown["csv"].splitlines() == [
        ",".join(f'"{name}"' for name in facts),
        ",".join(f'"{value}"' for value in facts.values()),
    ]
    assert shown["value"].splitlines() == list(facts.values())
    assert f"| schema   | {needed} " in shown["table"]
    assert managed(*argv).out == shown["table"]
    assert managed(*argv, "-f", "value", "-c", "schema").out == f"{needed}\n"


@pytest.mark.parametrize(
    ("revision", "state", "check"),
    [
        ("", "missing", 1),
        ("0.9", "too old", 1),
        ("1.0", "too old", 1),
        ("1.1", "current", 0),
        ("1.7", "newer, and usable", 0),
        ("2.0", "too new", 1),
        ("banana", "too new", 1),
    ],
)
def test_version_and_check_judge_the_schema(sqlite_url, revision, state, check):
    if revision:
        migration.sync(sqlite_url)
        pretend(sqlite_url, revision)
    url = ["--connection", sqlite_url]
    result = managed("db", "version", *url, "-f", "json")
    assert result.code == 0
    facts = json.loads(result.out)
    assert (facts["schema"], facts["state"]) == (revision, state)
    checked = managed("db", "check", *url, "-f", "json")
    assert (checked.code, checked.err) == (check, "")
    assert len(json.loads(checked.out)) == check
    assert revision in checked.out or not check


def test_check_of_a_good_schema_says_so(schema_url):
    argv = ["db", "check", "--connection", schema_url]
    result = managed(*argv)
    assert (result.code, result.err) == (0, "")
    assert "is what this release needs" in result.out
    assert managed(*argv, "-f", "json").out == "[]\n"
    assert managed(*argv, "-f", "value") == Result(0, "", "")
    assert managed(*argv, "-q") == Result(0, "", "")
    assert "not-a-secret" not in result.out


def test_check_lists_what_differs(schema_url, owned_url, backend):
    on = " ON liveness_engine" if backend == "mariadb" else ""
    run(owned_url, f"DROP INDEX ix_liveness_engine_ended{on}")
    result = managed("db", "check", "--connection", schema_url)
    assert (result.code, result.err) == (1, "")
    assert "| difference " in result.out
    assert "ix_liveness_engine_ended" in result.out
    result = managed("db", "check", "--connection", schema_url, "-f", "json")
    assert result.code == 1
    (row,) = json.loads(result.out)
    assert "ix_liveness_engine_ended" in row["difference"]


@pytest.mark.parametrize("command", ["version", "check"])
def test_looking_makes_no_tables(database_url, command):
    managed("db", command, "--connection", database_url)
    assert table_names(database_url) == set()


# --- where the options come from ----------------------------------------------------


def database_of(*argv, **how):
    result = managed("db", "version", "-f", "value", "-c", "database", *argv, **how)
    assert (result.code, result.err) == (0, "")
    return result.out.strip().partition(":///")[2]


def conf_file(tmp_path, name, text):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def test_the_database_is_that_of_the_file(tmp_path):
    one = conf_file(tmp_path, "1.conf", "[liveness]\nconnection = sqlite:///one\n")
    two = conf_file(tmp_path, "2.conf", "[liveness]\nconnection = sqlite:///two\n")
    at = ["--config-file", one]
    assert database_of(*at, cwd=tmp_path) == "one"
    assert database_of(*at, "--config-file", two, cwd=tmp_path) == "two"
    assert database_of(*at, "--connection", "sqlite:///3", cwd=tmp_path) == "3"
    more = conf_file(tmp_path, "d/4.conf", "[liveness]\nconnection = sqlite:///four\n")
    folder = os.path.dirname(more)
    assert database_of(*at, "--config-dir", folder, cwd=tmp_path) == "four"


def test_the_database_may_come_from_the_environment(tmp_path):
    """So that a password need be neither in a file nor in the process list."""
    env = {"OS_LIVENESS__CONNECTION": "sqlite:///from-env"}
    assert database_of(env=env, cwd=tmp_path) == "from-env"


def test_a_host_programs_file_leads_to_the_host_programs_database(tmp_path):
    """And not to a new SQLite file where nobody looks."""
    path = conf_file(tmp_path, "heat.conf", "[database]\nconnection = sqlite:///host\n")
    assert database_of("--config-file", path, cwd=tmp_path) == "host"


# --- as a program among others ------------------------------------------------------


def test_a_reader_that_has_had_enough_is_no_error(synced):
    reads, writes = os.pipe()
    os.close(reads)
    argv = ["db", "version", "--connection", synced]
    assert managed(*argv, stdout=writes) == Result(141, "", "")
    os.close(writes)


def test_an_answer_that_cannot_be_written_is_an_error(synced):
    with open("/dev/full", "wb") as full:
        argv = ["db", "version", "--connection", synced]
        result = managed(*argv, stdout=full.fileno())
    assert "No space left" in one_line(result)


def test_an_interrupt_ends_it_without_a_traceback(hung_port):
    port, accepted = hung_port
    url = f"postgresql+psycopg://user:{SECRET}@127.0.0.1:{port}/x"
    command = Command(manage.main, "db", "version", "--connection", url)
    accepted()
    os.kill(command.pid, signal.SIGINT)
    assert command.result() == Result(130, "", "")


@pytest.fixture
def hung_port():
    """A port that accepts and never answers; and a call that waits for a caller."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        held = []
        yield server.getsockname()[1], lambda: held.append(server.accept())
        for connection, _ in held:
            connection.close()


def test_help_needs_neither_service_nor_database_driver():
    code = (
        "import sys; from liveness.cmd.manage import main; main(['--help']);"
        "wrong = {'oslo_service', 'cotyledon', 'psycopg', 'cmd2'} & set(sys.modules);"
        "sys.exit(str(wrong) if wrong else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")


# --- in another program's argparse --------------------------------------------------


def test_the_commands_can_be_embedded_in_a_host_programs_parser(synced, capsys):
    parser = argparse.ArgumentParser(prog="heat-manage liveness")
    settings = Settings.of(connection=synced)
    embed.embed(parser, manage.COMMANDS, lambda: settings)
    args = parser.parse_args(["db", "version", "-f", "value", "-c", "state"])
    assert args.run(args) == 0
    assert capsys.readouterr().out == "current\n"
    run(synced, "DROP INDEX ix_liveness_engine_ended")
    args = parser.parse_args(["db", "check"])
    assert args.run(args) == 1
    assert "ix_liveness_engine_ended" in capsys.readouterr().out
    # Which database it is, is the host's business.
    with pytest.raises(SystemExit):
        parser.parse_args(["db", "sync", "--connection", "sqlite:///other"])
    with pytest.raises(SystemExit):
        parser.parse_args(["db", "sync", "--help"])
    shown = capsys.readouterr().out
    assert "usage: heat-manage liveness db sync" in shown
    assert "  heat-manage liveness db sync" in shown


def test_an_error_of_an_embedded_command_is_one_line_and_its_exit_code(capsys):
    parser = argparse.ArgumentParser(prog="heat-manage liveness")
    settings = Settings.of(connection="sqlite:////nowhere/x")
    embed.embed(parser, manage.COMMANDS, lambda: settings)
    for words, code in ((["db", "check"], 2), (["db", "sync"], 1)):
        args = parser.parse_args(words)
        assert args.run(args) == code
        text = capsys.readouterr().err
        assert text.startswith("heat-manage liveness: The database ")
        assert text.count("\n") == 1


def test_the_commands_can_be_embedded_in_an_oslo_config_subcommand(synced, capsys):
    settings = Settings.of(connection=synced)

    def handler(subparsers):
        subparsers.add_parser("db_version")
        parser = subparsers.add_parser("liveness")
        embed.embed(parser, manage.COMMANDS, lambda: settings)

    conf = cfg.ConfigOpts()
    conf.register_cli_opt(cfg.SubCommandOpt("command", handler=handler))
    argv = ["liveness", "db", "version", "-f", "value", "-c", "state"]
    conf(argv, prog="heat-manage", default_config_files=[], default_config_dirs=[])
    assert conf.command.name == "liveness"
    assert conf.command.run(conf.command) == 0
    assert capsys.readouterr().out == "current\n"


# --- liveness-engine ----------------------------------------------------------------


def test_the_engines_help_says_how_to_run_it():
    result = engined("--help")
    assert (result.code, result.err) == (0, "")
    for word in ("usage: liveness-engine", "--config-file", "--workers", "SIGTERM"):
        assert word in result.out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--nonsense"], ["--nonsense", "--help"]),
        (["more"], ["more"]),
        ([SECRET_URL], ["***"]),
        (["--workers", "0"], ["--workers", "0", "min=1"]),
        (["--workers", "ten"], ["--workers", "ten"]),
        (["--config-file", "/nowhere/x.conf"], ["/nowhere/x.conf"]),
        (["--log-file", "/nowhere/x.log"], ["/nowhere/x.log"]),
        (["--log-config-append", "/nowhere/x"], ["/nowhere/x"]),
    ],
)
def test_a_mistake_on_the_engines_command_line_is_one_line(
    argv, words, tmp_path, config
):
    argv = argv if "--config-file" in argv else ["--config-file", config, *argv]
    text = one_line(engined(*argv, cwd=tmp_path))
    assert text.startswith("liveness-engine: ")
    for word in words:
        assert word in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[liveness]\nttl = 5\n", ["ttl", "5 s", "beat_interval"]),
        ("[liveness]\nttl = ten\n", ["ttl", "ten"]),
        (
            "[DEFAULT]\ngraceful_shutdown_timeout = soon\n",
            ["graceful_shutdown_timeout"],
        ),
        (f"[liveness]\nconnection {SECRET}\n", ["engine.conf:2", "'='"]),
        (f"[liveness]\nconnection = nonsense {SECRET}\n", ["connection"]),
    ],
)
def test_a_mistake_in_the_engines_file_is_one_line(tmp_path, text, words):
    path = conf_file(tmp_path, "engine.conf", text)
    said = one_line(engined("--config-file", path, cwd=tmp_path))
    for word in words:
        assert word in said
    assert SECRET not in said


@pytest.mark.parametrize(
    ("revision", "words"),
    [
        ("", ["no liveness tables", "run 'liveness-manage db sync'"]),
        ("0.9", ["0.9", "run 'liveness-manage db sync'"]),
        ("2.0", ["2.0", "upgrade this program"]),
    ],
)
def test_an_engine_on_another_schema_says_what_to_do(
    config, sqlite_url, revision, words
):
    if revision:
        migration.sync(sqlite_url)
        pretend(sqlite_url, revision)
    text = one_line(engined("--config-file", config))
    for word in words:
        assert word in text


def test_an_engine_runs_until_sigterm(synced, tmp_path):
    quick = "ttl = 3\nbeat_interval = 0.1\nsweep_interval = 0.2\nlease_margin = 0.5\n"
    quick += "database_timeout = 0.9\n"
    text = f"[liveness]\nconnection = {synced}\n{quick}"
    command = Command(
        engine.main, "--config-file", conf_file(tmp_path, "engine.conf", text)
    )

    def rows():
        return run(synced, "SELECT state, beat_seq FROM liveness_engine")[0]

    try:
        wait_until(lambda: rows() and rows()[0].beat_seq > 3, 60)
    finally:
        os.kill(command.pid, signal.SIGTERM)
        result = command.result()
    assert result.code == 0
    assert [row.state for row in rows()] == ["stopped"], result.err
    assert "Traceback" not in result.err
