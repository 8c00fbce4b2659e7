"""Timestamps read as UTC, those that PostgreSQL knows and Python does not included.

One row that says ``infinity``, or a year of five digits, would otherwise be an error
of every statement that reads it, and nothing else would be found either. And to give a
datetime its zone afterwards costs ten times as much as to read it with one.
"""

from __future__ import annotations

import functools
from datetime import datetime
from typing import Any

import psycopg
from psycopg.adapt import Loader

TEXT = psycopg.pq.Format.TEXT


def bound(connection: psycopg.Connection[Any]) -> None:
    """Afterwards ``connection`` reads timestamps as UTC, and such ones as the last, or
    the first, that Python knows."""
    oid = psycopg.adapters.types["timestamp"].oid
    for form in psycopg.pq.Format:
        loader = connection.adapters.get_loader(oid, form)
        if loader is not None:
            connection.adapters.register_loader(oid, _bounded(loader))


@functools.cache
def _bounded(loader: Any) -> type[Loader]:
    # The fast loaders, written in C, are no base classes.
    class Bounded(Loader):
        format = loader.format

        def __init__(self, oid: int, context: Any = None) -> None:
            super().__init__(oid, context)
            self._load = loader(oid, context).load

        def load(self, data: Any) -> datetime:
            if self.format == TEXT:
                try:
                    return datetime.fromisoformat(f"{str(data, 'ascii')}+00:00")
                except ValueError:
                    pass  # or another DateStyle
            try:
                moment: datetime = self._load(data)
            except psycopg.DataError:
                early = _is_early(self.format, bytes(data))
                return datetime.min if early else datetime.max  # noqa: DTZ901
            return moment

    return Bounded


def _is_early(form: psycopg.pq.Format, data: bytes) -> bool:
    if form == psycopg.pq.Format.BINARY:  # microseconds since 2000, signed
        return data[0] >= 0x80
    return data.startswith(b"-") or data.endswith(b"BC")
