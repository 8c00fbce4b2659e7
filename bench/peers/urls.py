"""Database URLs as the drivers want them."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def plain(url: str) -> str:
    """The URL without the name of SQLAlchemy's driver."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(scheme=parts.scheme.partition("+")[0]))
