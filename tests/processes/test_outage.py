"""The database goes away and comes back: everybody waits, nobody is fenced."""

from __future__ import annotations

import contextlib

import pytest
import sqlalchemy as sa

from tests.processes.conftest import on
from tests.processes.crew import FAST, Crew, Program, eventually
from tests.processes.journal import now
from tests.servers import MariaDB, Server

SERVERS = on("mariadb", "postgresql")

BEGIN = {"stop": Server.stop, "crash": Server.kill, "pause": Server.pause}
END = {"stop": Server.start, "crash": Server.start, "pause": Server.resume}


def two_at_work(crew: Crew) -> tuple[Program, Program]:
    """Two engines, each with work under a guard that goes on after a refusal."""
    one, two = crew.start("one"), crew.start("two")
    for engine in (one, two):
        engine.tell("guard", key=f"guard of {engine.name}", due_in=500, persist=True)
        engine.await_event("effect")
    return one, two


def check_that_nobody_was_fenced(crew: Crew, *engines: Program) -> None:
    """All go on as the same incarnations, and finish what they had begun."""
    crew.await_beats(*engines)
    rows = crew.engines()
    assert {row["state"] for row in rows.values()} == {"live"}
    assert set(rows) == {engine.engine_id for engine in engines}
    for engine in engines:
        since = now()
        eventually(
            lambda e=engine, t=since: e.events("effect")[-1]["checked"] > t,
            f"{engine} works again",
        )
        engine.tell("end", key=f"guard of {engine.name}")
        engine.await_event("finished")
        assert not engine.events("fenced")


@SERVERS
@pytest.mark.parametrize("how", ["stop", "crash", "pause"])
def test_an_outage_longer_than_the_lease_kills_nobody(
    crew: Crew, server: Server, how: str
):
    one, two = two_at_work(crew)
    one.arm("timer", "due meanwhile", due_in=1.5)
    one.arm("timer", "due later", due_in=500)

    BEGIN[how](server)
    gone = now()
    for engine in (one, two):
        refused = engine.await_event("refused")
        assert refused["error"] == "Suspended"
    eventually(lambda: now() - gone > FAST["ttl"] + 1.5, "more than a lease")
    back = now()
    END[how](server)

    crew.await_settled("due meanwhile")
    check_that_nobody_was_fenced(crew, one, two)
    for engine in (one, two):
        first = engine.events("refused")[0]["at"]
        meanwhile = [
            event
            for event in engine.events("effect")
            if first < event["checked"] < back
        ]
        assert not meanwhile, "an effect while suspended"
    assert crew.owners() == {"due later": one.engine_id}
    crew.check_invariants()


@SERVERS
def test_a_restart_of_the_server_is_only_a_hiccup(crew: Crew, server: Server):
    one, two = two_at_work(crew)
    one.arm("timer", "due meanwhile", due_in=0.7)
    server.restart()
    crew.await_settled("due meanwhile")
    check_that_nobody_was_fenced(crew, one, two)
    crew.check_invariants()


@SERVERS
def test_connections_that_the_server_cuts_are_made_anew(crew: Crew, server: Server):
    one, two = two_at_work(crew)
    keys = [f"due {n}" for n in range(6)]
    # Late enough to be armed again when the answer is lost: what is due sooner than the
    # database answers may have been handled, and nobody knows.
    soonest = 2 * FAST["database_timeout"]
    for number, key in enumerate(keys):
        one.arm("timer", key, due_in=soonest + number / 5)
        cut(server, crew)
    crew.await_settled(*keys)
    check_that_nobody_was_fenced(crew, one, two)
    crew.check_invariants()


@SERVERS
def test_a_beat_that_is_cut_in_the_middle_is_sent_again(crew: Crew, server: Server):
    one, two = two_at_work(crew)
    for _ in range(3):
        with row_lock(crew, one.engine_id):
            eventually(
                lambda: cut(server, crew, beating=True), "a beat waits for the lock"
            )
        crew.await_beats(one)
    assert "could not beat" in one.output()
    check_that_nobody_was_fenced(crew, one, two)


@contextlib.contextmanager
def row_lock(crew: Crew, engine_id: str):
    """Hold the lock of an engine's row for the block."""
    engine = sa.create_engine(crew.url, poolclass=sa.NullPool)
    lock = sa.text("SELECT id FROM liveness_engine WHERE id = :id FOR UPDATE")
    with engine.begin() as connection:
        connection.execute(lock, {"id": engine_id})
        yield


def cut(server: Server, crew: Crew, beating: bool = False) -> int:
    """Cut the engines' connections, or only those in the middle of a beat. Return how
    many were cut."""
    name = sa.make_url(crew.url).database
    beat = "LIKE 'UPDATE liveness_engine SET%'"
    if isinstance(server, MariaDB):
        where = f"db = '{name}'" + (f" AND info {beat}" if beating else "")
        rows = server.admin(
            f"SELECT id FROM information_schema.processlist WHERE {where}"
        )
        for (session,) in rows:
            with contextlib.suppress(Exception):  # it may have left by itself
                server.admin(f"KILL {session}")
        return len(rows)
    where = f"datname = '{name}'"
    if beating:
        where += f" AND state = 'active' AND query {beat}"
    return len(
        server.admin(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {where}"
        )
    )
