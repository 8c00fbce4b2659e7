"""The suite's own servers do what the other tests take for granted."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import sqlalchemy as sa

from tests.proc import Process, gone, until

pytestmark = pytest.mark.parametrize(
    "backend", ["mariadb", "postgresql"], indirect=True
)


def scalar(url, sql, **connect_args):
    engine = sa.create_engine(
        url, poolclass=sa.pool.NullPool, connect_args=connect_args
    )
    with engine.connect() as connection:
        return connection.execute(sa.text(sql)).scalar()


def run(url, *statements):
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def test_the_url_reaches_an_empty_database(database_url):
    assert scalar(database_url, "SELECT 1") == 1
    engine = sa.create_engine(database_url, poolclass=sa.pool.NullPool)
    assert sa.inspect(engine).get_table_names() == []


def test_a_wrong_password_is_refused(server, database_url):
    name = sa.engine.make_url(database_url).database
    with pytest.raises(sa.exc.OperationalError):
        scalar(server.url(name, password="wrong"), "SELECT 1")


def test_two_databases_are_separate(server, database_url):
    server.create_database("another")
    try:
        run(database_url, "CREATE TABLE one (id INT PRIMARY KEY)")
        with pytest.raises(sa.exc.DBAPIError):
            scalar(server.url("another"), "SELECT count(*) FROM one")
    finally:
        server.drop_database("another")


def test_a_database_in_use_is_dropped(server):
    server.create_database("busy")
    run(server.url("busy"), "CREATE TABLE t (id INT PRIMARY KEY)")
    engine = sa.create_engine(server.url("busy"), poolclass=sa.pool.NullPool)
    connection = engine.connect()
    connection.execute(sa.text("SELECT count(*) FROM t"))
    server.drop_database("busy")
    with pytest.raises(sa.exc.DBAPIError):
        connection.execute(sa.text("SELECT count(*) FROM t"))
    connection.invalidate()


def test_committed_rows_survive_a_kill_and_a_restart(server, database_url):
    run(
        database_url,
        "CREATE TABLE t (id INT PRIMARY KEY)",
        "INSERT INTO t VALUES (1)",
    )
    run(database_url, "INSERT INTO t VALUES (2)")
    server.kill()
    with pytest.raises(sa.exc.OperationalError):
        scalar(database_url, "SELECT 1")
    server.start()
    assert scalar(database_url, "SELECT count(*) FROM t") == 2
    server.restart()
    assert scalar(database_url, "SELECT count(*) FROM t") == 2


def test_a_paused_server_hangs_and_a_resumed_one_answers(server, database_url):
    engine = sa.create_engine(database_url, poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        server.pause()
        states = {member.state for member in server.process.family()}
        assert states == {"T"}
        started = time.monotonic()
        with pytest.raises(sa.exc.OperationalError):
            limit = {"connect_timeout": 2}
            if server.label == "MariaDB":
                limit["read_timeout"] = 2
            scalar(database_url, "SELECT 1", **limit)
        assert time.monotonic() - started > 1.5
        server.resume()
        assert connection.execute(sa.text("SELECT 1")).scalar() == 1


@pytest.mark.parametrize("paused", [False, True])
def test_no_server_survives_a_killed_suite(server, paused):
    script = textwrap.dedent(f"""
        import time
        from tests import servers
        server = servers.{type(server).__name__}()
        server.start()
        members = server.process.family()
        if {paused}:
            server.pause()
        print(server.folder, *(f'{{m.pid}}:{{m.started}}' for m in members), flush=True)
        time.sleep(600)
    """)
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=os.path.dirname(os.path.dirname(__file__)),
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        folder, *members = child.stdout.readline().split()
        child.send_signal(signal.SIGKILL)
    family = [
        Process(int(pid), int(started))
        for pid, started in (member.split(":") for member in members)
    ]
    assert family
    assert gone(family, 15)
    assert until(lambda: not os.path.exists(folder), 15)
