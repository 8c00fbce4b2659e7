"""What the host program does with its deadlines: arm, extend, disarm, guard, adopt."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from oslo_db import exception as db_exc

from liveness import clock as clocks
from liveness import exceptions, log
from liveness.conf import Settings
from liveness.db.arming import NewDeadline
from liveness.db.claims import Claims
from liveness.db.connection import is_database_error, one_line, retrying
from liveness.db.deadlines import Deadlines
from liveness.db.rows import dump_payload, new_token, new_tokens, token_of
from liveness.db.tables import KEY_LENGTH
from liveness.handlers import Handlers, kind_problem
from liveness.model import Deadline, DeadlineState, Done, Outcome
from liveness.trust import Trust

LOG = log.get(__name__)

if TYPE_CHECKING:
    from sqlalchemy.orm import Session  # 5 MiB that the host may not have loaded

R = TypeVar("R")


@dataclasses.dataclass(frozen=True, slots=True)
class Arm:
    """One deadline for :meth:`Owner.arm_many`; the fields are those of ``arm``."""

    kind: str
    key: str
    due_in: float | None = None
    due_at: datetime | None = None
    payload: Any = None
    max_attempts: int | None = None


class Guard:
    """Work in progress under a deadline; what :meth:`Owner.guard` gives."""

    def __init__(self, owner: Owner, deadline: Deadline) -> None:
        self._owner = owner
        self.deadline = deadline
        self.handed_over = False
        self._extending: Deadline | None = None

    def check(self) -> None:
        """Return while the work may go on. Ask right before each effect.

        :raises NotTrusted: when the engine is suspended, stopped or fenced.
        :raises StaleDeadline: when its time is up, or it was given to others (draining
            ended).
        """
        self._owner.trust.check()
        # Not only when this engine has claimed it: if it is late, another one does.
        if self.handed_over or self._owner.is_due(self.deadline):
            raise exceptions.StaleDeadline(
                kind=self.deadline.kind,
                key=self.deadline.key,
                token=self.deadline.token,
            )

    def extend(
        self, due_in: float | None = None, due_at: datetime | None = None
    ) -> Deadline:
        """Give the work more time; see :meth:`Owner.extend`."""
        token = new_token()
        # If every answer is lost, the row may have this token or the one before.
        self._extending = self.deadline._replace(token=token)
        self.deadline = self._owner._extend(self.deadline, due_in, due_at, token)
        self._extending = None
        return self.deadline

    @property
    def values(self) -> list[Deadline]:
        """The newest value, or the two of which one is."""
        unknown = [] if self._extending is None else [self._extending]
        return [*unknown, self.deadline]

    def finish(self) -> None:
        """Disarm the deadline, whichever of its values is the newest.

        :raises StaleDeadline: when none is.
        """
        *others, last = self.values
        for value in others:
            with contextlib.suppress(exceptions.StaleDeadline):
                return self._owner.disarm(value)
        return self._owner.disarm(last)


class Owner:
    """The deadlines of one running engine. Thread-safe."""

    def __init__(
        self,
        me: str,
        pool: sa.Engine,
        url: str,
        settings: Settings,
        trust: Trust,
        deadlines: Deadlines,
        claims: Claims,
        handlers: Handlers,
        settle_later: Callable[[Iterable[tuple[Deadline, Outcome]]], None],
        armed: Callable[[Iterable[Deadline]], None],
        gone: Callable[[int], None],
        left: Callable[[float | datetime, float], float],
    ) -> None:
        """``armed`` is told of values that may be due soon, ``gone`` of row ids that
        are not; ``settle_later`` writes outcomes when the database is back. ``left``
        is in how many seconds something is due: at that moment of the database's
        clock, or so many seconds after that moment of the monotonic one."""
        self.settings = settings
        self.trust = trust
        self.guards: set[Guard] = set()
        self._me = me
        self._pool = pool
        self._url = url
        self._deadlines = deadlines
        self._claims = claims
        self._handlers = handlers
        self._settle_later = settle_later
        self._armed = armed
        self._gone = gone
        self._left = left

    def arm(
        self,
        kind: str,
        key: str,
        due_in: float | None = None,
        due_at: datetime | None = None,
        payload: Any = None,
        max_attempts: int | None = None,
        connection: sa.Connection | Session | None = None,
    ) -> Deadline:
        """Write a deadline down: due in so many seconds, or at a UTC moment.

        Afterwards it is committed (with ``connection``: part of that transaction, and
        real when that commits), and will be handled by somebody unless disarmed.

        :raises AlreadyArmed: the key lives already. :raises UnknownKind: no handler.
        :raises InvalidDeadline: a value that cannot be kept; the message says which.
        :raises NotTrusted: this engine may not act now.
        :raises DatabaseError: it may or may not be armed. (With ``connection``, that
            connection's own errors are raised.)
        """
        arm = Arm(kind, key, due_in, due_at, payload, max_attempts)
        (new,) = self._news([arm])
        if connection is not None:
            value = self._deadlines.arm(_plain(connection), new, hosted=True)
        else:
            value = self._arm([new], lambda own: [self._deadlines.arm(own, new)])[0]
        self._armed([value])
        return value

    def arm_many(
        self,
        arms: Sequence[Arm],
        connection: sa.Connection | Session | None = None,
    ) -> list[Deadline]:
        """Write all of ``arms`` down or none, in one transaction and in statements of
        a thousand rows; otherwise as :meth:`arm`."""
        news = self._news(arms)
        if connection is not None:
            values = self._deadlines.arm_many(_plain(connection), news, hosted=True)
        else:
            values = self._arm(news, lambda own: self._deadlines.arm_many(own, news))
        self._armed(values)
        return values

    def extend(
        self,
        deadline: Deadline,
        due_in: float | None = None,
        due_at: datetime | None = None,
    ) -> Deadline:
        """Give an armed deadline a new due time; return its new value, which is the
        one to use from then on.

        :raises StaleDeadline: it was claimed, extended or disarmed since.
        """
        return self._extend(deadline, due_in, due_at, new_token())

    def _extend(
        self, deadline: Deadline, due_in: Any, due_at: Any, token: int
    ) -> Deadline:
        due = self._due(deadline.kind, deadline.key, due_in, due_at)
        self.trust.check()
        value = self._write(
            lambda own: self._deadlines.extend(own, deadline, due, token)
        )
        self._gone(deadline.id)
        self._armed([value])
        return value

    def disarm(
        self,
        deadline: Deadline,
        connection: sa.Connection | Session | None = None,
    ) -> None:
        """The deadline is no longer needed; afterwards its row is gone (with
        ``connection``: when that transaction commits).

        :raises StaleDeadline: it was claimed, extended or disarmed since.
        :raises Fenced: this engine was fenced, so it may have been taken over.
        """
        self.trust.check_not_fenced()
        tries: list[bool] = []

        def complete(own: sa.Connection) -> set[int]:
            again, tries[:] = bool(tries), [True]
            return self._deadlines.complete(own, [deadline], again=again)

        if connection is not None:
            stale = complete(_plain(connection))
        else:
            stale = self._write(complete)
        self._gone(deadline.id)
        if stale:
            raise exceptions.StaleDeadline(
                kind=deadline.kind, key=deadline.key, token=deadline.token
            )

    def find(self, kind: str, key: str) -> Deadline | None:
        """The deadline as its row is now, or None. Changes nothing."""
        if kind_problem(kind) or _key_problem(key):
            return None  # no such deadline can be armed
        return self._write(lambda own: self._deadlines.find(own, kind, key))

    def adopt(self, kind: str, key: str) -> Deadline:
        """Own a deadline whose owner is dead, missing, or has released it; it keeps
        its due time, attempts start at zero, no handler runs.

        :raises NoSuchDeadline: :raises NotOrphaned: its owner is alive, or somebody
            else was quicker. :raises NotTrusted: this engine may not act now.
        """
        self.trust.check()
        if kind_problem(kind) or _key_problem(key):
            raise exceptions.NoSuchDeadline(kind=_shown(kind), key=_shown(key))
        token = new_token()

        def take(own: sa.Connection) -> list[Deadline]:
            found = self._deadlines.find(own, kind, key)
            if found is None:
                raise exceptions.NoSuchDeadline(kind=kind, key=key)
            if found.token == token_of(token, found.id):  # a try whose answer was lost
                return [found]
            if found.state != DeadlineState.ARMED:
                raise exceptions.DeadlineError(
                    kind=kind, key=key, reason=f"it is {found.state}, not armed"
                )
            taken = self._claims.adopt_orphans(own, self._me, [found], token)
            if not taken:
                raise exceptions.NotOrphaned(
                    kind=kind, key=key, owner_id=found.owner_id
                )
            return taken

        value = self._write(take)[0]
        self._armed([value])
        return value

    def parked(self, limit: int = 100) -> list[Deadline]:
        """Parked deadlines, at most ``limit``, the longest parked first; their
        ``last_error`` says why. Changes nothing."""
        return self._write(lambda own: self._deadlines.parked(own, limit))

    def unpark(self, kind: str, key: str) -> None:
        """Give a parked deadline back to the engines, attempts at zero: to be handled
        now, or when it was promised if its kind is one that is adopted.

        :raises NoSuchDeadline: :raises NotParked: nothing was changed.
        """

        token = new_token()

        if kind_problem(kind) or _key_problem(key):
            raise exceptions.NoSuchDeadline(kind=_shown(kind), key=_shown(key))

        def give_back(own: sa.Connection) -> None:
            found = self._deadlines.find(own, kind, key)
            if found is None:
                raise exceptions.NoSuchDeadline(kind=kind, key=key)
            if not self._deadlines.unpark(own, found, token):
                raise exceptions.NotParked(kind=kind, key=key, state=found.state)

        self._write(give_back)

    @contextlib.contextmanager
    def guard(
        self,
        kind: str,
        key: str,
        due_in: float | None = None,
        due_at: datetime | None = None,
        payload: Any = None,
        max_attempts: int | None = None,
    ) -> Iterator[Guard]:
        """Run the block under a deadline: armed before, disarmed after, whether the
        block returns or raises; left armed if this engine dies, or if the block ends
        because the engine may not go on (it raises what :meth:`Guard.check` raises).

        If the database is away at the end, the deadline is disarmed when it is back.
        Errors as :meth:`arm`; and StaleDeadline at the end when it came due while the
        block ran and was given to a handler.
        """
        guard = Guard(self, self.arm(kind, key, due_in, due_at, payload, max_attempts))
        self.guards.add(guard)
        try:
            yield guard
        except (exceptions.NotTrusted, exceptions.StaleDeadline):
            self.guards.discard(guard)  # cut short: somebody has to do it again
            raise
        except BaseException:
            with contextlib.suppress(exceptions.StaleDeadline, exceptions.Fenced):
                self._end(guard)
            raise
        self._end(guard)

    def _end(self, guard: Guard) -> None:
        try:
            self._finish(guard)
        finally:
            # Not before its row is gone: draining would hand it back.
            self.guards.discard(guard)

    def _finish(self, guard: Guard) -> None:
        deadline = guard.deadline
        if guard.handed_over:
            raise exceptions.StaleDeadline(
                kind=deadline.kind, key=deadline.key, token=deadline.token
            )
        try:
            guard.finish()
        except exceptions.DatabaseError as error:
            self.trust.check_not_fenced()
            LOG.warning(
                "%s is done, but could not be disarmed; it will be, when the database"
                " is back. %s",
                deadline,
                error,
                event="undisarmed",
            )
            self._settle_later([(value, Done()) for value in guard.values])

    def is_due(self, deadline: Deadline) -> bool:
        """True when it is due, as this engine reckons, which asks no database."""
        return self._left(deadline.due_at, 0.0) <= 0

    def given_to_handlers(self, row_ids: Sequence[int]) -> None:
        """This engine claimed these rows: guards of them are told that time is up."""
        for guard in list(self.guards):
            guard.handed_over |= guard.deadline.id in row_ids

    # --- checks -----------------------------------------------------------------

    def _news(self, arms: Sequence[Arm]) -> list[NewDeadline]:
        tokens = new_tokens(len(arms))
        news = [self._new(arm, token) for arm, token in zip(arms, tokens, strict=True)]
        self.trust.check()
        return news

    def _new(self, arm: Arm, token: int) -> NewDeadline:
        kind, key = arm.kind, arm.key
        known = isinstance(kind, str) and kind in self._handlers
        problem = (None if known else kind_problem(kind)) or _key_problem(key)
        if problem:
            raise exceptions.InvalidDeadline(
                kind=_shown(kind), key=_shown(key), reason=problem
            )
        if not known:
            handled = ", ".join(sorted(self._handlers)) or "none"
            raise exceptions.UnknownKind(kind=kind, key=key, known=handled)
        due = self._due(kind, key, arm.due_in, arm.due_at)
        most, payload = self._attempts(arm), self._payload(arm)
        return NewDeadline(kind, key, self._me, due, most, payload, token)

    def _due(self, kind: str, key: str, due_in: Any, due_at: Any) -> float | datetime:
        try:
            if (due_in is None) == (due_at is None):
                raise ValueError("give either due_in (seconds) or due_at (UTC)")
            if due_in is not None:
                return clocks.seconds(due_in, "due_in")
            return clocks.moment(due_at, "due_at")
        except ValueError as error:
            raise exceptions.InvalidDeadline(
                kind=kind, key=key, reason=str(error)
            ) from None

    def _attempts(self, arm: Arm) -> int:
        most = arm.max_attempts
        if most is None:
            return self._handlers.max_attempts(arm.kind)
        if (
            isinstance(most, bool)
            or not isinstance(most, int)
            or not 0 < most < 1 << 31
        ):
            raise exceptions.InvalidDeadline(
                kind=arm.kind,
                key=arm.key,
                reason=f"max_attempts must be a whole number from 1, not {most!r}",
            )
        return most

    def _payload(self, arm: Arm) -> str | None:
        if arm.payload is None:
            return None
        try:
            text = dump_payload(arm.payload)
            limit = self.settings.payload_limit
            if text is not None and len(text) > limit:
                raise ValueError(
                    f"its payload is {len(text)} bytes as JSON, more than"
                    f" payload_limit ({limit})"
                )
        except ValueError as error:
            raise exceptions.InvalidDeadline(
                kind=arm.kind, key=arm.key, reason=str(error)
            ) from None
        return text

    # --- writes -----------------------------------------------------------------

    def _write(self, statement: Callable[[sa.Connection], R]) -> R:
        """Run an idempotent ``statement`` on a connection of our own, again when the
        database had a passing trouble."""

        self.trust.check_not_stopped()

        def once() -> R:
            with self._pool.connect() as own:
                return statement(own)

        try:
            return retrying(once)
        except exceptions.LivenessError:
            raise
        except Exception as error:
            if not is_database_error(error):
                raise
            raise exceptions.DatabaseError(
                url=self._url, reason=one_line(error)
            ) from error

    def _arm(
        self,
        news: Sequence[NewDeadline],
        insert: Callable[[sa.Connection], list[Deadline]],
    ) -> list[Deadline]:
        """Insert ``news``. After a lost answer, again only while none can have been
        handled: what is gone because it is done would be armed a second time."""
        began = self.trust.now
        unknown = False

        def once(own: sa.Connection) -> list[Deadline]:
            nonlocal unknown
            if unknown and self._may_be_done(news, began):
                return self._armed_by_an_earlier_try(own, news)
            before, unknown = unknown, True
            try:
                return insert(own)
            except db_exc.DBDeadlock:  # the server says that nothing was changed
                unknown = before
                raise

        return self._write(once)

    def _may_be_done(self, news: Sequence[NewDeadline], began: float) -> bool:
        soon = self.settings.database_timeout
        return not self.trust.good or any(
            self._left(new.due, began) <= soon for new in news
        )

    def _armed_by_an_earlier_try(
        self, own: sa.Connection, news: Sequence[NewDeadline]
    ) -> list[Deadline]:
        values = self._deadlines.armed(own, news)
        if values is None:
            raise exceptions.DatabaseError(
                url=self._url,
                reason="the answer to an arm was lost, and it is not there: it was"
                " never armed, or has been handled since",
            )
        return values


def _plain(connection: sa.Connection | Session) -> sa.Connection:
    if isinstance(connection, sa.Connection):
        return connection
    return connection.connection()


def _key_problem(key: Any) -> str | None:
    if not isinstance(key, str) or not key:
        return f"its key must be a text that is not empty, not {key!r:.100}"
    if len(key) > KEY_LENGTH:
        return f"its key has {len(key)} characters, more than {KEY_LENGTH}"
    if key != key.strip():
        return "its key must not begin or end with white space"
    if not key.isprintable():
        return "its key has characters that cannot be printed"
    return None


def _shown(text: Any) -> str:
    return ascii(text)[:80].strip("'\"") if isinstance(text, str) else f"{text!r:.80}"
