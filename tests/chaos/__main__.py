"""python -m tests.chaos: one run of chaos, or all mutants."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.chaos import checker, history, mutants, quota, rules_engines, verdict
from tests.chaos.database import Database
from tests.chaos.databases import DATABASES
from tests.chaos.evidence import Evidence
from tests.chaos.run import Broken, NotPossible, Orders, Run

FOUND, NOT_ABLE = 1, 2
"""Exit codes: there are violations (or mutants were missed); it cannot be run."""

SEEDS = 3
"""With so many, one after the other, a mutant may be found."""

TRIES = 3
"""Runs, each with the next seed, while each time the database itself breaks."""


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(NOT_ABLE))
    if reason := quota.own_namespace():
        _tell(f"The disk cannot be filled: {reason}")
    try:
        if options.mutants:
            return _mutants(options)
        found = run(options, options.mutant)
    except NotPossible as error:
        print(f"chaos: {error}", file=sys.stderr)
        return NOT_ABLE
    _write(found, options.json)
    _tell(verdict.table(found))  # the last: a log is read from its end
    return FOUND if found["violations"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Real engines on a real database, faults from a seed, a judge.",
        epilog="Exit codes: 0 no violation, 1 violations (mutants missed), 2 not run.",
    )
    add = parser.add_argument
    add("--seconds", type=float, default=60.0, help="of faults (%(default)g)")
    add("--seed", type=int, default=1, help="of the faults and the work (%(default)s)")
    add("--database", choices=sorted(DATABASES), default="mariadb")
    add("--engines", type=int, default=4, help="at a time (%(default)s)")
    add("--slow", type=float, default=1.0, help="times as long for all, leases too")
    add("--rate", type=float, help="operations per second of each engine's host")
    names, one = sorted(mutants.MUTANTS), "MUTANT"
    add("--mutant", choices=names, metavar=one, help="a bug to be planted")
    add("--mutants", action="store_true", help="plant each, one after the other")
    add("--only", nargs="+", choices=names, metavar=one, help="of them, only these")
    add("--json", metavar="FILE", help="write the verdict there as well")
    add("--keep", metavar="FOLDER", help="where histories stay (else only if wrong)")
    return parser


def run(options: argparse.Namespace, mutant: str | None) -> dict[str, Any]:
    """One run, judged: its verdict. A run on which the database breaks is made
    again."""
    if mutant is not None:
        _try_out(mutant)
    for seed in range(options.seed, options.seed + TRIES - 1):
        try:
            return _run(_with_seed(options, seed), mutant)
        except Broken as error:
            _tell(f"{error}\nagain, with the next seed")
    return _run(_with_seed(options, options.seed + TRIES - 1), mutant)


def _with_seed(options: argparse.Namespace, seed: int) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(options), "seed": seed})


def _run(options: argparse.Namespace, mutant: str | None) -> dict[str, Any]:
    began = time.monotonic()
    folder = _folder(options.keep)
    orders = _orders(options, mutant)
    database: Database = DATABASES[options.database](orders.engines)
    one = Run(orders, database, folder, _tell)
    try:
        dump = one()
    except Broken:
        shutil.rmtree(folder)
        raise
    _tell("judging")
    lines = list(history.read(folder))
    violations = checker.judge(lines, dump)
    found = verdict.verdict(one, lines, violations, time.monotonic() - began)
    found["inherited"] = rules_engines.inherited(Evidence(lines, dump))
    if not dump["keeps_commits"]:
        found["lost"] = verdict.lost(lines, dump, violations)
    if not violations and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
        found["folder"] = None
    return found


def _try_out(mutant: str) -> None:
    """Now, and not when minutes have passed in which nothing was found."""
    try:
        mutants.try_out(mutant)
    except mutants.NotPlanted as error:
        raise NotPossible(str(error)) from error


def _orders(options: argparse.Namespace, mutant: str | None) -> Orders:
    if mutant is None:
        usual = Orders(
            options.seconds, options.seed, options.engines, slow=options.slow
        )
        if options.rate:
            return usual.at_rate(options.rate)
        return usual
    planted = mutants.MUTANTS[mutant]
    return Orders(
        planted.seconds,
        options.seed,
        planted.engines,
        profile=planted.profile,
        mutant=mutant,
        settled=planted.settled,
        slow=options.slow,
    )


def _mutants(options: argparse.Namespace) -> int:
    """Each mutant with the faults that make it show. None may be missed: it has to be
    found with this seed or one of the two after it."""
    names = list(options.only or sorted(mutants.MUTANTS))
    for name in list(names):
        if options.database not in mutants.MUTANTS[name].databases:
            print(f"{name:<28} not on {options.database}", flush=True)
            names.remove(name)
    missed = [name for name in names if not _shows(options, name)]
    print(f"{len(names) - len(missed)} of {len(names)} mutants caught")
    return FOUND if missed else 0


def _shows(options: argparse.Namespace, name: str) -> bool:
    for seed in range(options.seed, options.seed + SEEDS):
        found = run(_with_seed(options, seed), name)
        if found["folder"] and not options.keep:
            shutil.rmtree(found["folder"], ignore_errors=True)
        rules = {(v["invariant"], v["rule"]) for v in found["violations"]}
        caught = bool(rules & mutants.MUTANTS[name].shows)
        shown = "; ".join(sorted(f"{number}. {rule}" for number, rule in rules))
        word = "caught" if caught else "MISSED"
        line = f"{name:<28} {word} {found['duration']:5.0f} s, seed {seed}  {shown}"
        print(line, flush=True)
        if caught:
            return True
    return False


def _folder(keep: str | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="liveness-chaos-run-"))
    folder = Path(keep)
    with contextlib.suppress(FileNotFoundError):
        if any(folder.iterdir()):
            raise NotPossible(f"{folder} is not empty: its histories would be mixed up")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write(found: dict[str, Any], path: str | None) -> None:
    text = json.dumps(found, indent=2)
    print(text)
    if path is not None:
        Path(path).write_text(text + "\n")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
