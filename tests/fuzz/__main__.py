"""Fuzz each of the targets for some seconds, guided by coverage.

    python -m tests.fuzz --seconds 60

The inputs are those of tests/fuzz/test_fuzz.py, and so are the properties; atheris
chooses them by the lines of the package that they reach. What fails is printed with its
input; exit code 1. The last line says how many inputs were tried.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="for all (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    options = parser.parse_args()
    wanted = options.targets or sorted(TARGETS)
    if unknown := set(wanted) - set(TARGETS):
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    each = max(1, options.seconds // len(wanted))
    tried, failed = 0, []
    for name in wanted:
        count, output = fuzz(name, each, options.seed)
        tried += count
        print(
            f"{name}: {count:,} inputs, {'FAILED' if output else 'holds'}", flush=True
        )
        if output:
            failed.append(name)
            print(output)
    print(
        f"fuzz: {tried:,} inputs, seed {options.seed}, {len(failed)} of"
        f" {len(wanted)} targets failed"
    )
    return 1 if failed else 0


def fuzz(name: str, seconds: int, seed: int) -> tuple[int, str]:
    """How many inputs were tried, and what was said if one failed."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="liveness-fuzz-") as folder:
        command = [sys.executable, "-m", "tests.fuzz.targets", name]
        command += [f"-max_total_time={seconds}", f"-seed={seed}", "-timeout=120"]
        command += [f"-artifact_prefix={folder}/", "-print_final_stats=1"]
        done = subprocess.run(
            command,
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds * 3 + 300,
        )
    found = re.search(r"number_of_executed_units: (\d+)", done.stdout)
    short = time.monotonic() - began < seconds and not found
    bad = done.returncode or short
    return int(found[1]) if found else 0, done.stdout[-6000:] if bad else ""


if __name__ == "__main__":
    sys.exit(main())
