"""What is around a page, and what pages share."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from liveness.cmd.output import span
from liveness.cmd.redaction import Redaction
from liveness.cmd.web.html import document, e, link, named, table
from liveness.cmd.web.look import Key

if TYPE_CHECKING:
    from liveness.events import Event


@dataclasses.dataclass(frozen=True)
class Frame:
    """What is around a page. ``refresh``: seconds until it loads itself again, or None.
    ``problem``: why it shows what was so ``age`` seconds ago."""

    refresh: float | None
    hides: Redaction
    problem: str | None = None
    age: float = 0.0

    def text(self, value: str | None) -> str:
        """A reason or a detail as HTML, without what sounds like a secret."""
        return e(self.hides.text(value)) if value else ""


def page(
    title: str,
    sections: list[str],
    frame: Frame,
    now: datetime | None = None,
    where: str | None = None,
) -> str:
    when = f"{moment(now)} by the database's clock" if now else ""
    if where and frame.refresh:
        pause = link(f"{where}?still", "pause")
        when += (
            f' · again every {frame.refresh:g} s, <span class="pause">{pause}</span>'
        )
    elif where:
        when += f' · <span class="pause">paused: {link(where, "go on")}</span>'
    links = [
        link("/", "Overview"),
        link("/engines", "Engines"),
        link("/deadlines", "Deadlines"),
    ]
    body = (
        f'<div class="{"old" if frame.problem and now else "new"}"><header>'
        f"<h1>{link('/', 'liveness')}</h1><nav>{' '.join(links)}</nav>"
        f'<span class="when">{when}</span></header>\n{_banner(frame, now)}'
        "<main>\n" + "\n".join(sections) + "\n</main></div>"
    )
    prefix = "✕ " if frame.problem else ""
    return document(prefix + title, body, frame.refresh)


def _banner(frame: Frame, now: datetime | None) -> str:
    if frame.problem is None:
        return ""
    seen = "Nothing has been seen yet."
    if now is not None:
        seen = f"What is below was seen {span(frame.age)} ago, at {moment(now)}."
    return (
        f'<div class="banner" role="alert">Cannot look: {frame.text(frame.problem)}'
        f"<span>{seen}</span></div>\n"
    )


def heading(text: str, more: str) -> str:
    return f"<h2>{e(text)} <small>{e(more)}</small></h2>"


def moment(at: datetime | None, now: datetime | None = None) -> str:
    """A moment, with how long ago that is."""
    if at is None:
        return ""
    ago = f" ({span((now - at).total_seconds())} ago)" if now else ""
    shown = f"{at:%H:%M:%S}" if now and now.date() == at.date() else e(at)
    return f'<time datetime="{at.isoformat()}" title="{e(at)}">{shown}{ago}</time>'


def legend(*items: tuple[str, str]) -> str:
    swatches = "".join(
        f'<li><svg width="14" height="13" aria-hidden="true">{mark}</svg>{text}</li>'
        for mark, text in items
    )
    return f'<ul class="legend">{swatches}</ul>'


def nothing_if(empty: bool, text: str) -> str:
    return f'<p class="nothing">{text}</p>' if empty else ""


def search_link(**wanted: str) -> str:
    return f"/deadlines?{urlencode(wanted)}"


def deadline_link(kind: str, key: str, text: str | None = None) -> str:
    try:
        where = Key(kind, key).link
    except UnicodeError:  # what no browser could ask for
        return e(text or f"{kind}/{key}")
    return link(where, e(text if text is not None else f"{kind}/{key}"))


def away(problem: str, frame: Frame) -> str:
    """The database cannot be looked at, and nothing was seen before."""
    frame = dataclasses.replace(frame, problem=problem)
    return page("liveness: cannot look", [], frame, where="/")


def events(events: list[Event], frame: Frame) -> str:
    names = ("at", "what", "subject", "by", "detail")
    rows = [_event(event, frame) for event in events]
    return table("Latest events", names, rows, "Nothing.")


def _event(event: Event, frame: Frame) -> list[str]:
    subject = named(event.about_id or event.engine_id)
    if event.kind is not None and event.key is not None:
        subject = deadline_link(event.kind, event.key)
    by = named(event.engine_id) if event.engine_id else "an operator"
    return [moment(event.at), e(event.what), subject, by, frame.text(event.detail)]
