"""One engine, as a program sees it: what it starts, uses and stops."""

from __future__ import annotations

import contextlib
import functools
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from oslo_config import cfg

from liveness import exceptions, log
from liveness.clock import Clock
from liveness.conf import Settings, mutated
from liveness.db.tables import ENGINE_ID_LENGTH
from liveness.handlers import FunctionHandler, Handler, Handlers
from liveness.identity import Identity
from liveness.model import Deadline
from liveness.owner import Owner
from liveness.running import Running

if TYPE_CHECKING:
    from liveness.service import LivenessService

LOG = log.get(__name__)

F = TypeVar("F", bound=Callable[[Deadline], Any])
P = ParamSpec("P")
R = TypeVar("R")


class _Delegated(Generic[P, R]):
    """A method of :class:`Owner`, called on the owner of the running engine."""

    def __init__(self, method: Callable[Concatenate[Owner, P], R]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, live: Liveness | None, cls: type) -> Callable[P, R]:
        if live is None:
            return self._method  # type: ignore[return-value]
        return functools.partial(self._method, live.deadlines)


class Liveness:
    """One engine of a program. Making one opens nothing and starts nothing; do that
    after the last fork, with :meth:`start`."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock = clock or Clock()
        self.handlers = Handlers(settings)
        self.conf: cfg.ConfigOpts | None = None
        self._on_fenced: list[Callable[[str], None]] = []
        self._on_drain: Callable[[], None] = self.stop
        self._running: Running | None = None
        self._lock = threading.RLock()  # a signal handler may stop what is starting
        self._stopped = False

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts, clock: Clock | None = None) -> Liveness:
        """An engine with the ``[liveness]`` options of ``conf``.

        :raises ConfigError: naming every option that cannot work.
        """
        live = cls(Settings.from_conf(conf), clock)
        live.conf = conf
        return live

    # --- kinds ----------------------------------------------------------------

    def add_handler(self, handler: Handler | type[Handler]) -> None:
        """Handle the handler's kind with it. Best before :meth:`start`."""
        self.handlers.add(handler)

    def handler(self, kind: str, **attributes: Any) -> Callable[[F], F]:
        """Decorate a function of a deadline as the handler of ``kind``; the attributes
        of :class:`Handler` may be given as keywords."""

        def decorate(function: F) -> F:
            made = FunctionHandler(kind, function)
            for name, value in attributes.items():
                if not hasattr(Handler, name):
                    raise exceptions.ConfigError(
                        reason=f"handler {kind!r}: there is no attribute {name!r}"
                    )
                setattr(made, name, value)
            self.handlers.add(made)
            return function

        return decorate

    def on_fenced(self, callback: Callable[[str], None]) -> None:
        """Call ``callback(reason)`` once, from another thread, when this engine has
        been fenced: it is over, and only a new one can go on."""
        self._on_fenced.append(callback)

    def on_drain(self, callback: Callable[[], None]) -> None:
        """When an operator asks this engine to drain, call ``callback()`` once, from
        another thread, in place of :meth:`stop`: for a host program that stops as a
        whole, and says ``stop`` at its end. The drain has begun by then."""
        self._on_drain = callback

    # --- life -----------------------------------------------------------------

    def start(self, engine_id: str | None = None) -> None:
        """Register, beat and sweep. Afterwards the engine has a row and a lease.

        ``engine_id``: the host program's own, new at every start; else a new uuid.

        :raises EngineIdTaken: it is not new. :raises DatabaseError: no connection, or
            a schema of another release; nothing was started.
        """
        with self._lock:
            if self._running is not None or self._stopped:
                raise exceptions.NotRunning(
                    reason="it was started or stopped before; make a new one"
                )
            problem = _id_problem(engine_id)
            if problem:
                raise exceptions.ConfigError(reason=problem)
            self.handlers.load()
            running = self._parts(engine_id)
            try:
                running.register()
            except BaseException:
                running.close()
                raise
            self._running = running  # before a handler can ask for it
            running.start()

    def begin_drain(self) -> None:
        """Claim and adopt nothing from here on, until :meth:`stop`: for a host program
        that goes on for a while with what it has in hand. The sweep under way may still
        claim.

        What has been claimed is finished, guards go on, deadlines may be armed, and the
        engine beats: it is draining, and nobody takes it for dead. Due deadlines of its
        own are left to others. An engine that was not started never will be.
        """
        with self._lock:
            running = self._running
            self._stopped |= running is None
        if running is not None:
            running.begin_drain()

    def stop(self, timeout: float | None = None) -> None:
        """Drain: claim nothing more, wait at most ``timeout`` seconds (the option
        ``drain_timeout``) for work in flight, hand everything back, resign.

        Afterwards this object is over. Twice, or from two threads, does no harm.
        """
        with self._lock:
            self._stopped = True
            running = self._running
        if running is not None:
            running.drain(self.settings.drain_timeout if timeout is None else timeout)

    def configure(self, settings: Settings) -> None:
        """Go on with other settings; those that cannot change while running keep
        their old values, and a warning names them.

        :raises ConfigError: when the options contradict each other; nothing changed.
        """
        self.settings, refused = mutated(self.settings, settings)
        if refused:
            LOG.warning(
                "These options take effect at the next start: %s.",
                ", ".join(refused),
                event="options-refused",
            )
        self.handlers.settings = self.settings
        if self._running is not None:
            self._running.configure(self.settings)

    def service(self, engine_id: Callable[[], str] | None = None) -> LivenessService:
        """An oslo.service ``Service`` that starts and stops this engine in whatever
        process the launcher makes for it. ``engine_id`` is called there, if the host
        program gives its engines ids of its own, new at every start."""
        from liveness.service import LivenessService

        return LivenessService(self, engine_id)

    @property
    def engine_id(self) -> str:
        """The id of the running engine. :raises NotRunning: before the start."""
        return self._started.trust.engine_id

    @property
    def trusted(self) -> bool:
        """True while the engine runs and its lease is good."""
        running = self._running
        return running is not None and running.trust.good

    @property
    def fleet_size(self) -> int:
        """Engines of this database that were alive at the last sweep, this one among
        them; at least 1. (In a fleet of more than 100, counted now and then.)

        :raises NotRunning: before the start."""
        return self._started.fleet_size

    def check(self, deadline: Deadline | None = None) -> None:
        """Return while this engine, and this claimed ``deadline`` of it, may act. Ask
        in a long handler before each effect.

        :raises NotTrusted: suspended, stopped or fenced. :raises StaleDeadline: the
            handler ran too long, and the deadline was taken away from it.
        """
        running = self._started
        running.trust.check()
        if deadline is not None:
            running.runner.check(deadline)

    # --- deadlines: see liveness.owner.Owner ------------------------------------

    @property
    def deadlines(self) -> Owner:
        """The deadlines of the running engine. :raises NotRunning: before the start."""
        return self._started.owner

    arm = _Delegated(Owner.arm)
    arm_many = _Delegated(Owner.arm_many)
    extend = _Delegated(Owner.extend)
    disarm = _Delegated(Owner.disarm)
    find = _Delegated(Owner.find)
    adopt = _Delegated(Owner.adopt)
    guard = _Delegated(Owner.guard)
    parked = _Delegated(Owner.parked)
    unpark = _Delegated(Owner.unpark)

    def _parts(
        self, engine_id: str | None, identity: Identity | None = None
    ) -> Running:
        return Running(
            engine_id or str(uuid.uuid4()),
            self.settings,
            self.clock,
            self.handlers,
            lambda: self._on_drain(),
            self._on_fenced,
            identity,
        )

    @property
    def _started(self) -> Running:
        if self._running is None:
            raise exceptions.NotRunning(reason="it was not started in this process")
        return self._running


@contextlib.contextmanager
def start(
    conf: cfg.ConfigOpts | Settings | None = None,
    handlers: Iterable[Handler | type[Handler]] = (),
    engine_id: str | None = None,
    **options: Any,
) -> Iterator[Liveness]:
    """Run an engine in this process for the block; for programs without a launcher.

    ``conf`` is a ConfigOpts or Settings; without it, ``options`` are the options by
    name. The engine is drained when the block ends.
    """
    if isinstance(conf, cfg.ConfigOpts):
        conf = Settings.from_conf(conf)
    live = Liveness(conf or Settings.of(**options))
    for handler in handlers:
        live.add_handler(handler)
    live.start(engine_id)
    try:
        yield live
    finally:
        live.stop()


def _id_problem(engine_id: Any) -> str | None:
    if engine_id is None:
        return None
    good = (
        isinstance(engine_id, str)
        and 0 < len(engine_id) <= ENGINE_ID_LENGTH
        and engine_id.isascii()
        and engine_id.isprintable()
        and engine_id == engine_id.strip()
    )
    if good:
        return None
    return (
        f"the engine id must be 1 to {ENGINE_ID_LENGTH} printable ASCII characters,"
        f" not {engine_id!r:.100}"
    )
