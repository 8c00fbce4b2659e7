"""Runs that take long, or are large.

    python -m tests.endure long --database postgresql --seconds 3600
    python -m tests.endure crowd --engines 200
    python -m tests.endure outage --seconds 600

``long``: engine processes work around a standing stock of deadlines; nothing may grow.
``crowd``: very many engines, some of which end all the time. ``outage``: the database
is away for longer than any lease. Each says at the end what was wrong, in a table or as
JSON; the exit code is 0 if nothing was, 1 if something was, 2 if it could not be run.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from typing import Any

from tests.endure import crowd, long, outage
from tests.endure.report import Tell, header, save, text, verdict
from tests.endure.stage import SERVERS, Failed, Given

RUNS = {"long": long.run, "crowd": crowd.run, "outage": outage.run}

USUAL: dict[str, dict[str, Any]] = {
    "long": {"engines": 12, "deadlines": 100_000, "seconds": 3600.0, "every": 10.0},
    "crowd": {
        "engines": 200,
        "processes": 8,
        "deadlines": 2000,
        "seconds": 600.0,
        "every": 4.0,
        "rate": 0.05,
        "ttl": 120.0,
    },
    "outage": {"engines": 12, "deadlines": 1200, "seconds": 600.0, "every": 10.0},
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m tests.endure", description=__doc__.split("\n")[0]
    )
    runs = made.add_subparsers(dest="run", required=True)
    for name, usual in USUAL.items():
        about = sys.modules[f"tests.endure.{name}"].__doc__ or ""
        one = runs.add_parser(name, help=" ".join(about.split()), description=about)
        one.add_argument("--database", choices=SERVERS, default="mariadb")
        one.add_argument("--seed", type=int, default=1)
        ttl = usual.get("ttl", 30.0)
        one.add_argument("--ttl", type=float, default=ttl, help="(%(default)g s)")
        one.add_argument("-f", "--format", choices=("text", "json"), default="text")
        one.add_argument("-o", "--output", help="a file for the result, as JSON")
        if name == "outage":
            one.add_argument("--how", choices=outage.BEGIN, default="stop")
        for option in ("engines", "processes", "deadlines", "seconds", "every", "rate"):
            default = usual.get(option, getattr(Given(), option))
            if option == "processes" and option not in usual:
                continue
            one.add_argument(
                f"--{option}", type=type(default), default=default, help="(%(default)s)"
            )
    return made


def given_of(options: argparse.Namespace) -> Given:
    values = dict(vars(options))
    ttl = values.pop("ttl")
    usual = USUAL[options.run].get("ttl", 30.0)
    fast = {} if ttl == usual else scaled(ttl)
    for name in ("run", "format", "output"):
        values.pop(name)
    return Given(**values, options={"ttl": ttl, **fast})


def scaled(ttl: float) -> dict[str, float]:
    """The options that go with another ttl, in the proportions of the defaults."""
    share = ttl / 30.0
    usual = {
        "beat_interval": 5.0,
        "sweep_interval": 2.0,
        "lease_margin": 1.0,
        "database_timeout": 5.0,
        "expired_grace": 5.0,
    }
    least = {"database_timeout": 0.3, "lease_margin": 0.1, "sweep_interval": 0.1}
    return {
        name: max(value * share, least.get(name, 0.0)) for name, value in usual.items()
    }


def perform(what: str, given: Given, tell: Tell, server: Any = None) -> dict[str, Any]:
    """One run; its result."""
    head = header(what, given)
    body = RUNS[what](given, tell, server)
    return {**head, "server": given.server, "options": given.options, **body}


def main() -> int:
    options = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    try:
        result = perform(options.run, given_of(options), Tell())
    except Failed as error:
        print(f"not run to its end: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 2
    if options.output:
        save(result, options.output)
    if options.format == "json":
        print(json.dumps(result, indent=1))
    else:
        print(text(result))
        print(verdict(result))
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
