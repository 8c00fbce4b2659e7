"""``liveness-demo``: engines are killed and frozen, and nothing is lost."""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import sqlalchemy as sa
from rich.console import Console

from liveness import exceptions
from liveness.db import migration
from liveness.db.connection import one_line, parse_url
from liveness.demo import journal, report, script
from liveness.demo.check import Verdict, judge
from liveness.demo.database import Observer, Unusable
from liveness.demo.fleet import Fleet
from liveness.demo.life import Facts, Row
from liveness.demo.plan import OPTIONS, PREFIX, Plan
from liveness.demo.stage import Failed, Stage
from liveness.demo.view import view_for

FRAME = 0.1
INTERRUPTED = 130

DESCRIPTION = """\
Starts engine processes on one database, lets them create simulated stacks, kills one
with SIGKILL and freezes one with SIGSTOP until its lease is over, and shows how the
others take over. At the end the workload's own list is compared with what is left.
"""

EXAMPLES = """\
examples:
  liveness-demo                         three engines on a temporary SQLite file
  liveness-demo --engines 5 --deadlines 1000 --seed 42
  liveness-demo --database mysql+pymysql://USER:PASSWORD@HOST/NAME
  liveness-demo -f json 2>/dev/null     one JSON object, for scripts

Exit code: 0 nothing was lost; 1 something was lost, early or held twice, or nothing
was taken over; 2 wrong arguments, or a database that cannot be used.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code."""
    args = _arguments(argv)
    try:
        return _run(args)
    except KeyboardInterrupt:
        return _say("interrupted; every engine was ended", INTERRUPTED)
    except Failed as error:
        return _say(str(error), 1)
    except Unusable as error:
        return _say(f"the database cannot be used: {error}.", 2)
    except exceptions.LivenessError as error:
        return _say(str(error), 2)
    except sa.exc.SQLAlchemyError as error:
        return _say(f"the database cannot be used: {one_line(error)}", 2)
    except OSError as error:  # no room for the journals, no process to be had
        return _say(str(error), 2)


def _say(line: str, code: int) -> int:
    print(f"liveness-demo: {line}", file=sys.stderr)
    return code


def _run(args: argparse.Namespace) -> int:
    started = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="liveness-demo-"))
    keep = args.keep
    try:
        url = parse_url(args.database or f"sqlite:///{directory}/liveness.sqlite")
        plan = Plan(secrets.token_hex(3), args.seed, args.engines, args.deadlines)
        console = Console(stderr=args.format == "json")
        observer = _prepare(url, plan, directory)
        stage, verdict = _play(plan, observer, url, directory, console)
        shown = url.render_as_string(hide_password=True)
        numbers = report.facts(verdict, stage, shown, time.monotonic() - started)
        keep = keep or not numbers["ok"]
        numbers["kept"] = str(directory) if keep else None
        _report(args.format, console, numbers)
        if not keep:
            observer.remove(plan.prefix)
        observer.close()
        return 0 if numbers["ok"] else 1
    except Failed as error:
        keep = True
        raise Failed(f"{error} (logs: {directory})") from None
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)


def _prepare(url: sa.URL, plan: Plan, directory: Path) -> Observer:
    """Make the database ready, and write down what the engines need to know.

    :raises Unusable: :raises DatabaseError: nothing was changed."""
    plain = url.render_as_string(hide_password=False)
    observer = Observer(url, plan.prefix)
    if migration.version(plain):
        observer.refuse_foreign()
    migration.sync(plain)
    observer.remove(PREFIX)
    observer.read_clock()
    plan.save(directory / "plan.json")
    options = {"connection": plain.replace("$", "$$"), **OPTIONS}
    lines = [f"{name} = {value}" for name, value in options.items()]
    path = directory / "liveness.conf"
    path.touch(0o600)
    path.write_text("\n".join(["[liveness]", *lines, ""]))
    return observer


def _play(
    plan: Plan, observer: Observer, url: sa.URL, directory: Path, console: Console
) -> tuple[Stage, Verdict]:
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    fleet = Fleet(directory, plan.engines)
    stage = Stage(plan, fleet, observer, directory)
    try:
        fleet.start()
        with view_for(console, url.render_as_string(hide_password=True)) as view:
            for coming in script.play(stage):
                view.show(stage, coming)
                time.sleep(FRAME)
                stage.look()
            view.show(stage, "the engines drain")
            fleet.drain()
            stage.look()
            view.show(stage, "the check")
    finally:
        fleet.end()
    return stage, _check(observer, directory, stage)


def _check(observer: Observer, directory: Path, stage: Stage) -> Verdict:
    """Judge by the journals, and the rows as they are now."""
    observer.read_clock()
    last = observer.snapshot()
    rows = {(d.kind, d.key): Row(d.state, d.due) for d in last.deadlines}
    ended = {e.id: e.ended for e in last.engines if e.ended is not None}
    patience = sum(OPTIONS[n] for n in ("expired_grace", "max_clock_skew", "ttl"))
    facts = Facts(rows, ended, journal.now(), observer.error, patience)
    return judge(journal.read(directory), facts)


def _report(form: str, console: Console, numbers: dict) -> None:
    if form == "json":
        print(json.dumps(numbers))
        return
    report.show(console, numbers)
    if numbers["kept"]:
        console.print(
            f"Journals, logs and configuration are kept in {numbers['kept']}; the"
            f" database is {numbers['database']}",
            highlight=False,
            soft_wrap=True,
        )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, not two."""
        self.exit(2, f"liveness-demo: {message}; see liveness-demo --help\n")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="liveness-demo",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--database",
        metavar="URL",
        help="where; it must hold nothing but demos (default: a temporary SQLite file)",
    )
    parser.add_argument(
        "--engines",
        metavar="N",
        type=_number(2, 20),
        default=3,
        help="engine processes, 2 to 20 (default: 3)",
    )
    parser.add_argument(
        "--deadlines",
        metavar="N",
        type=_number(20, 2000),
        default=400,
        help="deadlines, 20 to 2000 (default: 400)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=_number(0, 2**31),
        default=1,
        help="makes the same stacks again (default: 1)",
    )
    parser.add_argument(
        "-f",
        "--format",
        choices=("table", "json"),
        default="table",
        help="the summary; with json, progress goes to stderr (default: table)",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep the database's rows, the journals and the logs, and say where",
    )
    return parser.parse_args(argv)


def _number(low: int, high: int):  # type: ignore[no-untyped-def]
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be {low} to {high}, not {text!r}")
        return int(text)

    return number


if __name__ == "__main__":
    sys.exit(main())
