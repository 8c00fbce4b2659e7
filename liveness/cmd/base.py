"""What the command lines share: where their options come from, and one line for a
mistake, which never holds a password."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from liveness.version import __version__

if TYPE_CHECKING:
    from oslo_config import cfg

    from liveness.conf import Settings

BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell counts

_IN_URL = re.compile(r"(://[^\s:/@]*:)(?!PASSWORD@)\S*@")
_NAMED = re.compile(r"(?i)(\b\w*(?:password|passwd|secret)\w*\s*[=:]\s*)[^\s&'\",]+")


def masked(text: str) -> str:
    """``text`` without the passwords of URLs, and what else is named as one, in it."""
    return _NAMED.sub(r"\1***", _IN_URL.sub(r"\1***@", text))


def fail(prog: str, problem: object) -> None:
    """Say on stderr, in one line, what is wrong."""
    text = masked(" ".join(str(problem).split())) or type(problem).__name__
    print(f"{prog}: {text}", file=sys.stderr)


def show_traceback() -> None:
    """Where the current exception came from, on stderr."""
    sys.stderr.write(masked(traceback.format_exc()))


def user_errors() -> tuple[type[Exception], ...]:
    """What a user or the system did wrong; anything else is a bug of ours."""
    from oslo_config import cfg

    from liveness import exceptions

    return (exceptions.LivenessError, cfg.Error, OSError)


def parse(
    conf: cfg.ConfigOpts, argv: Sequence[str], prog: str, **texts: Any
) -> cfg.ConfigOpts:
    """Have ``conf`` read the command line ``argv`` and its files, with our options and
    the host's ``[database] connection`` known to it.

    :raises cfg.Error: for any mistake in either. :raises SystemExit: after --help.
    """
    from oslo_config import cfg

    from liveness import conf as liveness_conf

    liveness_conf.register_opts(conf)
    _register_host_database(conf)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            conf(
                list(argv),
                project="liveness",
                prog=prog,
                version=f"{prog} {__version__}",
                **texts,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        # argparse has printed its usage, then what is wrong.
        last = said.getvalue().strip().splitlines()[-1:] or ["it cannot be read"]
        text = last[0].removeprefix(f"{prog}: error: ")
        raise cfg.Error(f"{text}; see '{prog} --help'") from None
    except cfg.ConfigFileParseError as error:
        # It ends with the line itself, in quotes, which may hold a password.
        raise cfg.Error(str(error).partition(": '")[0]) from None
    except UnicodeDecodeError as error:
        names = ", ".join(_not_utf8(argv)) or "a configuration file"
        where = f"byte {error.object[error.start]:#x}"
        raise cfg.Error(f"{names}: not UTF-8 text ({where})") from None
    return conf


def _not_utf8(argv: Sequence[str]) -> list[str]:
    """The configuration files that ``argv`` names and that are no text."""
    words = [part for word in argv for part in word.split("=", 1)]
    named = [after for word, after in pairwise(words) if word == "--config-file"]
    found = []
    for name in named:
        with contextlib.suppress(OSError), open(name, encoding="utf-8") as file:
            try:
                file.read()
            except UnicodeDecodeError:
                found.append(name)
    return found


def read_settings(
    prog: str,
    connection: str | None,
    config_files: Iterable[str] = (),
    config_dirs: Iterable[str] = (),
) -> Settings:
    """The settings of the configuration files (those in the usual places when none is
    given), with ``connection`` in place of theirs.

    :raises LivenessError: :raises cfg.Error: naming the option or the file.
    """
    from oslo_config import cfg

    from liveness import conf as liveness_conf

    argv = [f"--config-file={name}" for name in config_files]
    argv += [f"--config-dir={name}" for name in config_dirs]
    conf = parse(cfg.ConfigOpts(), argv, prog)
    if connection is not None:
        conf.set_override("connection", connection, group=liveness_conf.GROUP)
    return liveness_conf.Settings.from_conf(conf)


def _register_host_database(conf: cfg.ConfigOpts) -> None:
    """So that a host program's file (heat.conf) leads to the host's database, as it
    does inside the host, and not to a new SQLite file."""
    from oslo_config import cfg

    option = cfg.StrOpt("connection", secret=True, help="The host program's database.")
    with contextlib.suppress(cfg.DuplicateOptError):
        conf.register_opts([option], group="database")


def flushed(prog: str, code: int) -> int:
    """``code``, when what was written to stdout has arrived; else another one."""
    try:
        sys.stdout.flush()
        return code
    except OSError as error:
        # Python would try again at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # "| head" has had enough
            return BROKEN_PIPE
        fail(prog, f"the output could not be written: {error}")
        return 1
