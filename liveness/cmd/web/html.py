"""Text becomes HTML here, and nowhere else."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from liveness.cmd import glance
from liveness.cmd.output import printable

Cells = Sequence[str]
"""Each is HTML."""


def e(value: Any) -> str:
    """A value as text in HTML, on one line."""
    return html.escape(printable(value))


def short(engine_id: str | None) -> str:
    """An engine's id as text in HTML, or as much of it as tells it from others."""
    return html.escape(glance.short(engine_id))


def named(engine_id: str | None) -> str:
    """The same, with all of it for the mouse."""
    if engine_id is None:
        return "nobody"
    return f'<span class="id" title="{e(engine_id)}">{short(engine_id)}</span>'


def listed(parts: Sequence[str]) -> str:
    """``parts``, which are HTML, with commas; a line breaks only between them."""
    commas = [f"{part}," for part in parts[:-1]] + list(parts[-1:])
    return " ".join(f'<span class="whole">{part}</span>' for part in commas)


def link(where: str, text: str) -> str:
    """``text``, which is HTML, leads to ``where``, which is not."""
    return f'<a href="{html.escape(where)}">{text}</a>'


def count(number: int, most: int) -> str:
    """A number that was counted no further than ``most``."""
    return (
        f"{number:,}+".replace(",", " ")
        if number >= most
        else f"{number:,}".replace(",", " ")
    )


def table(
    caption: str,
    names: Sequence[str],
    rows: Iterable[Cells],
    nothing: str,
    numbers: Sequence[str] = (),
) -> str:
    """A table that scrolls by itself where there is no room; the columns that are
    ``numbers`` are aligned to the right. ``caption`` is for who cannot see it."""
    right = [' class="n"' if name in numbers else "" for name in names]
    lines = [
        "<tr>"
        + "".join(f"<td{how}>{cell}</td>" for how, cell in zip(right, row, strict=True))
        + "</tr>"
        for row in rows
    ]
    if not lines:
        return f'<p class="nothing">{nothing}</p>'
    head = "".join(
        f'<th scope="col"{how}>{name}</th>'
        for how, name in zip(right, names, strict=True)
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{e(caption)}">'
        f'<table><caption class="away">{e(caption)}</caption>\n<thead><tr>{head}</tr>'
        "</thead>\n<tbody>" + "\n".join(lines) + "</tbody></table></div>"
    )


def document(title: str, body: str, refresh: float | None) -> str:
    """A whole page."""
    again = f'<meta http-equiv="refresh" content="{refresh:g}">\n' if refresh else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{again}<link rel="stylesheet" href="/style.css">
</head>
<body>
{body}
</body>
</html>
"""
