"""Timestamps that PostgreSQL knows and Python does not.

One row that says ``infinity``, or a year of five digits, would otherwise be an error
of every statement that reads it, and nothing else would be found either.
"""

from __future__ import annotations

import functools
from datetime import datetime
from typing import Any

import psycopg
from psycopg.adapt import Loader


def bound(connection: psycopg.Connection[Any]) -> None:
    """Afterwards ``connection`` reads such timestamps as the last, or the first, that
    Python knows."""
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
