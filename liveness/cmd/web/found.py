"""The pages of deadlines: a search, and a single one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from liveness import model
from liveness.cmd.output import printable, span
from liveness.cmd.web.frame import Frame, deadline_link, events, heading, moment, page
from liveness.cmd.web.html import e, link, named, table
from liveness.cmd.web.look import ROWS, WINDOWS, Found, Key, One, Search

if TYPE_CHECKING:
    from liveness.db.report import Listed


def search(seen: Found, wanted: Search, frame: Frame) -> str:
    """Deadlines by state, kind and the beginning of a key."""
    from liveness.db.report import WINDOW

    names = ("kind", "key", "state", "owner", "due", "late")
    looked = f"{WINDOWS * WINDOW:,}".replace(",", " ")
    sections = [
        heading("Find deadlines", "this page does not load itself again"),
        _form(wanted),
        table(
            "Deadlines",
            names,
            map(_row, seen.rows),
            f"None among the oldest {looked} rows.",
            ("late",),
        ),
        f'<p class="note">The first {ROWS} of the oldest {looked} rows.'
        " 'liveness-manage deadline list' has all of them.</p>",
    ]
    return page("liveness: deadlines", sections, frame, seen.now)


def _row(row: Listed) -> list[str]:
    owner = named(row.owner_id) if row.owner_id else e(row.owner_state)
    if row.owner_id and row.orphaned:
        owner += f" ({e(row.owner_state)})"
    late = span(row.late) if row.late > 0 else f"in {span(-row.late)}"
    return [
        e(row.kind),
        deadline_link(row.kind, row.key, row.key),
        e(row.state),
        owner,
        moment(row.due_at),
        late if row.state == model.DeadlineState.ARMED else "",
    ]


def _form(wanted: Search) -> str:
    options = "".join(
        f'<option value="{state}"{" selected" if state == wanted.state else ""}>'
        f"{state or 'any'}</option>"
        for state in ("", *model.DeadlineState)
    )
    return (
        '<form method="get" action="/deadlines">'
        f'<label>state<select name="state">{options}</select></label>'
        f'<label>kind<input name="kind" maxlength="64" value="{e(wanted.kind)}">'
        f'</label><label>key begins<input name="prefix" value="{e(wanted.prefix)}"'
        ' maxlength="255"></label><button>Find</button></form>'
    )


def deadline(seen: One, frame: Frame) -> str:
    """One deadline."""
    facts = dict(seen.facts)
    payload, next_ = facts.pop("payload"), facts.pop("next")
    rows = "".join(
        f"<dt>{name}</dt><dd>{_fact(value)}</dd>" for name, value in facts.items()
    )
    shown = json.dumps(payload, indent=2, ensure_ascii=False)
    lines = "\n".join(e(line) for line in shown.split("\n"))
    title = f"{printable(facts['kind'])} / {printable(facts['key'])}"
    sections = [
        heading(title, "one deadline; this page does not load itself again"),
        f"<p>{e(next_)}</p>",
        f"<dl>{rows}</dl>",
        heading("Payload", "values whose names sound like secrets are not shown"),
        '<p class="nothing">None.</p>' if payload is None else f"<pre>{lines}</pre>",
        heading("What befell it", "lately, and its former owners"),
        events(seen.events, frame),
    ]
    return page("liveness: a deadline", sections, frame, seen.now)


def _fact(value: Any) -> str:
    return '<span class="nothing">none</span>' if value is None else e(value)


def missing(wanted: Key, frame: Frame) -> str:
    """There is no such deadline."""
    text = f"There is no deadline {e(wanted.kind)} / {e(wanted.key)}, or no more."
    where = link("/deadlines", "Find deadlines")
    return page("liveness: no deadline", [f"<p>{text}</p><p>{where}</p>"], frame)
