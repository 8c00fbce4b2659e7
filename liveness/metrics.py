"""Numbers for Prometheus, and an honest /healthz. Off unless ``metrics_listen`` is set.

The engine knows nothing of this: everything here listens at hooks that are there for
others, too. Imported only when it is asked for.
"""

from __future__ import annotations

import dataclasses
import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric

from liveness import exceptions, log
from liveness.conf import listening_address
from liveness.model import Deadline, Engine, Outcome
from liveness.version import __version__

if TYPE_CHECKING:
    import sqlalchemy as sa

    from liveness.chronicle import Chronicle
    from liveness.clock import Clock
    from liveness.db.claims import Claims
    from liveness.detector import Detector
    from liveness.firing import Firing
    from liveness.handlers import Handlers
    from liveness.heart import Heart
    from liveness.loop import Loop
    from liveness.runner import Runner
    from liveness.settle import Settler
    from liveness.skew import Skew
    from liveness.sweep import Counts
    from liveness.trust import Trust

LOG = log.get(__name__)

PORTS = 32
"""Ports that are tried, one after the other: each worker of a host takes the next."""

QUICK = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
SLOW = (0.01, 0.1, 1, 3, 10, 30, 100, 300, 1000, 3000)


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """The parts of an engine that have something to tell."""

    clock: Clock
    trust: Trust
    heart: Heart
    loop: Loop
    firing: Firing
    runner: Runner
    handlers: Handlers
    claims: Claims
    settler: Settler
    detector: Detector
    skew: Skew
    history: Chronicle
    pools: dict[str, sa.Engine]

    @property
    def database_now(self) -> datetime:
        """The database's UTC, as well as this engine knows; 1970 before a reading."""
        return self.skew.moment(self.clock.monotonic())

    @property
    def problem(self) -> str | None:
        """Why this engine does not do its work now, or None."""
        try:
            self.trust.check()
        except exceptions.EngineError as error:
            return str(error)
        if self.loop.draining:
            return "It drains: it takes no more work."
        return self.loop.stuck_for(self.loop.settings.ttl)


class Metrics:
    """What one engine has done, counted from the outside."""

    def __init__(self, parts: Parts) -> None:
        self.registry = CollectorRegistry()
        self._parts = parts
        kinds = ["kind"]
        made: dict[str, Any] = {"registry": self.registry}
        self._beats = Counter(
            "liveness_beats", "Beats by what became of them.", ["result"], **made
        )
        self._beat_seconds = Histogram(
            "liveness_beat_seconds", "How long a beat took.", buckets=QUICK, **made
        )
        self._sweep_seconds = Histogram(
            "liveness_sweep_seconds", "How long a pass took.", buckets=QUICK, **made
        )
        self._swept = Counter(
            "liveness_swept", "What passes did, in rows.", ["did"], **made
        )
        self._detection = Histogram(
            "liveness_detection_seconds",
            "From an engine's last beat until it was fenced here.",
            buckets=SLOW,
            **made,
        )
        self._takeovers = Counter(
            "liveness_takeovers",
            "Deadlines taken from others, by how.",
            [*kinds, "how"],
            **made,
        )
        self._fired = Counter(
            "liveness_fired", "Own deadlines claimed in their time.", kinds, **made
        )
        self._lateness = Histogram(
            "liveness_lateness_seconds",
            "From the due time of an own deadline until it was claimed.",
            kinds,
            buckets=QUICK,
            **made,
        )
        self._handlers = Histogram(
            "liveness_handler_seconds",
            "How long handlers ran.",
            kinds,
            buckets=SLOW,
            **made,
        )
        self._attempts = Histogram(
            "liveness_attempts",
            "Which attempt it was that was settled.",
            kinds,
            buckets=(1, 2, 3, 5, 10, 30),
            **made,
        )
        self._outcomes = Counter(
            "liveness_outcomes",
            "What became of claimed deadlines.",
            [*kinds, "outcome"],
            **made,
        )
        for outcome in ("done", "rearm", "retry", "release", "park"):
            for kind in parts.handlers:
                self._outcomes.labels(kind, outcome)
        for result in ("committed", "failed"):
            self._beats.labels(result)
        for did in DID:
            self._swept.labels(did)
        self.registry.register(self)
        self._listen()

    def _listen(self) -> None:
        parts = self._parts
        also(parts.heart, "on_beat", self._beaten)
        also(parts.runner, "on_ran", self._ran)
        also(parts.loop, "on_sweep", self._passed)
        also(parts.firing, "on_fired", self._fire)
        also(parts.firing, "on_nobodys", self._from_nobody)
        also(parts.detector, "on_fenced", self._fenced)
        also(parts.claims, "on_taken", self._taken)
        also(parts.settler, "on_settled", self._settled)

    # --- at the hooks -----------------------------------------------------------

    def _beaten(self, committed: bool, seconds: float) -> None:
        self._beats.labels("committed" if committed else "failed").inc()
        self._beat_seconds.observe(seconds)

    def _passed(self, counts: Counts, seconds: float) -> None:
        self._sweep_seconds.observe(seconds)
        for did in DID:
            self._swept.labels(did).inc(getattr(counts, did))

    def _fenced(self, connection: Any, victim: Engine, evidence: str) -> None:
        since = self._parts.database_now - victim.beat_at
        self._detection.observe(max(since.total_seconds(), 0.0))

    def _taken(
        self, connection: Any, how: str, before: Any, after: list[Deadline], why: Any
    ) -> None:
        for value in after:
            self._takeovers.labels(self._kind(value), how).inc()

    def _from_nobody(self, values: Iterable[Deadline], told: bool) -> None:
        for value in values:
            self._takeovers.labels(self._kind(value), "orphans").inc()

    def _fire(self, values: Iterable[Deadline]) -> None:
        now = self._parts.database_now
        for value in values:
            late = (now - value.due_at).total_seconds()
            self._fired.labels(self._kind(value)).inc()
            self._lateness.labels(self._kind(value)).observe(max(late, 0.0))

    def _ran(self, value: Deadline, seconds: float) -> None:
        self._handlers.labels(self._kind(value)).observe(seconds)

    def _settled(self, settled: Iterable[tuple[Deadline, Outcome]]) -> None:
        for value, outcome in settled:
            name = type(outcome).__name__.lower()
            name = "release" if name == "unstarted" else name
            self._outcomes.labels(self._kind(value), name).inc()
            self._attempts.labels(self._kind(value)).observe(value.attempts)

    def _kind(self, value: Deadline) -> str:
        """The kind, of which there are few; what others wrote may be anything."""
        return value.kind if value.kind in self._parts.handlers else "other"

    # --- when it is asked -------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """What is so now, for the registry."""
        parts = self._parts
        facts = {
            "engine": parts.trust.engine_id,
            "version": __version__,
            "history": str(parts.history.settings.history),
        }
        yield InfoMetricFamily("liveness_engine", "Which engine this is.", facts)
        gauges = {
            "trusted": ("1 while the engine may act.", float(parts.trust.good)),
            "healthy": ("1 while it does its work.", float(parts.problem is None)),
            "lease_left_seconds": (
                "Until the lease lapses; negative since.",
                parts.trust.left,
            ),
            "held": ("Deadlines claimed and in hand.", len(parts.runner.held())),
            "clock_jumps": ("Jumps of the database's clock.", parts.skew.jumps),
        }
        now = parts.database_now
        if now.year > 1970:  # there was a reading
            offset = (now - parts.clock.host_now()).total_seconds()
            text = "The database's clock less this host's."
            gauges["clock_offset_seconds"] = (text, offset)
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"liveness_{name}", text, value)
        yield from self._pools()

    def _pools(self) -> Iterator[Metric]:
        text = "Database connections"
        used = GaugeMetricFamily("liveness_pool_used", f"{text} in use.", labels=POOL)
        size = GaugeMetricFamily("liveness_pool_size", f"{text} at most.", labels=POOL)
        for name, engine in self._parts.pools.items():
            pool: Any = engine.pool
            used.add_metric([name], pool.checkedout())
            size.add_metric([name], pool.size())
        yield used
        yield size


