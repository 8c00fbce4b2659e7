"""What really happened: the lines that the suite's resource types wrote, and what
physically exists."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.proc import until


class Line(NamedTuple):
    at: float
    pid: int
    event: str
    type: str
    root: str
    stack: str
    resource: str
    tag: str
    row: int | None
    physical: str | None
    more: dict[str, Any]


class Journal:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "cloud").mkdir(parents=True)

    def __iter__(self) -> Iterator[Line]:
        try:
            text = (self._folder / "journal.jsonl").read_text()
        except FileNotFoundError:
            return
        for line in text.splitlines():
            values = json.loads(line)
            known = {name: values.pop(name) for name in Line._fields[:-1]}
            yield Line(**known, more=values)

    def of(self, root: str, event: str | None = None, tag: str | None = None):
        """The lines of one stack and all that is nested in it."""
        return [
            line
            for line in self
            if line.root == root
            and event in (None, line.event)
            and tag in (None, line.tag)
        ]

    def wait(
        self, root: str, event: str, tag: str | None = None, seconds: float = 60, n=1
    ) -> Line:
        """The n-th such line, as soon as it stands there."""
        if not until(lambda: len(self.of(root, event, tag)) >= n, seconds, 0.02):
            raise AssertionError(
                f"no {event} of {tag or 'anything'} within {seconds} s; there is "
                f"{Counter((line.tag, line.event) for line in self.of(root))}"
            )
        return self.of(root, event, tag)[n - 1]

    def creates(self, root: str) -> Counter[str]:
        """How often each resource was really made, by tag."""
        return Counter(line.tag for line in self.of(root, "create"))

    def existing(self) -> dict[str, dict[str, Any]]:
        """What physically exists now, by physical id."""
        found = {}
        for path in (self._folder / "cloud").iterdir():
            try:
                found[path.name] = json.loads(path.read_text())
            except FileNotFoundError:
                continue
        return found

    def existing_of(self, root: str) -> dict[str, str]:
        """Physical id to tag, of what one stack made and still exists."""
        existing = self.existing()
        return {
            line.physical: line.tag
            for line in self.of(root, "create")
            if line.physical in existing
        }

    def set_status(self, physical: str, status: str) -> None:
        """Change what the cloud says of it, behind Heat's back."""
        path = self._folder / "cloud" / physical
        draft = self._folder / f"{physical}.draft"
        draft.write_text(json.dumps({**json.loads(path.read_text()), "status": status}))
        draft.rename(path)
