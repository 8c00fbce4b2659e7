"""What every part of the benchmark is given."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench.servers import Servers


class Progress:
    """One line on stderr that says what is going on; with a terminal, in place."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._last = 0.0

    def __call__(self, text: str) -> None:
        if self._tty:
            sys.stderr.write(f"\r\033[K{text[:110]}")
            sys.stderr.flush()
        elif time.monotonic() - self._last >= 5:
            self._last = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._tty:
            sys.stderr.write("\r\033[K")


@dataclasses.dataclass
class Context:
    """``size`` is the part's own; ``peers`` are names of peers to be measured too."""

    servers: Servers
    databases: Sequence[str]
    size: Any
    tell: Progress
    peers: Sequence[str] = ()
