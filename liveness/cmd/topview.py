"""What ``top`` draws: as much of it as the terminal has room for."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from liveness.cmd.glance import Fleet, alive, short, state_of, troubled_first
from liveness.cmd.output import printable, span
from liveness.cmd.recent import Takeover

if TYPE_CHECKING:
    from rich.console import (
        Console,
        ConsoleDimensions,
        ConsoleOptions,
        RenderableType,
        RenderResult,
    )
    from rich.table import Table
    from rich.text import Text

    from liveness.db.report import ShownEngine
    from liveness.events import Event

ENGINES, TAKEOVERS, EVENTS = 100, 10, 10
"""Rows into a pipe."""

WIDE = 110
"""Characters from which on there is room for whole ids."""

BLOCKS = "▁▂▃▄▅▆▇█"
LEAST, MOST = 0.005, 100.0
"""Seconds of lateness of the lowest block and the highest, on a logarithmic scale."""

SIGNS = {
    "live": ("●", "cyan"),
    "draining": ("◑", "yellow"),
    "lapsed": ("▲", "bold red"),
    "fenced": ("✕", "red"),
    "stopped": ("■", "dim"),
}
"""A state has a shape and a colour of its own."""


@dataclasses.dataclass
class Shown:
    """What is on the screen. ``since``: when ``seen`` was, on the monotonic clock."""

    interval: float
    held: bool = False
    seen: Fleet | None = None
    problem: str | None = None
    since: float = 0.0

    def at(self, size: ConsoleDimensions) -> RenderableType:
        """It, on a terminal of that size."""
        from rich.console import Group
        from rich.text import Text

        parts: list[RenderableType] = []
        height = size.height - 1
        if self.problem is not None:
            age = span(time.monotonic() - self.since)
            age = f" What is below was seen {age} ago." if self.seen else ""
            said = Text(
                f" cannot look: {printable(self.problem)}.{age}", "bold reverse red"
            )
            said.truncate(size.width * 2)
            parts.append(said)
            height -= 2
        if self.seen is not None:
            parts.append(view(self.seen, size.width, height))
        keys = "space: go on" if self.held else "space: hold still"
        how = "held still" if self.held else f"every {self.interval:g} s"
        foot = Text(f" q: quit   {keys}   {how}", "reverse")
        foot.pad_right(max(size.width - len(foot), 0))
        return _Footed(Group(*parts), foot, size)


@dataclasses.dataclass
class _Footed:
    """``body`` with ``foot`` in the last line."""

    body: RenderableType
    foot: Text
    size: ConsoleDimensions

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        from rich.segment import Segment

        height = self.size.height - 1
        plain = console.options.update(width=self.size.width, height=None)
        lines = console.render_lines(self.body, plain)[:height]
        for line in lines:
            yield from line
            yield Segment.line()
        for _ in range(height - len(lines)):
            yield Segment.line()
        yield self.foot


def view(seen: Fleet, width: int, height: int | None = None) -> RenderableType:
    """One look, in lines of that width; in no more of them than ``height``."""
    from rich.console import Group

    rows = _rows(seen, height)
    parts: list[RenderableType] = [*_summary(seen), *_lateness(seen, width)]
    parts += [_engines(seen, width, rows[0]), _takeovers(seen, width, rows[1])]
    if rows[2]:
        parts.append(_events(seen.recent.events[: rows[2]]))
    return Group(*parts)


HEAD = 5
"""Lines of the summary and of lateness."""


def _rows(seen: Fleet, height: int | None) -> tuple[int, int, int]:
    """How many rows of engines, takeovers and events there is room for."""
    recent = seen.recent
    engines, takeovers = max(len(seen.engines), 1), max(len(recent.takeovers), 1)
    events = len(recent.events)
    if height is None:
        return min(engines, ENGINES), min(takeovers, TAKEOVERS), min(events, EVENTS)
    room = max(height - HEAD - 4, 2)  # two headings, a line before each
    shown = min(engines, room - min(takeovers, room // 3))
    took = min(takeovers, room - shown, TAKEOVERS)
    left = room - shown - took - 2
    return shown, took, min(events, left) if left >= 3 else 0


def _summary(seen: Fleet) -> list[Text]:
    from rich.text import Text

    from liveness.db.report import COUNTED

    def number(count: int) -> str:
        return f"{count}{'+' if count >= COUNTED else ''}"

    lapsed = sum(state_of(each) == "lapsed" for each in seen.engines)
    counts = {state: sum(kinds.values()) for state, kinds in seen.counts.items()}
    parts = [(f"live {alive(seen.engines)}", "bold")]
    if lapsed:
        parts.append((f"lapsed {lapsed}", "bold red"))
    for state, count in counts.items():
        wrong = state == "parked" and count
        parts.append((f"{state} {number(count)}", "yellow" if wrong else ""))
    parts.append(
        (f"overdue {number(seen.overdue)}", "bold red" if seen.overdue else "")
    )
    line = Text.assemble(
        ("liveness", "bold"), f"  {printable(seen.now)[:19]}Z", no_wrap=True
    )
    numbers = Text("   ").join(Text(text, style) for text, style in parts)
    numbers.no_wrap = True
    return [line, numbers]


def _lateness(seen: Fleet, width: int) -> list[Text]:
    """A block for each minute of the last hour, the higher the later."""
    from rich.text import Text

    minutes, now = seen.recent.minutes, seen.now.replace(second=0, microsecond=0)
    claimed = sum(minute.claimed for minute in minutes.values())
    worst = max((minute.most for minute in minutes.values()), default=0.0)
    said = f"lateness  {claimed} claimed in an hour"
    said += f", at most {span(worst)} late" if claimed else ""
    due = Text("; now nothing is due")
    if seen.late is not None:
        style = "bold red" if seen.late > seen.grace else "yellow"
        due = Text.assemble("; ", (f"now due for {span(seen.late)}", style))
    plot = Text(f"{now - timedelta(minutes=59):%H:%M} ", "dim", no_wrap=True)
    for ago in range(59, -1, -1):
        minute = minutes.get(now - timedelta(minutes=ago))
        if minute is None or not minute.claimed:
            plot.append("·", "dim")
        else:
            style = "bold red" if minute.most > seen.grace else "cyan"
            plot.append(block(minute.most), style)
    plot.append(f" {now:%H:%M}", "dim")
    first = Text.assemble(said, due, no_wrap=True, overflow="ellipsis")
    return [Text(), first, plot]


def block(late: float) -> str:
    """The block for so many seconds."""
    part = math.log(max(late, LEAST) / LEAST) / math.log(MOST / LEAST)
    return BLOCKS[min(int(part * len(BLOCKS)), len(BLOCKS) - 1)]


def _table(*columns: tuple[str, int], right: Sequence[str] = ()) -> Table:
    """Columns by name, and which part of what is left each takes; 0: what it needs."""
    from rich.table import Table

    table = Table(box=None, expand=True, padding=(0, 2, 0, 0), header_style="bold dim")
    for name, ratio in columns:
        table.add_column(
            name,
            no_wrap=True,
            overflow="ellipsis",
            ratio=ratio or None,
            justify="right" if name in right else "left",
        )
    return table


def _engines(seen: Fleet, width: int, rows: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    wide = width >= WIDE
    names = (("state", 0), ("lease", 0), ("left", 0), ("engine", 0), ("host", 1))
    table = _table(*names, ("pid", 0), right=("left", "pid"))
    shown = troubled_first(seen.engines)
    more = len(shown) - rows
    for each in shown[: rows - 1 if more > 0 else rows]:
        table.add_row(*_engine(each, 30 if wide else 12, wide))
    if more > 0:
        table.add_row("", Text(f"and {more + 1} more", "dim"))
    if not shown:
        table.add_row(Text("none", "bold red"), Text("no living engine", "bold red"))
    return Group(Text(), table)


def _engine(shown: ShownEngine, bar: int, wide: bool) -> list[Text | str]:
    from rich.text import Text

    engine, state = shown.engine, state_of(shown)
    sign, style = SIGNS.get(state, ("?", ""))
    cells: list[Text | str] = [Text(f"{sign} {printable(state)}", style)]
    left = shown.lease_left
    if left is None:
        ended = engine.ended_at
        ago = span((shown.now - ended).total_seconds()) if ended else ""
        cells += [Text(f"{ago} ago" if ago else "", "dim"), ""]
    else:
        part = min(max(left / engine.ttl, 0.0), 1.0)
        full = round(part * bar)
        colour = "cyan" if part > 0.5 else "yellow" if part > 0 else "bold red"
        drawn = Text.assemble(("█" * full, colour), ("░" * (bar - full), "dim"))
        cells += [drawn, f"{left:.1f} s"]
    name = printable(engine.id) if wide else short(engine.id)
    return [*cells, Text(name), Text(printable(engine.host)), str(engine.pid)]


def _takeovers(seen: Fleet, width: int, rows: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    names = (("takeovers", 0), ("whose", 0), ("what befell it", 3), ("moved", 0))
    table = _table(*names, ("to", 2), right=("moved",))
    for one in seen.recent.takeovers[:rows]:
        heirs = ", ".join(f"{n} {short(heir)}" for heir, n in one.heirs.most_common(3))
        table.add_row(
            f"{one.at:%H:%M:%S}",
            Text(short(one.victim)),
            Text(_befell(one)),
            str(one.moved.total()),
            Text(heirs),
        )
    if not seen.recent.takeovers:
        table.add_row(Text("none", "dim"), "", Text("in the last hour", "dim"))
    return Group(Text(), table)


def _befell(one: Takeover) -> str:
    if one.ended == "fenced":
        _, _, why = printable(one.evidence).rpartition(": ")  # where it was, is known
        return f"fenced by {short(one.by) if one.by else 'operator'}: {why}"
    if one.ended == "stopped":
        return "stopped in good order"
    return "handed back" if one.victim is None else "it let them lie"


def _events(events: Sequence[Event]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    names = (("latest", 0), ("what", 0), ("subject", 1), ("by", 0), ("detail", 1))
    table = _table(*names)
    for event in events:
        subject = short(event.about_id or event.engine_id)
        if event.key is not None:
            subject = f"{printable(event.kind)}/{printable(event.key)}"
        by = short(event.engine_id) if event.engine_id else "operator"
        at = f"{event.at:%H:%M:%S}" if event.at else ""
        cells = (at, printable(event.what), subject, by, printable(event.detail))
        table.add_row(*(Text(cell) for cell in cells))
    return Group(Text(), table)
