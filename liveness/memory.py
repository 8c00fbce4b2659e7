"""Observations that outlive their observer.

In a crash loop nobody lives long enough to observe a whole lease, and nobody would
ever fence anyone. So an engine may leave what it has observed in a file, for its
successor on the same boot of the same machine to go on from, within the same bounds:
too long a gap between two readings, or between two committed beats, restarts the run.

The file is only believed within the boot that wrote it, so it needs no fsync.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os

from liveness import log
from liveness.identity import Identity

LOG = log.get(__name__)

Span = tuple[float, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Remembered:
    """What a predecessor left: the server that it read and when that had started, by
    engine id (beat_seq, since, asked), and its committed beats (sent, answered)."""

    server: str
    started: float
    runs: dict[str, tuple[int, float, float]]
    beats: list[Span]


class Memory:
    """The file of one database's observations in ``directory``."""

    def __init__(self, directory: str, database: str, identity: Identity) -> None:
        name = hashlib.sha256(database.encode()).hexdigest()[:16]
        self.path = os.path.join(directory, f"observations-{name}.json")
        self._stamp = [identity.boot_id, identity.namespaces]
        self._failing = identity.boot_id is None

    def save(self, remembered: Remembered) -> None:
        """Leave ``remembered`` behind, in place of what was there. A file that cannot
        be written is logged once, and costs nothing else."""
        if self._failing:
            return
        temporary = f"{self.path}.{os.getpid()}"
        text = json.dumps({"stamp": self._stamp, **dataclasses.asdict(remembered)})
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(fd, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, self.path)
        except OSError as error:
            self._failing = True
            LOG.warning(
                "Observations are not kept: %s: %s.",
                self.path,
                error.strerror,
                event="unremembered",
            )
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def load(self) -> Remembered | None:
        """What a predecessor on this boot left, or None."""
        try:
            with open(self.path, encoding="utf-8") as file:
                data = json.load(file)
            if data["stamp"] != self._stamp or None in self._stamp:
                return None
            return Remembered(
                server=str(data["server"]),
                started=float(data["started"]),
                runs={
                    str(key): (int(seq), float(since), float(asked))
                    for key, (seq, since, asked) in data["runs"].items()
                },
                beats=[(float(sent), float(done)) for sent, done in data["beats"]],
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            LOG.warning(
                "%s cannot be used (%s); it is written anew.",
                self.path,
                repr(error),
                event="unremembered",
            )
            return None
