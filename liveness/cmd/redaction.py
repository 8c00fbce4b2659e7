"""What is not shown of a payload or a reason: values whose names sound like secrets.

One piece of code for the command line and for the page. It hides rather too much.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

HIDDEN = "***"
TOO_DEEP = "*** (nested too deep to be looked through)"

# Possessive, and from the beginning of a name only: time grows with the text's length,
# whatever is in it.
_NAMED = re.compile(
    r"(?<![\w.\-])(?P<name>[\w.\-]++)(?:\\*[\"']?\s*+(?:=>|:=|[=:])\s*+|\s++)"
)
_VALUE = re.compile(
    r"""(?P<quote>["'])(?:[^"'\\]|\\.|(?!(?P=quote))["'])*+(?P=quote)?"""
    r"""|[{\[\\].*"""  # where that ends is hard to say
    r"""|(?:bearer|basic|digest|token)\s+\S+|[^\s&]+""",
    re.IGNORECASE | re.DOTALL,
)
_IN_ONE = re.compile(r"\S+")

NAMES = frozenset(("name", "key", "variable", "parameter"))
VALUES = frozenset(("value", "values", "default", "content", "data"))
"""``{"name": "PASSWORD", "value": "..."}`` is a way to write a pair."""


class Redaction:
    """Hides what is named by one of ``words``, whatever the case, with ``_``, ``-``,
    ``.`` and blanks left out."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words = [bare for word in words if (bare := _bare(word))]

    def of(self, value: Any) -> Any:
        """``value``, which is JSON, without secrets."""
        try:
            return self._of(value)
        except RecursionError:
            return TOO_DEEP

    def text(self, text: str) -> str:
        """``text`` without passwords of URLs, and without what stands after a name that
        sounds like a secret: ``name=value``, ``name: value``, ``--name value``."""
        return self._without_values(_IN_ONE.sub(_without_credentials, text))

    def secret(self, name: str) -> bool:
        """True when the name says that its value is one."""
        bare = _bare(name)
        return any(word in bare for word in self._words)

    # --- what is in what --------------------------------------------------------

    def _of(self, value: Any) -> Any:
        match value:
            case dict():
                return self._pairs(value)
            case list() | tuple():
                return self._items(value)
            case str():
                return self._string(value)
        return value

    def _pairs(self, pairs: dict[Any, Any]) -> dict[str, Any]:
        named = any(
            isinstance(value, str) and self.secret(value)
            for name, value in pairs.items()
            if _bare(str(name)) in NAMES
        )
        return {
            self.text(name): HIDDEN
            if self.secret(name) or (named and _bare(name) in VALUES)
            else self._of(value)
            for name, value in ((str(key), value) for key, value in pairs.items())
        }

    def _items(self, items: Iterable[Any]) -> list[Any]:
        """Of ``["--password", "x"]`` too, and of ``["password", "x"]``."""
        shown: list[Any] = []
        before: Any = None
        for item in items:
            after_name = isinstance(before, str) and self.secret(before)
            lone = after_name and re.fullmatch(r"[\w.\-]+:?", before) is not None
            shown.append(HIDDEN if lone else self._of(item))
            before = item
        return shown

    def _string(self, text: str) -> str:
        """JSON within text is looked through as well."""
        if text.lstrip()[:1] in ("{", "[", '"'):
            try:
                inner = json.loads(text)
            except (ValueError, RecursionError):
                pass
            else:
                return json.dumps(self._of(inner), ensure_ascii=False)
        return self.text(text)

    def _without_values(self, text: str) -> str:
        parts, at = [], 0
        while found := _NAMED.search(text, at):
            end = found.end()
            said = found.group()[len(found["name"]) :]
            pair = bool(said.strip()) or found["name"].startswith("-")
            parts.append(text[at:end])
            at = end
            if pair and self.secret(found["name"]):
                if value := _VALUE.match(text, at):
                    parts.append(HIDDEN)
                    at = value.end()
        return "".join(parts) + text[at:]


def _bare(name: str) -> str:
    return re.sub(r"[_\-.\s]", "", name).lower()


def _without_credentials(found: re.Match[str]) -> str:
    scheme, colons, rest = found.group().partition("://")
    login, at, place = rest.rpartition("@")
    if not (colons and at):
        return found.group()
    user, colon, _ = login.partition(":")
    if not colon and "/" in login:
        return found.group()
    return f"{scheme}://{user + ':' if colon else ''}{HIDDEN}@{place}"
