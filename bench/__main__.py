"""The command line: ``python -m bench idle lateness --database mariadb --quick``."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import machine, report, servers
from bench.context import Context, Progress
from bench.peers.catalogue import PEERS
from bench.rounds import Row
from tests.servers import ServerError

PARTS = (
    "idle",
    "lateness",
    "recovery",
    "throughput",
    "takeover",
    "arming",
    "growth",
    "memory",
    "against",
)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m bench", description="Measure what liveness costs."
    )
    made.add_argument(
        "parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; or all"
    )
    made.add_argument(
        "--database",
        action="append",
        choices=list(servers.KINDS),
        help="only on that database (may be repeated)",
    )
    made.add_argument("--quick", action="store_true", help="small sizes, about 3 min")
    made.add_argument(
        "--peers",
        default="none",
        metavar="NAMES",
        help=f"for the part against: all, none, or some of {', '.join(PEERS)}, with"
        " commas between them; they are installed when first asked for",
    )
    made.add_argument(
        "--results",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="where the JSON goes (bench/results; with --quick: nowhere)",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        names = ", ".join(sorted(unknown))
        print(f"There is no part {names}: {', '.join(PARTS)}.", file=sys.stderr)
        return 2
    peers = {"all": list(PEERS), "none": []}.get(arguments.peers)
    if peers is None:
        peers = arguments.peers.split(",")
    if unknown := set(peers) - set(PEERS):
        names = ", ".join(sorted(unknown))
        print(f"There is no peer {names}: {', '.join(PEERS)}.", file=sys.stderr)
        return 2
    parts = arguments.parts or list(PARTS)
    databases = arguments.database or list(servers.KINDS)
    folder = arguments.results
    if folder is None and not arguments.quick:
        folder = report.RESULTS
    tell = Progress()
    started = servers.Servers()
    try:
        for part in parts:
            _run(part, started, databases, arguments.quick, folder, tell, peers)
    except ServerError as error:
        print(f"No measurement: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; finished parts are saved.", file=sys.stderr)
        return 130
    finally:
        started.close()
    return 0


def _run(
    part: str,
    started: servers.Servers,
    databases: Sequence[str],
    quick: bool,
    folder: Path | None,
    tell: Progress,
    peers: Sequence[str],
) -> None:
    module = importlib.import_module(f"bench.{part}")
    size = module.SIZES["quick" if quick else "full"]
    facts = machine.describe()
    facts["databases"] = {
        name: machine.describe_server(name, started.get(name)) for name in databases
    }
    context = Context(started, databases, size, tell, peers)
    began = time.monotonic()
    rows: list[Row] = list(module.run(context))
    facts["seconds"] = round(time.monotonic() - began, 1)
    facts["load_after"] = machine.load()
    facts["quick"] = quick
    tell.clear()
    print(f"\n{part}: {module.__doc__.partition(chr(10))[0]}\n")
    print(report.table(rows))
    print(
        f"\n{facts['cores']} cores ({facts['cpu']}), load {facts['load'][0]:g} before"
        f" and {facts['load_after']:g} after, fsync {facts['fsync_ms']:g} ms,"
        f" {facts['seconds']:g} s"
    )
    if folder is not None:
        print(f"saved: {report.save(part, facts, rows, folder)}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
