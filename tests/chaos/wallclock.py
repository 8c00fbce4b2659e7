"""Another time of day for one process: see ``wallclock.c``, which is compiled here."""

from __future__ import annotations

import functools
import os
import struct
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


@functools.cache
def _compiled() -> tuple[str | None, str]:
    """The library, or None and why there is none."""
    folder = tempfile.TemporaryDirectory(prefix="liveness-chaos-")
    library = os.path.join(folder.name, "wallclock.so")
    command = ["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", library, str(SOURCE)]
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return None, "there is no gcc here (apt-get install gcc libc6-dev)"
    if result.returncode:
        return None, f"gcc: {' '.join(result.stderr.split())[:300]}"
    _kept.append(folder)  # removed when this process ends
    return library, ""


_kept: list[tempfile.TemporaryDirectory[str]] = []


def unavailable() -> str | None:
    """Why there is no such thing here, or None."""
    return None if _compiled()[0] else _compiled()[1]


class WallClock:
    """What processes with :attr:`environment` see of the time of day."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set(0.0)

    @property
    def environment(self) -> dict[str, str]:
        """Empty where there is no such thing."""
        library = _compiled()[0]
        if library is None:
            return {}
        return {"LD_PRELOAD": library, "CHAOS_CLOCK": str(self._path)}

    def set(self, offset: float) -> None:
        """From now on it is off by so many seconds; other clocks are as they were."""
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(file, struct.pack("d", offset), 0)
        finally:
            os.close(file)
