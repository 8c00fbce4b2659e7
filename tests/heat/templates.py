"""Templates of the scenarios, as the dictionaries that Heat's RPC takes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from typing import Any

VERSION = "2021-04-16"


def template(**resources: dict) -> dict:
    return {"heat_template_version": VERSION, "resources": resources}


def resource(
    kind: str = "Server", needs: Iterable[str] = (), **properties: Any
) -> dict:
    """One resource of the suite's own types, made after those that it needs."""
    if needs:
        properties["needs"] = [{"get_attr": [name, "value"]} for name in needs]
    return {"type": f"Liveness::{kind}", "properties": properties}


def chain(n: int, kind: str = "Server", **properties: Any) -> dict:
    """r0, then r1, then r2, ..."""
    return template(
        **{
            f"r{i}": resource(kind, [f"r{i - 1}"] if i else [], **properties)
            for i in range(n)
        }
    )


def crowd(n: int, kind: str = "Server", **properties: Any) -> dict:
    """n resources that need nothing of each other."""
    return template(**{f"r{i}": resource(kind, **properties) for i in range(n)})


def fan(n: int, kind: str = "Server", **properties: Any) -> dict:
    """A first, n that need it, and a last that needs them all."""
    middle = [f"r{i}" for i in range(n)]
    return template(
        first=resource(kind, **properties),
        **{name: resource(kind, ["first"], **properties) for name in middle},
        last=resource(kind, middle, **properties),
    )


def nested(inner: dict, n: int = 1, **outer: dict) -> tuple[dict, dict[str, str]]:
    """A template of n nested stacks `child0`, ..., and its files."""
    children = {f"child{i}": {"type": "inner.yaml"} for i in range(n)}
    # A file is YAML, and JSON is YAML.
    return template(**children, **outer), {"inner.yaml": json.dumps(inner)}


def changed(original: dict, *names: str, **properties: Any) -> dict:
    """`original` with other properties for the named resources, or for all."""
    other = copy.deepcopy(original)
    for name in names or other["resources"]:
        other["resources"][name]["properties"].update(properties)
    return other
