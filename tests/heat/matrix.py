"""The crash matrix: every scenario of Heat's own framework, every message of it, every
point at which an engine can die with it, every way in which that is found.

`make heat-matrix`. Each scenario's own verification must hold as if nobody had died.
For comparison some cells are run with nobody to take over, too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.heat import venv

CHILD = Path(__file__).with_name("matrix_child.py")
SECONDS = 3600  # of one scenario
COMPARED = 9
"""Of so many cells one is run without recovery."""

WITH, WITHOUT = "with", "nothing"
NOT_THERE = "not there"
"""The point does not lie on that message's way: no cell of the matrix."""


GOOD = ("held", "failed cleanly")
"""The latter: a rollback that had not begun; nobody can ask for it again."""


def run(name: str, every: int, recovery: str, folder: Path) -> list[dict[str, Any]]:
    """The cells of one scenario. :raises SystemExit: when it does not run at all."""
    out = folder / f"{name}-{recovery}.jsonl"
    log = folder / f"{name}-{recovery}.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, venv.unit_tests()))
    python = [*venv.liveness().python, "-P"]
    with open(log, "wb") as file:
        subprocess.run(
            [*python, str(CHILD), str(out), name, str(every), recovery],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
        )
    lines = out.read_text().splitlines() if out.exists() else []
    cells = [json.loads(line) for line in lines]
    undisturbed = [cell for cell in cells if "fault" not in cell]
    if not undisturbed or undisturbed[0]["word"] != "held":
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise SystemExit(f"{name} does not hold undisturbed: {undisturbed}\n{tail}")
    return [c for c in cells if "fault" in c and c["word"] != NOT_THERE]


def scenarios() -> list[str]:
    folder = venv.unit_tests()[0] / "heat" / "tests" / "convergence" / "scenarios"
    return sorted(path.stem for path in folder.glob("*.py"))


def wrong(cells: Sequence[dict[str, Any]]) -> int:
    return sum(cell["word"] not in GOOD for cell in cells)


def table(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    head = f"{'scenario':38}{'messages':>9}{'cells':>7}{'held':>7}"
    yield f"{head}{'failed cleanly':>16}{'wrong':>7}"
    for name in sorted({cell["scenario"] for cell in cells}):
        mine = [cell for cell in cells if cell["scenario"] == name]
        messages = len({cell["message"] for cell in mine})
        yield line(name, str(messages), mine)
    yield line("all", "", cells)


def line(name: str, messages: str, cells: Sequence[dict[str, Any]]) -> str:
    held, failed = (sum(cell["word"] == word for cell in cells) for word in GOOD)
    rest = wrong(cells)
    return f"{name:38}{messages:>9}{len(cells):7}{held:7}{failed:16}{rest:7}"


def by_fault(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    all_of = Counter((cell["fault"], cell["how"]) for cell in cells)
    bad = Counter((c["fault"], c["how"]) for c in cells if wrong([c]))
    yield f"{'died':32}{'found':14}{'cells':>7}{'wrong':>7}"
    for (fault, how), number in sorted(all_of.items()):
        yield f"{fault:32}{how:14}{number:7}{bad[fault, how]:7}"


def failures(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    for cell in cells:
        if wrong([cell]):
            last = (cell["reason"].strip().splitlines() or [""])[-1]
            yield (
                f"{cell['scenario']}, message {cell['message']} ({cell['what']}):"
                f" {cell['fault']}, found {cell['how']}: {cell['word']}: {last[:200]}"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="heat-matrix", description=__doc__)
    parser.add_argument("scenario", nargs="*", help="only these")
    parser.add_argument(
        "--every", type=int, default=1, help="only each so many-th cell"
    )
    parser.add_argument("--jobs", type=int, default=1, help="scenarios at a time")
    wanted = parser.parse_args(arguments)
    names = wanted.scenario or scenarios()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="liveness-heat-matrix-") as folder:

        def cells_of(name: str) -> tuple[list[Any], list[Any]]:
            ours = run(name, wanted.every, WITH, Path(folder))
            stock = run(name, wanted.every * COMPARED, WITHOUT, Path(folder))
            print(f"{name}: {len(ours)} cells", flush=True)
            return ours, stock

        with ThreadPoolExecutor(wanted.jobs) as pool:
            found = list(pool.map(cells_of, names))
    ours = [cell for cells, _ in found for cell in cells]
    stock = [cell for _, cells in found for cell in cells]
    print(*table(ours), "", *by_fault(ours), "", sep="\n")
    print(*failures(ours), sep="\n")
    stuck, bad = wrong(stock), wrong(ours)
    print(f"Without recovery {stuck} of {len(stock)} cells are wrong.")
    print(f"{len(ours)} cells, {bad} wrong, {time.monotonic() - start:.0f} s.")
    return 1 if bad or not stuck else 0


if __name__ == "__main__":
    sys.exit(main())
