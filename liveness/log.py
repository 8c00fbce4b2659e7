"""Log lines: each one line of text, with the same facts in fields for programs.

What a line is about (``event``, ``engine``, and the deadline among its arguments) goes
into the record's ``extra``, where oslo.log's JSON and fluent formatters show it. The
text is as it would be without.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from liveness.model import Deadline

FIELDS = ("event", "engine_id", "kind", "key", "epoch", "attempts")
"""What a line may have, beside its text."""


def get(name: str) -> Log:
    """The logger of that name, whose lines may say ``event=`` and ``engine=``."""
    return Log(logging.getLogger(name))


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger that keeps to one line, and never hands out a deadline's payload."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """As :meth:`logging.Logger.log`, with the keywords of :meth:`process`."""
        if not self.isEnabledFor(level):
            return
        for argument in args:
            if isinstance(argument, Deadline):
                kwargs["deadline"] = argument
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # this one is not it
        # A formatter that shows the arguments themselves would show the payload.
        super().log(level, msg, *map(_plain, args), **kwargs)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Make fields of ``event``, ``engine`` (an id) and ``deadline``."""
        event, engine = kwargs.pop("event", None), kwargs.pop("engine", None)
        fields = {"event": event, "engine_id": engine}
        value: Deadline | None = kwargs.pop("deadline", None)
        if value is not None:
            fields |= {
                "engine_id": engine or value.owner_id,
                "kind": value.kind,
                "key": value.key,
                "epoch": value.epoch,
                "attempts": value.attempts,
            }
        fields = {name: fact for name, fact in fields.items() if fact is not None}
        # oslo.log's formatters look for their names there.
        kwargs["extra"] = {**kwargs.get("extra", {}), **fields, "extra_keys": [*fields]}
        return msg, kwargs


def _plain(argument: object) -> object:
    """A number as it is; all else as text that neither begins a line nor moves a
    cursor."""
    if isinstance(argument, (int, float)):
        return argument
    text = str(argument)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
