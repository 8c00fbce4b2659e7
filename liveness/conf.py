"""Options of the ``[liveness]`` group, and the checks across them.

Options are registered on the ConfigOpts that is handed in, never on a global.
The program itself reads the frozen :class:`Settings` made from them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from oslo_config import cfg
from oslo_config import types as cfg_types

from liveness import exceptions
from liveness.events import History

GROUP = "liveness"
DEFAULT_CONNECTION = "sqlite:///liveness.sqlite"


class _Number(cfg_types.Float):
    """A number within bounds; NaN is not within any."""

    def __call__(self, value: Any) -> float:
        number = super().__call__(value)
        if number is None or math.isnan(number):
            raise ValueError("must be a number")
        return number


def _seconds(low: float, high: float) -> _Number:
    return _Number(min=low, max=high)


class _Words(cfg_types.List):
    """A tuple of words: settings are values."""

    def __call__(self, value: Any) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(word for word in super().__call__(value) if word)

    def format_defaults(self, default: Any, sample_default: Any = None) -> list[str]:
        return [",".join(default)]


REDACTED = (
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "credential",
    "private",
    "api_key",
    "access_key",
    "auth",
    "cookie",
)
"""Words in the names of secrets."""


OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt(
        "connection",
        secret=True,
        help="SQLAlchemy URL of the database that all engines share: sqlite:///PATH, "
        "mysql+pymysql://USER:PASSWORD@HOST/NAME or "
        "postgresql+psycopg://USER:PASSWORD@HOST/NAME. Unset: the host program's "
        f"[database] connection if it has one, else {DEFAULT_CONNECTION}. All "
        "engines must use one database, or they cannot see each other.",
    ),
    cfg.Opt(
        "ttl",
        type=_seconds(1, 3600),
        default=30.0,
        mutable=True,
        help="Seconds that this engine may trust itself after a beat. Others fence it "
        "no sooner than this after its last beat. Must be more than four "
        "beat_interval, and should outlast the longest stall of the database (a "
        "Galera node's death stalls writes for 6 s at default settings). Smaller: "
        "a lost host is noticed sooner, and a short stall suspends the engine.",
    ),
    cfg.Opt(
        "beat_interval",
        type=_seconds(0.05, 1200),
        default=5.0,
        mutable=True,
        help="Seconds between two beats of this engine. Each is one UPDATE by primary "
        "key. Must be under a quarter of ttl. An engine whose beats are further apart "
        "than a quarter of another engine's ttl cannot judge that engine.",
    ),
    cfg.Opt(
        "sweep_interval",
        type=_seconds(0.05, 900),
        default=2.0,
        mutable=True,
        help="Seconds between two sweeps of this engine, varied by a tenth so that "
        "engines do not march in step. Must stay under a quarter of ttl. Smaller: "
        "orphans are found sooner, for a statement more. Own deadlines do not wait "
        "for a sweep: they fire at the instant. Of more than 100 engines a tenth or "
        "more sweep every 2.5 of these intervals, the others every 13 (once in their "
        "ttl at least).",
    ),
    cfg.Opt(
        "lease_margin",
        type=_seconds(0.01, 600),
        default=1.0,
        help="Seconds of safety on both sides of ttl: an engine stops trusting itself "
        "this long before its ttl is over, others wait this much longer than the "
        "ttl before they fence it. Must be under a third of ttl.",
    ),
    cfg.Opt(
        "clock_drift",
        type=_Number(min=0.0, max=0.2),
        default=0.01,
        help="How much faster one host's monotonic clock may run than another's (a "
        "fraction: 0.01 is one per cent). Observers wait ttl times one plus this.",
    ),
    cfg.Opt(
        "expired_grace",
        type=_seconds(0, 3600),
        default=5.0,
        mutable=True,
        help="Seconds of head start that the owner has on its own expired deadlines; "
        "then any engine takes them. 0: no head start.",
    ),
    cfg.Opt(
        "max_clock_skew",
        type=_seconds(0, 3600),
        default=1.0,
        mutable=True,
        help="Seconds that the clocks of the database's nodes may differ; added to "
        "expired_grace. A larger jump of the database's clock against this host's "
        "monotonic clock is logged, and stops claims of other engines' expired "
        "deadlines for one ttl.",
    ),
    cfg.IntOpt(
        "batch_size",
        min=1,
        max=1000,
        default=200,
        mutable=True,
        help="Rows read, claimed or handed back in one statement. Larger: fewer round "
        "trips when many are due; smaller: shorter transactions.",
    ),
    cfg.IntOpt(
        "handler_threads",
        min=1,
        max=256,
        default=8,
        help="Threads that run handlers in each engine. When all of them hang, the "
        "engine claims nothing more and gives its claims back.",
    ),
    cfg.Opt(
        "handler_timeout",
        type=_seconds(0.05, 30 * 86400),
        default=300.0,
        mutable=True,
        help="Seconds a handler may run unless its kind says otherwise. After that its "
        "deadline is retried, and whatever the handler still returns is ignored.",
    ),
    cfg.IntOpt(
        "max_attempts",
        min=1,
        max=1000,
        default=5,
        mutable=True,
        help="Claims of a deadline before it is parked for the operator, unless its "
        "kind or the deadline itself says otherwise. A claim counts even if the "
        "handler kills its engine.",
    ),
    cfg.Opt(
        "backoff_initial",
        type=_seconds(0, 86400),
        default=1.0,
        mutable=True,
        help="Seconds until the first retry; each later one waits up to twice as long, "
        "with jitter.",
    ),
    cfg.Opt(
        "backoff_max",
        type=_seconds(0, 86400),
        default=300.0,
        mutable=True,
        help="Seconds that a retry waits at most. Larger: a deadline that keeps "
        "failing is tried less often, and parked later.",
    ),
    cfg.Opt(
        "unknown_kind_grace",
        type=_seconds(0, 86400),
        default=60.0,
        mutable=True,
        help="Seconds that a due deadline whose kind has no handler in this engine is "
        "left to engines that know it (a rolling upgrade); then it is parked.",
    ),
    cfg.IntOpt(
        "payload_limit",
        min=2,
        max=1 << 20,
        default=64 << 10,
        help="Bytes that a payload may have as JSON; larger ones are refused.",
    ),
    cfg.Opt(
        "database_timeout",
        type=_seconds(0.2, 600),
        default=5.0,
        help="Seconds that connecting to, or one statement of, the database may take. "
        "Must be under a third of ttl, so that a hung connection cannot outlive "
        "the lease.",
    ),
    cfg.IntOpt(
        "connections",
        min=1,
        max=100,
        default=5,
        help="Database connections for arming and disarming from the host program's "
        "threads. Each engine has two more of its own: one to beat, one to sweep.",
    ),
    cfg.Opt(
        "drain_timeout",
        type=_seconds(0, 86400),
        default=30.0,
        mutable=True,
        help="Seconds that a stopping engine waits for handlers and guarded work in "
        "flight before it hands them to others. Keep it a few seconds under "
        "graceful_shutdown_timeout.",
    ),
    cfg.Opt(
        "engine_retention",
        type=_seconds(0, 365 * 86400),
        default=3600.0,
        mutable=True,
        help="Seconds that the row of a fenced or stopped engine is kept for the "
        "operator, once it owns no deadline.",
    ),
    cfg.StrOpt(
        "history",
        choices=[
            (str(History.OFF), "nothing"),
            (
                str(History.RECOVERY),
                "who was fenced, what was taken over and what came of it, retries,"
                " parking",
            ),
            (str(History.ALL), "also own deadlines that fire in their time"),
        ],
        default=str(History.RECOVERY),
        mutable=True,
        help="What this engine records of its doings for 'liveness-manage history'. "
        "More: one more statement for each batch that is recorded.",
    ),
    cfg.Opt(
        "history_retention",
        type=_seconds(60, 10 * 365 * 86400),
        default=7 * 86400.0,
        mutable=True,
        help="Seconds that events of the history are kept; engines delete older ones "
        "once per ttl, at most 1000 at a time. Larger: a larger table, which slows "
        "down nothing but reading the history.",
    ),
    cfg.Opt(
        "redacted",
        type=_Words(),
        default=REDACTED,
        mutable=True,
        help="Words that make a name that of a secret, separated by commas, whatever "
        "the case and without regard to _ - and . in it: the page and 'deadline show' "
        "show asterisks instead of what a payload has under such a name, and of what "
        "stands after one in a text. Empty: everything is shown.",
    ),
    cfg.StrOpt(
        "metrics_listen",
        help="HOST:PORT on which each engine answers /metrics (for Prometheus) and "
        "/healthz. Further engines on the same host take the next free port, of 32. "
        "There is no authentication: keep it on the loopback address, 127.0.0.1:9464, "
        "or behind something that has one. Needs the extra 'metrics'. Unset: off.",
    ),
    cfg.StrOpt(
        "state_directory",
        help="Directory for what an engine has observed of the others, so that its "
        "successor on the same host goes on from there: in a crash loop nobody "
        "lives long enough to fence anyone. Unset: nothing is kept.",
    ),
]


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """For oslo-config-generator (entry point ``oslo.config.opts``)."""
    return [(GROUP, OPTIONS)]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the ``[liveness]`` options on ``conf``; twice does no harm."""
    conf.register_opts(OPTIONS, group=GROUP)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options as plain values; field by field as in :data:`OPTIONS`."""

    connection: str = dataclasses.field(default=DEFAULT_CONNECTION, repr=False)
    ttl: float = 30.0
    beat_interval: float = 5.0
    sweep_interval: float = 2.0
    lease_margin: float = 1.0
    clock_drift: float = 0.01
    expired_grace: float = 5.0
    max_clock_skew: float = 1.0
    batch_size: int = 200
    handler_threads: int = 8
    handler_timeout: float = 300.0
    max_attempts: int = 5
    backoff_initial: float = 1.0
    backoff_max: float = 300.0
    unknown_kind_grace: float = 60.0
    payload_limit: int = 64 << 10
    database_timeout: float = 5.0
    connections: int = 5
    drain_timeout: float = 30.0
    engine_retention: float = 3600.0
    history: str = str(History.RECOVERY)
    history_retention: float = 7 * 86400.0
    redacted: tuple[str, ...] = REDACTED
    metrics_listen: str | None = None
    state_directory: str | None = None

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Settings:
        """Read and check the options of ``conf``.

        :raises ConfigError: naming every option that cannot work, with numbers.
        """
        register_opts(conf)
        values: dict[str, Any] = {}
        problems = []
        for opt in OPTIONS:
            try:
                values[opt.dest] = conf[GROUP][opt.dest]
            except (ValueError, OverflowError) as error:
                why = str(error).rpartition(" is not valid: ")[2]
                problems.append(f"{opt.name}: {why}")
                continue
            if values[opt.dest] == "" or (values[opt.dest] is None and opt.default):
                problems.append(f"{opt.name} is empty")
        if problems:
            raise exceptions.ConfigError(
                reason=f"[{GROUP}] " + "; ".join(problems) + "."
            )
        if values["connection"] is None:
            values["connection"] = _host_connection(conf)
        return cls(**values).checked()

    @classmethod
    def of(cls, **values: Any) -> Settings:
        """Make checked settings from keyword arguments, each as the option of that
        name; the bounds are the options' own.

        :raises ConfigError: naming the option that is unknown or cannot work.
        """
        conf = cfg.ConfigOpts()
        register_opts(conf)
        conf([], default_config_files=[], default_config_dirs=[])
        for name, value in values.items():
            try:
                conf.set_override(name, value, group=GROUP)
            except cfg.NoSuchOptError:
                known = ", ".join(sorted(opt.name for opt in OPTIONS))
                reason = f"there is no option {name!r}; there are {known}"
                raise exceptions.ConfigError(reason=reason) from None
            except (ValueError, OverflowError) as error:
                reason = f"[{GROUP}] {name} = {value!r}: {error}"
                raise exceptions.ConfigError(reason=reason) from None
            except (TypeError, AttributeError):  # as oslo.config takes it for text
                kind = type(value).__name__
                reason = f"[{GROUP}] {name} = {value!r}: a {kind} is not what it takes"
                raise exceptions.ConfigError(reason=reason) from None
        return cls.from_conf(conf)

    def checked(self) -> Settings:
        """Return self.

        :raises ConfigError: when options contradict each other; the message has
            each contradiction, with the numbers.
        """
        problems = list(self._contradictions())
        if problems:
            raise exceptions.ConfigError(
                reason=f"[{GROUP}] " + "; ".join(problems) + "."
            )
        return self

    def _contradictions(self) -> Any:
        ttl = self.ttl
        if ttl < 3 * self.beat_interval:
            yield (
                f"ttl ({ttl:g} s) must be at least three beat_interval"
                f" (3 x {self.beat_interval:g} s): one lost beat would suspend the"
                " engine"
            )
        elif self.beat_interval >= ttl / 4:
            yield (
                f"beat_interval ({self.beat_interval:g} s) must be under a quarter of"
                f" ttl ({ttl:g} s / 4 = {ttl / 4:g} s): no engine could judge another"
            )
        if self.sweep_interval * 1.1 >= ttl / 4:
            yield (
                f"sweep_interval ({self.sweep_interval:g} s, varied by a tenth) must"
                f" be under a quarter of ttl ({ttl:g} s / 4 = {ttl / 4:g} s): no"
                " observation would count"
            )
        if self.lease_margin >= ttl / 3:
            yield (
                f"lease_margin ({self.lease_margin:g} s) must be under a third of"
                f" ttl ({ttl:g} s / 3 = {ttl / 3:g} s)"
            )
        if self.database_timeout >= ttl / 3:
            yield (
                f"database_timeout ({self.database_timeout:g} s) must be under a third"
                f" of ttl ({ttl:g} s / 3 = {ttl / 3:g} s): a hung connection would"
                " outlive the lease"
            )
        if self.metrics_listen is not None:
            try:
                listening_address(self.metrics_listen)
            except ValueError as error:
                yield f"metrics_listen {error}"
        if self.backoff_initial > self.backoff_max:
            yield (
                f"backoff_initial ({self.backoff_initial:g} s) must not exceed"
                f" backoff_max ({self.backoff_max:g} s)"
            )


def _host_connection(conf: cfg.ConfigOpts) -> str:
    """The host program's own database, if it has registered that option."""
    try:
        return conf.database.connection or DEFAULT_CONNECTION
    except (cfg.NoSuchOptError, cfg.NoSuchGroupError):
        return DEFAULT_CONNECTION


def listening_address(text: str) -> tuple[str, int]:
    """Host and port of ``metrics_listen``.

    :raises ValueError: in a few words, when it is not HOST:PORT.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and len(port) < 6):
        raise ValueError(f"({text}) must be HOST:PORT, such as 127.0.0.1:9464")
    if int(port) > 65535:
        raise ValueError(f"({text}) must have a port of at most 65535")
    return host, int(port)


def mutated(old: Settings, new: Settings) -> tuple[Settings, list[str]]:
    """``new`` with what cannot change while an engine runs taken from ``old``, and the
    names of those options that were to change all the same."""
    fixed = [opt.dest for opt in OPTIONS if not opt.mutable]
    refused = [name for name in fixed if getattr(old, name) != getattr(new, name)]
    kept = {name: getattr(old, name) for name in fixed}
    return dataclasses.replace(new, **kept).checked(), refused
