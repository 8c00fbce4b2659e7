"""What a create had made when its engine died before it wrote the id down.

Heat asks the cloud first and writes the id after. Where the thing has Heat's own name
for the resource, which no other resource has, it can be found again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

LOG = logging.getLogger(__name__)


def find(rsrc: Any) -> str | None:
    """The physical id of the one thing that has the resource's own name; None when
    there is none, or it cannot be told. A resource class may have a method of its own
    for this, ``liveness_find()``, with the same answer."""
    own = getattr(rsrc, "liveness_find", None)
    finder = own or _finder(rsrc)
    if finder is None:
        return None
    try:
        found: str | None = finder()
    except Exception:
        LOG.warning("What %s has made cannot be looked up.", rsrc.name, exc_info=True)
        return None
    return found


def tidy(rsrc: Any) -> None:
    """Remove what an interrupted create had prepared, and a second would prepare again:
    the ports that a server makes for itself."""
    remove = getattr(rsrc, "_delete_internal_ports", None)
    if remove is None:
        return
    try:
        remove()
    except Exception:
        LOG.warning("Ports of %s may be left over.", rsrc.name, exc_info=True)


def _finder(rsrc: Any) -> Callable[[], str | None] | None:
    look = LOOKUPS.get(str(rsrc.default_client_name), None)
    if look is None or rsrc.entity is None or _named_by_user(rsrc):
        return None
    return lambda: _only(look(rsrc, rsrc.physical_resource_name()))


def _named_by_user(rsrc: Any) -> bool:
    """His name may be other resources' as well."""
    return rsrc.properties.get("name") is not None


def _only(ids: list[str]) -> str | None:
    return ids[0] if len(ids) == 1 else None


def _in_nova(rsrc: Any, name: str) -> list[str]:
    if rsrc.entity != "servers":
        return []
    pattern = {"name": f"^{re.escape(name)}$"}
    return [s.id for s in rsrc.client().servers.list(search_opts=pattern)]


def _in_cinder(rsrc: Any, name: str) -> list[str]:
    if rsrc.entity != "volumes":
        return []
    return [v.id for v in rsrc.client().volumes.list(search_opts={"name": name})]


def _in_neutron(rsrc: Any, name: str) -> list[str]:
    plural = rsrc.get_resource_plural()
    found = getattr(rsrc.client(), f"list_{plural}")(name=name)
    return [thing["id"] for thing in found[plural]]


LOOKUPS: dict[str, Callable[[Any, str], list[str]]] = {
    "nova": _in_nova,
    "cinder": _in_cinder,
    "neutron": _in_neutron,
}
"""By Heat's name of the service that a class asks."""
