"""The four formats, written row by row: a list of any length is never held.

A table's columns are as wide as its first rows need, and fit the terminal. What cannot
be printed is written as an escape where people read, and as it is where programs do.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from cliff import utils
from cliff.formatters.base import SingleFormatter
from cliff.formatters.commaseparated import CSVLister
from cliff.formatters.json_format import JSONFormatter
from cliff.formatters.table import TableFormatter
from cliff.formatters.value import ValueFormatter

SAMPLE = 500
"""Rows that a table's widths are taken from."""

NARROWEST = 8
"""Characters that a column keeps, whatever the terminal."""


def printable(value: Any) -> str:
    """One line of text for a person, with escapes for what a terminal would obey."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return moment(value)
    structured = isinstance(value, (dict, list))
    text = json.dumps(value) if structured else str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def moment(value: datetime) -> str:
    """A UTC moment, to the millisecond, as text that sorts."""
    return value.strftime("%Y-%m-%d %H:%M:%S.") + f"{value.microsecond // 1000:03}Z"


def span(value: float) -> str:
    """A time span in words: 12 ms, 3.4 s, 5 min, 2.5 h, 3 d."""
    size = abs(value)
    for unit, name, digits in (
        (86400.0, "d", 1),
        (3600.0, "h", 1),
        (60.0, "min", 1),
        (1.0, "s", 1),
    ):
        if size >= (2 if unit > 1 else 1) * unit:
            text = f"{value / unit:.{digits}f}".removesuffix(".0")
            return f"{text} {name}"
    return f"{value * 1000:.0f} ms"


def exact(value: Any) -> Any:
    """The value for a program: times in ISO 8601, everything else as it is."""
    return value.isoformat() if isinstance(value, datetime) else value


class Table(TableFormatter):
    """cliff's table, row by row, each row one line."""

    def emit_list(
        self, column_names: Any, data: Any, stdout: Any, parsed_args: Any
    ) -> None:
        rows = iter(data)
        first = list(itertools.islice(rows, SAMPLE))
        if not first and not parsed_args.print_empty:
            stdout.write("\n")
            return
        shown = [[printable(cell) for cell in row] for row in first]
        widths = [
            max([len(name), *(len(row[at]) for row in shown)])
            for at, name in enumerate(column_names)
        ]
        fits = parsed_args.max_width or utils.terminal_width()
        if fits:
            widths = _shrunk(widths, fits - 1 - 3 * len(widths))
        right = [
            bool(first) and isinstance(first[0][at], (int, float))
            for at in range(len(widths))
        ]
        rule = "+".join(["", *("-" * (width + 2) for width in widths), "\n"])
        stdout.write(rule + _line(column_names, widths, right) + rule)
        rest = ([printable(cell) for cell in row] for row in rows)
        for row in itertools.chain(shown, rest):
            stdout.write(_line(row, widths, right))
        stdout.write(rule)

    def emit_one(
        self, column_names: Any, data: Any, stdout: Any, parsed_args: Any
    ) -> None:
        cells = [printable(value) for value in data]
        super().emit_one(column_names, cells, stdout, parsed_args)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    parts = []
    for text, width, flush in zip(cells, widths, right, strict=True):
        if len(text) > width:
            text = text[: max(width - 1, 0)] + "…"
        parts.append(text.rjust(width) if flush else text.ljust(width))
    return "| " + " | ".join(parts) + " |\n"


def _shrunk(widths: list[int], room: int) -> list[int]:
    """Take from the widest columns until all fit, or each is as narrow as may be."""
    widths = list(widths)
    while sum(widths) > room:
        at = widths.index(max(widths))
        if widths[at] <= NARROWEST:
            break
        widths[at] -= 1
    return widths


class JSON(JSONFormatter):
    """cliff's JSON, object by object."""

    def emit_list(
        self, column_names: Any, data: Any, stdout: Any, parsed_args: Any
    ) -> None:
        indent = None if parsed_args.noindent else 2
        before, end = "[", "]\n"
        for row in data:
            one = dict(zip(column_names, map(exact, row), strict=True))
            text = json.dumps(one, indent=indent)
            if indent:
                before += "\n"
                text = "\n".join(" " * indent + line for line in text.splitlines())
                end = "\n]\n"
            stdout.write(before + text)
            before = "," if indent else ", "
        stdout.write(end if before != "[" else "[]\n")

    def emit_one(
        self, column_names: Any, data: Any, stdout: Any, parsed_args: Any
    ) -> None:
        values = [exact(value) for value in data]
        super().emit_one(column_names, values, stdout, parsed_args)


class CSV(CSVLister, SingleFormatter):
    """cliff's CSV, and of a single object a heading and one line."""

    def emit_list(
        self, column_names: Any, data: Any, stdout: Any, parsed_args: Any
    ) -> None:
        rows = ([_cell(value) for value in row] for row in data)
        super().emit_list(column_names, rows, stdout, parsed_args)

    def emit_one(
        self, column_names: Any, data: Any, stdout: Any, parsed_args: Any
    ) -> None:
        self.emit_list(column_names, [data], stdout, parsed_args)


def _cell(value: Any) -> Any:
    """csv writes a list or dict as Python does; JSON is what others can read."""
    return json.dumps(value) if isinstance(value, (dict, list)) else exact(value)


class Value(ValueFormatter):
    """cliff's bare values, each row one line; - for none, so that a script can count
    the columns."""

    def emit_list(
        self, column_names: Any, data: Any, stdout: Any, parsed_args: Any
    ) -> None:
        rows = ([printable(value) or "-" for value in row] for row in data)
        super().emit_list(column_names, rows, stdout, parsed_args)

    def emit_one(
        self, column_names: Any, data: Any, stdout: Any, parsed_args: Any
    ) -> None:
        cells = [printable(value) for value in data]
        super().emit_one(column_names, cells, stdout, parsed_args)


FORMATS: dict[str, Callable[[], Any]] = {
    "table": Table,
    "json": JSON,
    "csv": CSV,
    "value": Value,
}


def primed(rows: Iterable[Any]) -> Iterator[Any]:
    """``rows``, of which the first is there already: what goes wrong at the start
    does so before anything is written."""
    iterator = iter(rows)
    first = list(itertools.islice(iterator, 1))
    return itertools.chain(first, iterator)
