"""Writes down what an engine asks of the database, and what it is told.

Every function here stands around one of the product's own and changes nothing of what
it does. What is asked is written before it is sent: a process that dies in between has
said what it was about to do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from liveness.db.arming import NewDeadline
from liveness.db.claims import Claims
from liveness.db.deadlines import Deadlines
from liveness.db.engines import Engines
from liveness.db.heads import Heads
from tests.chaos.history import note, now


def install() -> None:
    """From now on, in this process."""
    _around(Engines, "register", _registering)
    _around(Engines, "beat", _beating)
    _around(Engines, "fence", _fencing)
    for name in ("arm", "arm_many"):
        _around(Deadlines, name, _arming)
    _around(Deadlines, "complete", _completing)
    _around(Deadlines, "move", _moving)
    _around(Deadlines, "extend", _extending)
    _around(Deadlines, "hand_back", _handing_back)
    for name in ("claim_own", "claim_overdue", "claim_orphans", "adopt_orphans"):
        _around(Claims, name, functools.partial(_claiming, name))
    _around(Claims, "chain", _chaining)
    _around(Heads, "claim", _heading)
    _around(Claims, "adopt_lost", functools.partial(_claiming, "adopt_lost"))
    _around(Claims, "park", _parking)


def _around(cls: type, name: str, watcher: Callable[..., Any]) -> None:
    original = getattr(cls, name)

    @functools.wraps(original)
    def watched(self: Any, connection: Any, *args: Any, **kwargs: Any) -> Any:
        call = functools.partial(original, self, connection, *args, **kwargs)
        return watcher(call, *args, **kwargs)

    setattr(cls, name, watched)


def _told(call: Callable[[], Any], what: str, **facts: Any) -> Any:
    """The answer, written down; or that there was none."""
    sent = now()
    try:
        answer = call()
    except BaseException as error:
        note(what, **facts, sent=sent, error=type(error).__name__)
        raise
    note(what, **facts, sent=sent, answer=answer)
    return answer


def _registering(call: Any, engine: Any) -> Any:
    return _told(
        call, "registered", engine=engine.id, seq=engine.beat_seq, ttl=engine.ttl
    )


def _beating(
    call: Any, engine_id: str, token: int, sent: int, seq: int, ttl: float
) -> Any:
    return _told(call, "beat", engine=engine_id, seq=seq, ttl=ttl)


def _fencing(call: Any, victim: Any, by: str, evidence: str) -> Any:
    facts = {"engine": by, "victim": victim.id, "seen": victim.beat_seq}
    note("fencing", **facts, evidence=evidence)
    return _told(call, "fence", **facts)


def _arming(call: Any, news: Any, hosted: bool = False) -> Any:
    news = [news] if isinstance(news, NewDeadline) else news
    note("arming", engine=news[0].owner_id, tokens=[new.token for new in news])
    return call()


def _completing(call: Any, deadlines: Any, again: bool = False) -> Any:
    tokens = [value.token for value in deadlines]
    engine = deadlines[0].owner_id
    note("settling", engine=engine, how="complete", tokens=tokens, again=again)
    stale = call()
    gone = [value for value in deadlines if value.id not in stale]
    rows = [value.id for value in gone]
    tokens = [value.token for value in gone]
    told = {"how": "complete", "tokens": tokens, "rows": rows, "again": again}
    told["asked"] = len(deadlines)
    note("settled", engine=engine, **told)
    return stale


def _moving(call: Any, deadline: Any, token: int, **values: Any) -> Any:
    facts = {"engine": deadline.owner_id, "how": str(values.get("state"))}
    note("settling", **facts, tokens=[deadline.token], to=token)
    counted = call()
    if counted:
        note("settled", **facts, tokens=[deadline.token], to=token)
    return counted


def _extending(call: Any, deadline: Any, due: Any, token: int) -> Any:
    note("extending", engine=deadline.owner_id, tokens=[deadline.token], to=token)
    return call()


def _handing_back(call: Any, engine_id: str, limit: int) -> Any:
    note("handing back", engine=engine_id)
    return call()


def _claiming(how: str, call: Any, me: str, found: Any, *args: Any, **rest: Any) -> Any:
    if not found:
        return call()
    note("claiming", engine=me, how=how, tokens=[value.token for value in found])
    try:
        taken = call()
    except BaseException as error:
        note("claimed", engine=me, how=how, tokens=None, error=type(error).__name__)
        raise
    note("claimed", engine=me, how=how, tokens=[value.token for value in taken])
    return taken


def _chaining(call: Any, me: str, done: Any, again: bool, found: Any) -> Any:
    """Both in one transaction: what is asked of both, and then what both were told."""
    answer: list[Any] = []

    def settle() -> Any:
        def claim() -> Any:
            answer.extend(call())
            return answer[1]

        _claiming("claim_own", claim, me, found)
        return answer[0]

    _completing(settle, done, again)
    return tuple(answer)


def _heading(call: Any, ask: Any, done: Any = (), again: bool = False) -> Any:
    """A claim from the head of a line: of what rows, is known when it is answered."""
    asked = {"engine": ask.me, "how": "head", "line": ask.line.name.lower()}
    asked |= {"kinds": list(ask.kinds), "limit": ask.limit}
    answer: list[Any] = []

    def claim() -> Any:
        note("heading", **asked)
        try:
            answer.extend(call())
        except BaseException as error:
            note("claimed", **asked, tokens=None, error=type(error).__name__)
            raise
        note("claimed", **asked, tokens=[value.token for value in answer[1]])
        return answer[0]

    if done:
        _completing(claim, done, again)
    else:
        claim()
    return tuple(answer)


def _parking(call: Any, found: Any, reason: str, grace: float | None = None) -> Any:
    note("parking", tokens=[found.token], reason=reason)
    return call()
