"""Timestamps read by Python's own parser, as UTC: PyMySQL's costs twenty times as much,
which is most of what it costs to read an engine or a deadline; and to give a datetime
its zone afterwards costs ten times as much."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pymysql import converters
from pymysql.constants import FIELD_TYPE


def _read(text: str) -> Any:
    try:
        return datetime.fromisoformat(f"{text}+00:00")
    except ValueError:  # MySQL's 0000-00-00
        return converters.convert_datetime(text)


CONVERSIONS = converters.conversions | {
    FIELD_TYPE.DATETIME: _read,
    FIELD_TYPE.TIMESTAMP: _read,
}
"""For ``conv`` of a connection."""
