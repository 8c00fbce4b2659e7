"""Where Heat's code is entered: each wrapper does Heat's own thing while this process
has no engine of ours, and never fails for ours.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

from heat.db import api as db_api
from heat.engine import check_resource, resource, service, stack, worker
from heat.rpc import listener_client
from oslo_config import cfg

from liveness.heat import guards, names, timers
from liveness.heat.engine import HeatEngine, current
from liveness.heat.peers import Life

LOG = logging.getLogger(__name__)


def install() -> None:
    """Wrap what has to be wrapped, in this process and what is forked from it."""
    _wrap(worker.WorkerService, "start", start)
    _wrap(worker.WorkerService, "check_resource", run_action)
    _wrap(worker.WorkerService, "check_resource_delete_snapshot", run_snapshot)
    _wrap(service.EngineService, "stop", stop)
    _wrap(service.ThreadGroupManager, "add_msg_queue", guards.catch_queue)
    _wrap(resource.Resource, "resource_id_set", write_physical_id)
    _wrap(listener_client.EngineListenerClient, "__init__", remember_engine)
    _wrap(listener_client.EngineListenerClient, "is_alive", is_alive)
    _wrap(check_resource.CheckResource, "_stale_resource_needs_retry", lock_is_stale)
    _wrap(stack.Stack, "converge_stack", timers.converge)
    _wrap(db_api, "stack_create", timers.created)
    _wrap(db_api, "stack_update", timers.updated)
    _wrap(db_api, "stack_delete", timers.deleted)


def _wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    setattr(owner, name, wrapped)


# --- an engine's life -------------------------------------------------------


def start(original: Callable[..., Any], self: Any) -> None:
    """A worker opens its queue: be registered before the first message comes."""
    try:
        HeatEngine(self.engine_id, self.thread_group_mgr, cfg.CONF).begin()
    except Exception as error:
        LOG.error(
            "LIVENESS IS NOT ACTIVE in engine %s: %s Heat goes on without it.",
            self.engine_id,
            error,
        )
    original(self)


def stop(original: Callable[..., Any], self: Any) -> None:
    """A worker drains: what it cannot finish in time is handed over."""
    engine = current()
    if engine is not None:
        engine.begin_stop(_patience())
    original(self)
    if engine is not None:
        engine.end()


def _patience() -> float:
    """Seconds until the launcher kills what has not ended; 0: it never does."""
    try:
        return float(cfg.CONF.graceful_shutdown_timeout)
    except cfg.NoSuchOptError:  # no launcher
        return 0.0


# --- what runs under a guard --------------------------------------------------


def run_action(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Write a resource action down before it runs, and that it is done after."""
    engine = current()
    if engine is None:
        return original(*args, **kwargs)
    if engine.over:
        LOG.error("A fenced engine runs no resource action.")
        return None
    values = _arguments(original, args, kwargs)
    action = names.Action(
        resource=values.get("resource_id", ""),
        traversal=values.get("current_traversal", ""),
        is_update=values.get("is_update", True),
        node_type=values.get("node_type", "resource"),
        abandon=values.get("abandon"),
        adopt=values.get("adopt_stack_data") is not None,
        engine=engine.engine_id,
        host=engine.host,
    )
    with engine.guards.guard(names.ACTION, action):
        return original(*args, **kwargs)


def run_snapshot(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The same for a resource's part of a snapshot that a user deletes."""
    engine = current()
    if engine is None:
        return original(*args, **kwargs)
    values = _arguments(original, args, kwargs)
    part = names.SnapshotDelete(
        snapshot_id=values.get("snapshot_id", ""),
        resource_name=values.get("resource_name", ""),
        start_time=values.get("start_time"),
        is_stack_delete=values.get("is_stack_delete", False),
        current_traversal=values.get("current_traversal"),
    )
    with engine.guards.guard(names.SNAPSHOT, part):
        return original(*args, **kwargs)


def _arguments(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by name, with the defaults of this release of Heat; none
    for a call that Heat is about to refuse."""
    try:
        given = inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return {}
    given.apply_defaults()
    return given.arguments


# --- the fence ------------------------------------------------------------------


def write_physical_id(original: Callable[..., Any], self: Any, inst: Any) -> None:
    """A fenced engine writes nothing: another has the resource."""
    engine = current()
    if engine is None or not engine.over:
        original(self, inst)
    elif inst is not None:
        LOG.error(
            "ORPHAN: %s of resource %s (%s) was made by an engine that had been fenced;"
            " nothing in Heat refers to it.",
            inst,
            self.name,
            self.id,
        )


def remember_engine(original: Callable[..., Any], self: Any, engine_id: str) -> None:
    """Heat's client forgets whom it asks."""
    self.liveness_engine_id = engine_id
    original(self, engine_id)


def is_alive(original: Callable[..., Any], self: Any, context: Any) -> Any:
    """Heat's ping of two seconds is no proof of death; the table is, where it knows."""
    engine = current()
    if engine is not None:
        life = engine.peers.life(self.liveness_engine_id)
        if life is not Life.UNKNOWN:
            return life is Life.ALIVE
    return original(self, context)


def lock_is_stale(
    original: Callable[..., Any], self: Any, context: Any, rsrc: Any, *args: Any
) -> Any:
    """Heat takes the lock of a dead engine without looking whether it still has it. Of
    an engine of ours, whoever claims its action does that, and sends this message
    again."""
    engine = current()
    if engine is not None and engine.dead_lock(rsrc.id):
        return False
    return original(self, context, rsrc, *args)