POOL = ["pool"]
DID = ("fenced", "adopted", "retriggered", "expired", "parked", "purged")


def also(part: Any, hook: str, second: Callable[..., None]) -> None:
    """Call ``second`` after what is at the hook already."""
    first = getattr(part, hook)

    def both(*args: Any) -> None:
        first(*args)
        second(*args)

    setattr(part, hook, both)


# --- the endpoint -------------------------------------------------------------------


class Endpoint:
    """Answers /metrics and /healthz for one engine, from threads of its own."""

    def __init__(self, parts: Parts, address: str) -> None:
        """:raises ConfigError: no port is free there, or it is no address of ours."""
        self._parts = parts
        self.metrics = Metrics(parts)
        host, port = listening_address(address)
        self._server = self._bound(host, port)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            args=(0.2,),
            name="liveness-metrics",
            daemon=True,
        )

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()
        LOG.info(
            "Engine %s answers /metrics and /healthz on port %d.",
            self._parts.trust.engine_id,
            self.port,
            event="listening",
            engine=self._parts.trust.engine_id,
        )

    def close(self) -> None:
        """Answer no more; the port is free."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()

    def _bound(self, host: str, port: int) -> _Server:
        problem = ""
        for number in range(port, min(port + PORTS, 65536) if port else 1):
            try:
                return _Server((host, number), self._answer)
            except OSError as error:
                problem = error.strerror or str(error)
        raise exceptions.ConfigError(
            reason=f"[liveness] metrics_listen ({host}:{port}): {problem}"
        )

    def _answer(self, path: str, accept: str) -> tuple[int, str, bytes]:
        if path == "/metrics":
            encode, content_type = choose_encoder(accept)
            return 200, content_type, encode(self.metrics.registry)
        if path == "/healthz":
            problem = self._parts.problem
            said = {
                "status": "unwell" if problem else "ok",
                "engine": self._parts.trust.engine_id,
                "lease_left": round(self._parts.trust.left, 3),
                **({"problem": problem} if problem else {}),
            }
            text = json.dumps(said).encode() + b"\n"
            return 503 if problem else 200, "application/json", text
        return 404, "text/plain; charset=utf-8", b"/metrics or /healthz\n"


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        answer: Callable[[str, str], tuple[int, str, bytes]],
    ) -> None:
        self.answer = answer
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        LOG.debug("A request for metrics ended badly.", exc_info=True)


class _Request(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = 5.0
    server_version = "liveness"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        code, content_type, body = self.server.answer(
            path, self.headers.get("Accept", "")
        )
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        LOG.debug("Metrics: " + format, *args)
