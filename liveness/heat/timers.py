"""Stack timers: armed and disarmed where Heat writes that a traversal begins or ends.

Heat's write is committed when ours is tried. Ours may fail: the scan arms what is
missing, and a timer whose traversal is over ends by itself.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections.abc import Callable, Mapping
from typing import Any

from heat.common import context as contexts
from heat.objects import stack as stack_objects
from oslo_config import cfg

from liveness import exceptions
from liveness.heat import names
from liveness.heat.engine import HeatEngine, current

LOG = logging.getLogger(__name__)

_abandoning: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "abandoning", default=False
)


def converge(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A stack begins a traversal: remember whether it is an abandon."""
    before = _abandoning.set(bool(kwargs.get("abandon", False)))
    try:
        return original(*args, **kwargs)
    finally:
        _abandoning.reset(before)


def created(
    original: Callable[..., Any], context: Any, values: Mapping[str, Any]
) -> Any:
    """A stack's row is made; its first traversal may begin with it."""
    row = original(context, values)
    engine = current()
    if engine is not None and _in_progress(values):
        _arm(engine, row.id, values)
    return row


def updated(
    original: Callable[..., Any],
    context: Any,
    stack_id: str,
    values: Mapping[str, Any],
    exp_trvsl: str | None = None,
) -> Any:
    """A stack's row changes: a traversal may begin, end, or give way to another."""
    counted = original(context, stack_id, values, exp_trvsl=exp_trvsl)
    engine = current()
    if engine is None or not counted or not exp_trvsl:
        return counted
    traversal = values.get("current_traversal", exp_trvsl)
    if traversal and traversal != exp_trvsl:
        if _in_progress(values):
            _arm(engine, stack_id, values)
        _disarm(engine, stack_id, exp_trvsl)
    elif _ended(values):
        _disarm(engine, stack_id, exp_trvsl)
    return counted


def deleted(original: Callable[..., Any], context: Any, stack_id: str) -> Any:
    """A stack is gone, and not before now is its DELETE over."""
    engine = current()
    traversal = _traversal_of(stack_id) if engine is not None else None
    answer = original(context, stack_id)
    if engine is not None and traversal:
        _disarm(engine, stack_id, traversal)
    return answer


def _traversal_of(stack_id: str) -> str | None:
    try:
        row = stack_objects.Stack.get_by_id(contexts.get_admin_context(), stack_id)
    except Exception as error:
        LOG.info("The timer of stack %s is left: %s", stack_id, error)
        return None
    return None if row is None else str(row.current_traversal)


def _in_progress(values: Mapping[str, Any]) -> bool:
    return bool(
        values.get("status") == "IN_PROGRESS"
        and values.get("convergence")
        and values.get("current_traversal")
    )


def _ended(values: Mapping[str, Any]) -> bool:
    """The state is set, and the row is not merely tidied up after it."""
    if values.get("status") not in ("COMPLETE", "FAILED"):
        return False
    if (values.get("action"), values["status"]) == ("DELETE", "COMPLETE"):
        return False  # it is, when the row is gone
    return "current_traversal" not in values


def _arm(engine: HeatEngine, stack_id: str, values: Mapping[str, Any]) -> None:
    try:
        _write_down(engine, stack_id, values)
    except exceptions.AlreadyArmed:
        LOG.debug("Stack %s has its timer.", stack_id)
    except Exception as error:  # whatever it is, Heat's work goes on
        LOG.warning("Stack %s has no timer: %s", stack_id, error)


def _write_down(engine: HeatEngine, stack_id: str, values: Mapping[str, Any]) -> None:
    timer = names.Timer(
        stack=stack_id,
        traversal=values["current_traversal"],
        action=values["action"],
        abandon=_abandoning.get(),
        engine=engine.engine_id,
        host=engine.host,
    )
    minutes = values.get("timeout")
    seconds = cfg.CONF.stack_action_timeout if minutes is None else minutes * 60
    engine.live.arm(
        names.TIMER,
        timer.key,
        due_in=seconds + engine.settings.timer_grace,
        payload=timer.dump(),
    )


def _disarm(engine: HeatEngine, stack_id: str, traversal: str) -> None:
    """Whoever armed it."""
    try:
        found = engine.live.find(names.TIMER, names.timer_key(stack_id, traversal))
        if found is not None:
            with contextlib.suppress(exceptions.StaleDeadline):
                engine.live.disarm(found)
    except Exception as error:
        LOG.info("The timer of stack %s is left: %s", stack_id, error)
