"""The live view, and plain lines where there is no terminal."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from liveness.demo.database import EngineRow
from liveness.demo.plan import ACTION, TIMER
from liveness.demo.stage import Happening, Stage

FIXED = (4, 3, 5)
"""Lines of the header, around the engines, and of the deadlines."""
STORY = 7
"""Lines that the story has at least."""
STATUS_EVERY = 2.0
INTRODUCTION = (
    "Engines share one database. Each beats in its row, and writes down, as deadlines,"
    " what must not be forgotten: a timer for each stack, a row for each action in"
    " progress. One engine will be killed and one frozen. What they had, the others"
    " take over: a timer keeps its due time, an action is run again. Nothing is lost,"
    " and nothing is done too soon."
)


class View(Protocol):
    """Shows a stage, frame by frame."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def show(self, stage: Stage, coming: str) -> None:
        """Show one frame; ``coming`` is what happens next."""


def view_for(console: Console, database: str) -> View:
    """The live view on a terminal, else plain lines."""
    if console.is_terminal:
        return Screen(console, database)
    return Lines(console)


class Lines:
    """Each happening as a line, and now and then where things stand."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told = 0
        self._next_status = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def show(self, stage: Stage, coming: str) -> None:
        for happening in stage.happenings[self._told :]:
            self._line(happening.at, happening.text)
        self._told = len(stage.happenings)
        if stage.begun is not None and stage.clock >= self._next_status:
            self._next_status = stage.clock + STATUS_EVERY
            states = Counter(row.state for row in stage.snapshot.deadlines)
            now = ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
            engines = f"{len(stage.living)} engines live"
            self._line(stage.clock, f"  {engines}; {now or 'no deadlines'}; {coming}")

    def _line(self, at: float, text: str) -> None:
        self._console.print(
            f"{at:6.2f} s  {text}", markup=False, highlight=False, soft_wrap=True
        )


class Screen:
    """The whole terminal; when it closes, the story is left behind."""

    def __init__(self, console: Console, database: str) -> None:
        self._console = console
        self._database = database
        self._live = Live(console=console, screen=True, auto_refresh=False)
        self._stage: Stage | None = None

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)
        if self._stage is not None and error is None:
            story = sorted(self._stage.happenings, key=lambda h: h.at)
            for happening in story:
                self._console.print(_told(happening))

    def show(self, stage: Stage, coming: str) -> None:
        self._stage = stage
        self._live.update(self._frame(stage, coming), refresh=True)

    def _frame(self, stage: Stage, coming: str) -> RenderableType:
        width, height = self._console.size
        bar = 20 if width >= 100 else 10
        room = max(height - sum(FIXED) - STORY, 3)
        rows = min(room, max(len(stage.snapshot.engines), stage.plan.engines))
        frame = Layout()
        frame.split_column(
            Layout(self._header(stage, coming), size=FIXED[0]),
            Layout(_engines(stage, rows, bar), size=FIXED[1] + rows),
            Layout(_deadlines(stage, bar), size=FIXED[2]),
            Layout(_story(stage, width - 4, height - sum(FIXED) - rows - 2)),
        )
        return frame

    def _header(self, stage: Stage, coming: str) -> RenderableType:
        plan = stage.plan
        about = Text.assemble(
            ("liveness demo", "bold"),
            f"  {plan.engines} engines, {plan.deadlines} deadlines, seed {plan.seed}",
            (f"  {self._database}", "dim"),
            no_wrap=True,
            overflow="ellipsis",
        )
        clock = Text.assemble(
            (f"{stage.clock:.1f} s", "bold"),
            "  next: ",
            (coming, "bold yellow"),
            no_wrap=True,
            overflow="ellipsis",
        )
        return Panel(Group(about, clock))


def _engines(stage: Stage, rows: int, bar: int) -> RenderableType:
    """A line for each engine; where there is no room, for those of the story."""
    table = Table(expand=True, box=None, padding=(0, 1))
    for name in ("engine", "pid", "state", "lease"):
        table.add_column(name, no_wrap=True)
    for name in ("beat", "owns", "took over"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    engines = sorted(stage.snapshot.engines, key=lambda e: (_dull(stage, e), e.started))
    shown = engines if len(engines) <= rows else engines[: rows - 1]
    for engine in sorted(shown, key=lambda e: (e.slot, e.started)):
        table.add_row(
            stage.short(engine.id),
            str(engine.pid),
            _state(stage, engine),
            _lease(engine, bar),
            str(engine.beat_seq),
            str(stage.owned_by(engine.id)),
            str(stage.taken[engine.id]),
        )
    if len(shown) < len(engines):
        table.add_row("", "", Text(f"and {len(engines) - len(shown)} more", "dim"))
    for _ in range(min(rows, stage.plan.engines) - len(engines)):
        table.add_row("", "", Text("starting", "dim"))
    return Panel(table)


def _dull(stage: Stage, engine: EngineRow) -> bool:
    """True for an engine of which there is nothing to tell."""
    in_story = (
        engine.ended or stage.taken[engine.id] or stage.names[engine.id][-1] > "9"
    )
    return not (in_story or stage.is_frozen(engine))


def _state(stage: Stage, engine: EngineRow) -> Text:
    killed = stage.killed is not None and engine.id == stage.killed.engine
    if engine.state == "fenced":
        by = stage.short(engine.fenced_by or "")
        return Text(f"{'killed, ' if killed else ''}fenced by {by}", "red")
    if killed:
        return Text("killed", "bold red")
    if stage.is_frozen(engine):
        return Text("frozen", "bold cyan")
    return Text(engine.state, "green" if engine.state == "live" else "dim")


def _lease(engine: EngineRow, bar: int) -> Text:
    if engine.ended is not None:
        return Text("over", "dim")
    if engine.left <= 0:
        return Text(f"lapsed {-engine.left:.1f} s ago", "bold red")
    part = min(engine.left / engine.ttl, 1.0)
    style = "green" if part > 0.6 else "yellow" if part > 0.3 else "red"
    return Text.assemble(_bar(part, style, bar), f" {engine.left:.1f} s")


def _deadlines(stage: Stage, bar: int) -> RenderableType:
    table = Table(expand=True, box=None, padding=(0, 1))
    table.add_column("deadlines", no_wrap=True)
    table.add_column("done", no_wrap=True)
    for name in ("armed", "claimed", "parked"):
        table.add_column(name, justify="right")
    rows = Counter((row.kind, row.state) for row in stage.snapshot.deadlines)
    stacks = len(stage.plan.stacks())
    for kind, planned in ((TIMER, stacks), (ACTION, stage.plan.deadlines - stacks)):
        states = [rows[kind, state] for state in ("armed", "claimed", "parked")]
        done = sum(name[0] == kind for name in stage.seen) - sum(states)
        part = Text.assemble(_bar(done / planned, "blue", bar), f" {done} of {planned}")
        table.add_row(kind, part, *(str(number) for number in states))
    return Panel(table)


def _bar(part: float, style: str, width: int) -> Text:
    full = round(min(max(part, 0.0), 1.0) * width)
    return Text.assemble(("█" * full, style), ("░" * (width - full), "dim"))


def _story(stage: Stage, width: int, room: int) -> RenderableType:
    story = sorted(stage.happenings, key=lambda happening: happening.at)
    lines: list[RenderableType] = [_told(happening) for happening in story]
    if len(INTRODUCTION) // width + 2 + len(lines) <= room:
        lines.insert(0, Text(INTRODUCTION, "dim"))
    return Panel(Group(*lines[-max(room, 1) :]))


def _told(happening: Happening) -> Text:
    return Text.assemble(
        (f"{happening.at:6.2f} s  ", "dim"), (happening.text, happening.style)
    )
