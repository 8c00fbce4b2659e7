"""The Python environments of the lab, made once and kept in the checkout.

`.heat-venv` holds a stock Heat. `.heat-venv/liveness` adds this checkout to it, as
an operator's pip would, and leaves the stock one as it was.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.heat.processes import ROOT, LabError

FOLDER = ROOT / ".heat-venv"
CONSTRAINTS = Path(__file__).with_name("constraints.txt")
UNIT_TESTS = Path(__file__).with_name("unit-requirements.txt")
PACKAGES = (
    "openstack-heat==27.0.1",
    "keystone==30.0.0",
    "PyMySQL",
    "gunicorn",
)


class Venv:
    def __init__(self, folder: Path, scripts: Path | None = None) -> None:
        self._folder = folder
        self._scripts = scripts or folder / "bin"

    @property
    def python(self) -> list[str]:
        # -W: Heat's dependencies have much to say about their future.
        return [str(self._folder / "bin" / "python"), "-W", "ignore"]

    def script(self, name: str) -> list[str]:
        """The console script `name`, run by this environment's Python."""
        own = self._folder / "bin" / name
        return [*self.python, str(own if own.exists() else self._scripts / name)]


def stock() -> Venv:
    """An environment with Heat, keystone and nothing of ours."""
    with _lock():
        wanted = _digest(CONSTRAINTS.read_text(), *PACKAGES, sys.version)
        if not _made(FOLDER, wanted):
            _create(FOLDER, "--clear")
            (FOLDER / ".gitignore").write_text("*\n")
            _pip(FOLDER, "-c", str(CONSTRAINTS), *PACKAGES)
            _stamp(FOLDER, wanted)
    return Venv(FOLDER)


def liveness() -> Venv:
    """The stock environment with this checkout installed into it."""
    stock()
    folder = FOLDER / "liveness"
    with _lock():
        describing = [ROOT / name for name in ("setup.py", "requirements.txt")]
        wanted = _digest(
            (FOLDER / "stamp").read_text(), *(path.read_text() for path in describing)
        )
        if not _made(folder, wanted):
            _create(folder, "--upgrade")  # who runs from it now is not disturbed
            below = _site_packages(FOLDER)
            (_site_packages(folder) / "stock.pth").write_text(f"{below}\n")
            _pip(folder, "-c", str(CONSTRAINTS), "-e", str(ROOT))
            _stamp(folder, wanted)
    return Venv(folder, FOLDER / "bin")


def unit_tests() -> list[Path]:
    """Folders for the front of Python's path with which Heat's own tests run: they
    want etc/heat beside their package, and some packages."""
    stock()
    folder = FOLDER / "unit"
    with _lock():
        wanted = _digest((FOLDER / "stamp").read_text(), UNIT_TESTS.read_text())
        if not _made(folder, wanted):
            shutil.rmtree(folder, ignore_errors=True)
            beside = folder / "beside"
            beside.mkdir(parents=True)
            (beside / "heat").symlink_to(_site_packages(FOLDER) / "heat")
            (beside / "etc").symlink_to(FOLDER / "etc")
            packages = ["--no-deps", "-r", str(UNIT_TESTS)]
            _pip(FOLDER, "--target", str(folder / "packages"), *packages)
            _stamp(folder, wanted)
    return [folder / "beside", folder / "packages"]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _made(folder: Path, wanted: str) -> bool:
    stamp = folder / "stamp"
    return stamp.exists() and stamp.read_text() == wanted


def _stamp(folder: Path, wanted: str) -> None:
    (folder / "stamp").write_text(wanted)


def _site_packages(folder: Path) -> Path:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return folder / "lib" / version / "site-packages"


def _create(folder: Path, how: str) -> None:
    # The interpreter below ours, if we are in an environment ourselves.
    python = os.path.join(
        sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}"
    )
    _run([python, "-m", "venv", how, str(folder)])


def _pip(folder: Path, *arguments: str) -> None:
    python = str(folder / "bin" / "python")
    options = ["--quiet", "--no-input", "--disable-pip-version-check"]
    _run([python, "-m", "pip", "install", *options, *arguments])


def _run(command: list[str]) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    result = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
    )
    if result.returncode:
        raise LabError(
            f"{' '.join(command)} ended with {result.returncode}\n"
            + result.stdout[-3000:]
        )


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Two runs that start at once make it once."""
    with open(__file__) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    # Not liveness(): pip writes into the checkout for that, which other tests read.
    unit_tests()
