"""What the page reads: a few statements, which each stop somewhere."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

from liveness import model
from liveness.clock import Clock
from liveness.cmd import deadlines, recent
from liveness.cmd.redaction import Redaction
from liveness.events import Event, story

if TYPE_CHECKING:
    import sqlalchemy as sa

    from liveness.conf import Settings
    from liveness.db.report import Listed

ROWS = 100
"""What is shown at most."""

WINDOWS = 50
"""Windows of the table that are searched for what is asked, from the oldest row on."""


def asked(query: str) -> dict[str, str]:
    """What a query string asks, whatever is in it: the last of each name, no longer
    than a key."""
    try:
        given = parse_qs(query, keep_blank_values=True, max_num_fields=20)
    except ValueError:
        return {}
    return {
        name: text[-1][:255].replace("\0", "\ufffd") for name, text in given.items()
    }


@dataclasses.dataclass(frozen=True)
class Search:
    """Which deadlines a request asks for."""

    state: str = ""
    kind: str = ""
    prefix: str = ""

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Search:
        """What cannot be meant is left out."""
        state = given.get("state", "")
        known = [str(each) for each in model.DeadlineState]
        return cls(
            state if state in known else "",
            given.get("kind", ""),
            given.get("prefix", ""),
        )


@dataclasses.dataclass(frozen=True)
class Key:
    """Which one deadline a request asks for."""

    kind: str
    key: str

    @property
    def link(self) -> str:
        """Where it is shown."""
        return f"/deadline?{urlencode(dataclasses.asdict(self))}"


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search found."""

    now: datetime
    rows: list[Listed]


@dataclasses.dataclass(frozen=True)
class One:
    """One deadline: what there is to say of it, without secrets, and what befell it."""

    now: datetime
    facts: dict[str, Any]
    events: list[Event]


def search(connection: sa.Connection, wanted: Search) -> Found:
    """Look for deadlines, among the oldest rows."""
    from liveness.db.report import Filter, Report

    report = Report(Clock())
    found = report.deadlines(
        connection,
        Filter(
            states=[wanted.state] if wanted.state else (),
            kinds=[wanted.kind] if wanted.kind else (),
            prefix=wanted.prefix,
        ),
        windows=WINDOWS,
    )
    return Found(report.now(connection), list(itertools.islice(found, ROWS)))


def one(connection: sa.Connection, wanted: Key, settings: Settings) -> One | None:
    """Look at one deadline, and at what befell it lately."""
    from liveness.db.events import EventLog, Sought
    from liveness.db.report import Report

    found = Report(Clock()).deadline(connection, wanted.kind, wanted.key)
    if found is None or (found[0].kind, found[0].key) != (wanted.kind, wanted.key):
        return None
    log = EventLog(Clock()).newest_first(connection, Sought(), recent.WINDOWS)
    events = itertools.islice(story(log, wanted.kind, wanted.key), ROWS)
    shown = deadlines.facts(*found, Redaction(settings.redacted))
    return One(found[0].now, shown, list(events))
