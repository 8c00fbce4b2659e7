"""Every name in the program that could be replaced, and what it stands for now."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

Place = tuple[Any, str]
"""A module, a class or a module's dictionary, and a name in it."""

Names = dict[tuple[int, str], tuple[Any, Any]]
"""By a place (its identity) and a name: the place itself, and what is there."""


def now() -> Names:
    """Of all modules of liveness that are loaded."""
    return {
        (id(place), name): (place, value)
        for place in _places()
        for name, value in list(_inside(place).items())
        if not name.startswith("__")
    }


def differences(before: Names) -> tuple[list[str], list[str]]:
    """The names that stand for something else than ``before``, and those that are new:
    nothing in the program can ask for those."""
    changed, added = [], []
    for key, (place, value) in now().items():
        if key not in before:
            added.append(_title(place, key[1]))
        elif before[key][1] is not value:
            changed.append(_title(place, key[1]))
    return changed, added


def restore(before: Names) -> None:
    """Everything is again what it was ``before``."""
    for key, (place, value) in now().items():
        old = before.get(key, (None, value))[1]
        if key not in before:
            _remove(place, key[1])
        elif old is not value:
            _put(place, key[1], old)


def _places() -> Iterator[Any]:
    modules = [
        module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "liveness"
    ]
    seen: set[int] = set()
    for module in modules:
        yield module
        for value in list(vars(module).values()):
            ours = inspect.isclass(value) and value.__module__.startswith("liveness")
            if (ours or isinstance(value, dict)) and id(value) not in seen:
                seen.add(id(value))
                yield value


def _inside(place: Any) -> dict[str, Any]:
    if isinstance(place, dict):
        return {key: value for key, value in place.items() if isinstance(key, str)}
    return dict(vars(place))


def _title(place: Any, name: str) -> str:
    if isinstance(place, dict):
        return f"[{name!r}]"
    if inspect.isclass(place):
        return f"{place.__module__}.{place.__qualname__}.{name}"
    return f"{place.__name__}.{name}"


def _put(place: Any, name: str, value: Any) -> None:
    if isinstance(place, dict):
        place[name] = value
    else:
        setattr(place, name, value)


def _remove(place: Any, name: str) -> None:
    if isinstance(place, dict):
        del place[name]
    else:
        delattr(place, name)
