"""Check the models, and that the checker finds what is planted in them.

A model holds when no reachable state violates it and none was left out: a search that
ran out of depth, memory or time has failed, and so has one whose model can never do
what it is about (see witness() in common.pml). A mutant is a model with one guard taken
out; the checker has to find a violation, and finds a shortest one.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

MEMORY = 3600
"""Megabytes for one search."""

DEPTH = 1_000_000
"""Steps of the longest run; the searches get nowhere near."""

PATIENCE = 1800
"""Seconds for one search."""


@dataclasses.dataclass(frozen=True)
class Search:
    """One model with its switches. ``kind``: "holds"; "mutant"; "spare", a mutant that
    holds, because another guard stands behind the one taken out; or "limit", which is
    violated, because the program does not promise it."""

    model: str
    switches: str = ""
    kind: str = "holds"
    name: str = ""
    long: bool = False

    @property
    def flags(self) -> list[str]:
        names = [*self.switches.split(), *([self.name] if self.name else [])]
        return [f"-D{name}" for name in names]

    def __str__(self) -> str:
        return " ".join([self.model, *self.switches.split(), self.name]).strip()


@dataclasses.dataclass
class Result:
    """What a search has shown. ``problem`` is None when it showed what it should."""

    search: Search
    problem: str | None = None
    states: int = 0
    depth: int = 0
    seconds: float = 0.0
    steps: set[str] = dataclasses.field(default_factory=set)
    reached: set[str] = dataclasses.field(default_factory=set)
    violated: str | None = None


def holds(model: str, *switches: str, long: bool = False) -> list[Search]:
    return [Search(model, each, long=long) for each in switches]


def planted(kind: str, model: str, *names: str) -> list[Search]:
    """Each is what is taken out, after the other switches that it is checked with."""
    searches = []
    for each in names:
        *switches, name = each.split()
        searches.append(Search(model, " ".join(switches), kind, name))
    return searches


SEARCHES = [
    # Nobody is fenced who trusts itself (5).
    *holds("lease", "", "SLOW_READS", "FAILOVER", "MEMORY", "DRIFT"),
    *holds("lease", "FAILOVER MEMORY", "FAILOVER SLOW_READS", long=True),
    *holds("lease", "OBSERVERS=2", long=True),
    *holds("lease", "DRIFT SLOW_READS", "DRIFT FAILOVER", "TTL=8", long=True),
    *planted(
        "mutant",
        "lease",
        "M_TRUST_FROM_ANSWER",
        "M_BEAT_WITHOUT_STATE",
        "M_BEAT_WITHOUT_ROW_COUNT",
        "M_BEAT_WITHOUT_RANGE",
        "FAILOVER M_BEAT_WITH_FLOOR",
        "M_FENCE_WITHOUT_NUMBER",
        "M_FENCE_BY_LEASE_END",
        "M_FENCE_WHAT_IS_THERE",
        "SLOW_READS M_RUN_FROM_SEND",
        "DRIFT M_NO_DRIFT_ALLOWANCE",
        "FAILOVER M_RECONNECT_CONTINUES",
        "FAILOVER MEMORY M_MEMORY_OF_ANOTHER_SERVER",
        "M_RESIGN_TRUSTED",
    ),
    # Nobody is fenced who beats in time (4).
    *holds("alive", "", "FAILOVER", "MEMORY", "HIDDEN_FAILOVER"),
    *holds("alive", "OBSERVERS=2", "FAILOVER MEMORY", "TTL=8", long=True),
    *holds("alive", "HIDDEN_FAILOVER MEMORY", "OBSERVERS=2 FAILOVER", long=True),
    *planted(
        "mutant",
        "alive",
        "M_READINGS_ALONE",
        "HIDDEN_FAILOVER M_NO_GAP_OF_READINGS",
        "HIDDEN_FAILOVER M_REPEATED_NUMBERS",
        "MEMORY M_MEMORY_OVER_A_GAP",
    ),
    # The same while the ttl changes.
    *holds("ttl", ""),
    *planted(
        "mutant",
        "ttl",
        "M_BEAT_ANNOUNCES_FIRST",
        "M_RAISED_AT_ONCE",
        "M_OBSERVERS_OWN_TTL",
        "M_BEAT_WITHOUT_NUMBERS",
    ),
    *planted("spare", "ttl", "M_LOWERED_LATER"),
    # Somebody can fence, and in time.
    *holds("fencing", "", "CRASH_LOOP", "WATCHDOG", "PROOF"),
    *holds("fencing", "PROOF CRASH_LOOP", "WATCHDOG CRASH_LOOP", long=True),
    *planted(
        "mutant",
        "fencing",
        "CRASH_LOOP M_NOTHING_KEPT",
        "WATCHDOG M_NO_WATCHDOG",
        "M_STALL_STICKS",
        "PROOF M_UNSEEN_IS_DEAD",
    ),
    # What the dead left is found, and in time.
    *holds("takeover", "", "CRASH_LOOP"),
    *planted(
        "mutant",
        "takeover",
        "CRASH_LOOP M_PURGES_AN_OWNER",
        "M_MISSING_IS_ALIVE",
        "M_TAKEOVER_IS_AN_EVENT",
    ),
    # Rows: nothing lost, nothing early, one holder (1, 2, 3).
    *holds("rows", "", "HOST", "DRAIN", "HANGS RETRIES", "VM_PAUSE"),
    *holds("rows", "ENDS", "ENDS HANGS RETRIES"),
    *holds("rows", "DRAIN HANGS RETRIES", "DRAIN HOST", "VM_PAUSE LATE", long=True),
    *holds("rows", "ROWS=2", "FAILOVER", "VM_PAUSE HOST", long=True),
    *holds("rows", "LATE", "LATE HANGS", "LATE DRAIN", "LATE HOST", long=True),
    *holds("rows", "ENDS DRAIN", "ENDS LATE", long=True),
    *planted(
        "mutant",
        "rows",
        "M_CLAIM_LEAVES_IT_DUE",
        "M_CLAIMED_DUE_AT_A_TIMEOUT",
        "M_CLAIM_WITHOUT_DUE",
        "RETRIES M_CLAIM_WITHOUT_TOKEN",
        "HOST M_SETTLE_WITHOUT_TOKEN",
        "HOST M_GUARD_NOT_TOLD",
        "M_ARM_OVERWRITES",
        "FAILOVER M_NO_SECOND_LOOK",
        "M_NO_ADOPTION",
        "M_ADOPTS_WHAT_IT_HOLDS",
        "M_LET_GO_BEFORE_WRITTEN",
        "HANGS M_RELEASE_THEN_SPEND",
        "DRAIN M_DRAINED_TRUSTED",
        "DRAIN M_RESIGNS_FIRST",
        "M_MISSING_IS_ALIVE",
        "FAILOVER M_MISSING_AT_ONCE",
    ),
    *planted(
        "spare",
        "rows",
        "M_SETTLE_WITHOUT_OWNER",
        "HOST M_EXTEND_KEEPS_TOKEN",
        "DRAIN M_DRAINED_NOT_SPENT",
    ),
    # Attempts: who kills is parked, and nobody else (7).
    *holds("parking", "", "MOST=3"),
    *holds("parking", "ROWS=3 POISONS=2", "ROWS=3 POISONS=2 MOST=3", long=True),
    *planted(
        "mutant",
        "parking",
        "M_COUNTED_AT_COMPLETION",
        "M_LAST_IN_COMPANY",
        "M_COMPANY_COMES_LATER",
        "M_FIRES_ALL_FIRST",
        "M_FIRES_FRESH_FIRST",
        "M_GOES_ON_UNHELD",
        "M_LOST_COUNTED_TWICE",
        "M_UNSTARTED_COUNTS",
        "M_PARKS_THE_LIVING",
    ),
    *planted("spare", "parking", "MOST=3 M_SUSPECTS_TOGETHER"),
    *planted("limit", "parking", "LATE"),
]


# --- one search -----------------------------------------------------------------------
def run(search: Search, folder: str) -> Result:
    """Let the checker search in ``folder``, which is left full."""
    started = time.monotonic()
    result = Result(search)
    try:
        output = _output(search, folder)
        result.steps = _steps(search)
    except subprocess.CalledProcessError as error:
        said = (error.stdout + error.stderr).strip().splitlines()
        result.problem = f"{error.cmd[0]} failed: {said[0] if said else ''}"
    except subprocess.TimeoutExpired:
        result.problem = f"not done in {PATIENCE} s"
    else:
        _read(output, result)
        result.problem = _problem(output, result)
    result.seconds = time.monotonic() - started
    return result


def _output(search: Search, folder: str) -> str:
    ends = "ENDS" in search.switches
    finds = search.kind in ("mutant", "limit")
    flags = search.flags if finds else [*search.flags, "-DWITNESS"]
    model = str(HERE / f"{search.model}.pml")
    _call("spin", "-a", *flags, model, cwd=folder)
    # Compiling takes longer than most searches.
    how = ["-O2"] if search.long else ["-O0"]
    how += ["-DBFS"] if finds else []
    how += [] if ends else ["-DSAFETY"]
    how += ["-DNOREDUCE", f"-DMEMLIM={MEMORY}", "-w"]  # every order, to the letter
    _call("gcc", *how, "-o", "pan", "pan.c", cwd=folder)
    how = ["-a"] if ends else []
    how += [f"-m{DEPTH}", "-w24" if search.long else "-w18"]
    return _call("./pan", *how, cwd=folder, check=False)


def _call(*command: str, cwd: str, check: bool = True) -> str:
    return subprocess.run(
        command, cwd=cwd, check=check, timeout=PATIENCE, capture_output=True, text=True
    ).stdout


def _read(output: str, result: Result) -> None:
    for pattern, name in (
        (r"(\d+) states, stored", "states"),
        (r"depth reached (\d+)", "depth"),
    ):
        if found := re.search(pattern, output):
            setattr(result, name, int(found[1]))
    result.reached = set(re.findall(r"^reached: (.+)$", output, re.MULTILINE))
    if found := re.search(r"^pan:1: (.+) \(at depth \d+\)$", output, re.MULTILINE):
        result.violated = found[1]


def _problem(output: str, result: Result) -> str | None:
    violated = result.violated
    if result.search.kind in ("mutant", "limit"):
        if violated is None:
            return "not caught" if _complete(output) else "the search was cut short"
        if not violated.startswith("assertion violated"):
            return f"caught by the wrong thing: {violated}"
        return None
    if violated is not None:
        return f"violated: {violated}"
    return None if _complete(output) else "the search was cut short"


def _complete(output: str) -> bool:
    """Nothing was left out: neither depth, nor memory, nor an error ended it."""
    bad = ("Search not completed", "max search depth too small", "out of memory")
    return "errors: 0" in output and not any(words in output for words in bad)


def _steps(search: Search) -> set[str]:
    """What the model can say in this search, and what it has to be able to do."""
    model = str(HERE / f"{search.model}.pml")
    flags = [*search.flags, "-DWITNESS"]
    text = _call("gcc", "-E", "-P", "-x", "c", *flags, model, cwd=str(HERE))
    found = re.findall(r'printf\("reached: %s\\n", "([^"]+)"\)', text)
    return {words.removesuffix("\\n") for words in found}


# --- all of them ----------------------------------------------------------------------
def run_all(searches: Sequence[Search], jobs: int, tell: bool) -> list[Result]:
    """Run them, the long ones first; ``tell`` each on stderr."""
    done: list[Result] = []

    def one(search: Search) -> Result:
        with tempfile.TemporaryDirectory(prefix="liveness-model-") as folder:
            result = run(search, folder)
        done.append(result)
        if tell:
            print(f"{len(done):3}/{len(searches)} {_line(result)}", file=sys.stderr)
        return result

    ordered = sorted(searches, key=lambda search: not search.long)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, ordered))


def _line(result: Result) -> str:
    search = result.search
    verdict = {
        "holds": f"holds ({result.states:,} states)",
        "spare": f"holds without it ({result.states:,} states)",
        "mutant": f"caught, in {result.depth} steps",
        "limit": f"not promised: violated in {result.depth} steps",
    }[search.kind]
    return f"{search}: {result.problem or verdict} [{result.seconds:.1f} s]"


def unreached(results: Iterable[Result]) -> list[str]:
    """Steps and witnesses that none of the searches of their model came to."""
    missing: dict[str, set[str]] = {}
    complete = [result for result in results if result.search.kind == "holds"]
    for result in complete:
        missing.setdefault(result.search.model, set()).update(result.steps)
    for result in complete:
        missing[result.search.model] -= result.reached
    return [
        f"{m}: never: {step}" for m in sorted(missing) for step in sorted(missing[m])
    ]


def summary(results: list[Result]) -> dict[str, Any]:
    complete = [r for r in results if r.search.kind in ("holds", "spare")]
    mutants = [r for r in results if r.search.kind == "mutant"]
    problems = [f"{r.search}: {r.problem}" for r in results if r.problem]
    return {
        "states": sum(r.states for r in complete),
        "violations": sum(r.violated is not None for r in complete),
        "mutants": len(mutants),
        "caught": sum(r.problem is None for r in mutants),
        "failures": [*problems, *unreached(results)],
        "runs": [
            {
                "search": str(result.search),
                "kind": result.search.kind,
                "states": result.states,
                "depth": result.depth,
                "seconds": round(result.seconds, 1),
                "problem": result.problem,
            }
            for result in results
        ],
    }


def trace(name: str) -> int:
    """Print a shortest way to the violation of one mutant, or of each of its name."""
    named = [search for search in SEARCHES if search.name == name]
    for search in named:
        with tempfile.TemporaryDirectory(prefix="liveness-model-") as folder:
            result = run(search, folder)
            print(f"{search}: {result.violated or result.problem}")
            if result.violated is None:
                continue
            model = str(HERE / f"{search.model}.pml")
            trail = f"{search.model}.pml.trail"
            said = _call("spin", "-k", trail, *search.flags, model, cwd=folder)
            for line in said.splitlines():
                if line.startswith("spin:"):
                    break
                print("   ", line.strip())
    return 0 if named else 2


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("mutant", nargs="?", help="print how this one is caught")
    parser.add_argument("--short", action="store_true", help="leave large bounds out")
    parser.add_argument("-f", "--format", choices=("text", "json"), default="text")
    parser.add_argument("-j", "--jobs", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(arguments)
    if options.mutant:
        return trace(options.mutant)

    wanted = [s for s in SEARCHES if not (options.short and s.long)]
    results = run_all(wanted, options.jobs, options.format == "text")
    total = summary(results)
    failures = total["failures"]
    if options.format == "json":
        print(json.dumps(total, indent=2))
    else:
        for failure in failures:
            print(f"FAILED {failure}")
        print(
            f"model: {total['states']:,} states explored,"
            f" {total['violations']} violations,"
            f" {total['caught']} mutants caught of {total['mutants']} planted"
            + (f", {len(failures)} FAILURES" if failures else "")
        )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
