"""What each statement costs a server: seconds of one core, and bytes on its network."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple


class Cost(NamedTuple):
    """Of one statement."""

    seconds: float
    bytes: float


@dataclasses.dataclass(frozen=True)
class Costs:
    """Seconds of a core: of each statement, and (``_row``) of each row on top.

    ``calibrate`` measures them on a real server; ``look`` is of one row by its key,
    ``owners_row`` of each step from owner to owner, ``count_row`` of each engine that
    is counted. ``sizes``: bytes both ways, by the same names; ``connection``: bytes of
    the server's memory for each that is open.
    """

    beat: float
    observe: float
    observe_row: float
    find: float
    find_row: float
    claim: float
    claim_row: float
    complete: float
    complete_row: float
    adopt: float
    adopt_row: float
    fence: float
    look: float
    owners_row: float
    count_row: float = 0.0
    connection: float = 0.0
    sizes: dict[str, float] = dataclasses.field(default_factory=dict)

    def of(self, name: str, rows: int = 0, row: str | None = None) -> Cost:
        """What the statement of that name costs with so many rows; ``row``: each of
        them costs as in another statement."""
        row = row or f"{name}_row"
        return Cost(
            getattr(self, name) + rows * getattr(self, row, 0.0),
            self.sizes.get(name, 0.0) + rows * self.sizes.get(row, 0.0),
        )

    @classmethod
    def load(cls, path: Path) -> Costs:
        """Of a file that :meth:`save` wrote."""
        return cls(**json.loads(path.read_text())["costs"])

    def save(self, path: Path, **more: Any) -> None:
        """Write them down, with ``more``: what they were measured on."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = {**more, "costs": dataclasses.asdict(self)}
        path.write_text(json.dumps(text, indent=1) + "\n")
