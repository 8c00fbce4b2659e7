"""What an engine's user may do, and that it needs all of it.

Every test that asks for `schema_url` runs on a server as that user, whose rights are
read from the page on databases; here is what it may not.
"""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

import liveness
from liveness import exceptions
from liveness.db import migration, tables
from tests.commands import managed, one_line
from tests.fleet import wait_until
from tests.test_migrations import run


@pytest.fixture(params=["mariadb", "postgresql"])
def backend(request):
    return request.param


def test_an_engine_needs_no_more_rights_than_the_docs_name(schema_url):
    ran = []
    options = {"connection": schema_url, "engine_retention": 0}
    with liveness.start(**options) as former:  # its row is for the next to purge
        former_id = former.engine_id
    live = liveness.Liveness(liveness.Settings.of(**options))

    @live.handler("kind")
    def handle(deadline):
        ran.append(deadline.key)
        return liveness.Park("why not") if deadline.key == "park" else liveness.Done()

    live.start()
    try:
        live.arm("kind", "now", due_in=0)
        live.arm("kind", "park", due_in=0)
        live.disarm(live.extend(live.arm("kind", "never", due_in=600), due_in=700))
        live.arm_many([liveness.Arm("kind", f"row {n}", due_in=0) for n in range(3)])
        wait_until(lambda: {"now", "park", "row 0", "row 1", "row 2"} <= set(ran), 30)
        wait_until(live.parked, 30)
        live.unpark("kind", "park")
        wait_until(lambda: ran.count("park") == 2, 30)
        live.arm("kind", "left", due_in=600)
    finally:
        live.stop()
    states = run(schema_url, "SELECT id, state FROM liveness_engine")
    assert states == [[(live.engine_id, "stopped")]]
    assert former_id != live.engine_id
    with sa.create_engine(schema_url).connect() as connection:
        left = sa.select(tables.deadline.c.owner_id).where(
            tables.deadline.c.key == "left"
        )
        assert connection.execute(left).all() == [(None,)]


FORBIDDEN = {
    "make a table": "CREATE TABLE mine (id INTEGER)",
    "add a column": "ALTER TABLE liveness_deadline ADD COLUMN extra INTEGER",
    "add an index": "CREATE INDEX extra ON liveness_event (what)",
    "drop a table": "DROP TABLE liveness_event",
    "empty a table": "TRUNCATE TABLE liveness_deadline",
    "rewrite the history": "UPDATE liveness_event SET what = 'nothing'",
    "pretend another schema": "UPDATE liveness_alembic_version SET version_num = '9.0'",
    "forget the schema": "DELETE FROM liveness_alembic_version",
    "read the host's tables": "SELECT * FROM host_secret",
    "write the host's tables": "INSERT INTO host_secret VALUES (1)",
}


def test_an_engines_user_can_neither_change_the_schema_nor_see_the_hosts_tables(
    schema_url, owned_url
):
    run(owned_url, "CREATE TABLE host_secret (id INTEGER)")
    for what, statement in FORBIDDEN.items():
        with pytest.raises(sa.exc.DBAPIError) as refused:
            run(schema_url, statement)
        said = str(refused.value.orig)
        assert "denied" in said or "must be owner" in said, (what, said)
    assert migration.differences(owned_url) == []
    assert migration.version(owned_url) == migration.needed()


def test_an_engines_user_cannot_bring_the_schema_up_to_date(schema_url, owned_url):
    migration.sync(owned_url, "1.0")
    text = one_line(managed("db", "sync", "--connection", schema_url))
    assert "denied" in text
    assert migration.version(owned_url) == "1.0"


def each_right(server, database):
    """For every right that the page names, the statement that takes it away."""
    for grant in server.grants(database):
        rights, where, user = re.match(
            r"GRANT ([\w, ]+) ON (.+) TO (.+)", grant
        ).groups()
        sequence, _, names = where.rpartition("SEQUENCE ")
        for name in names.split(", "):
            for right in rights.split(", "):
                on = f"SEQUENCE {name}" if sequence else name
                yield f"REVOKE {right} ON {on} FROM {user}"


def test_without_any_one_of_its_rights_an_engine_does_not_start(schema_url, server):
    name = sa.make_url(schema_url).database
    settings = liveness.Settings.of(connection=schema_url)
    taken = list(each_right(server, name))
    assert len(taken) >= 12
    for revoke in taken:
        server.admin(revoke, name)
        live = liveness.Liveness(settings)
        with pytest.raises(exceptions.LivenessError) as refused:
            live.start()
            live.stop()
        text = str(refused.value)
        assert "\n" not in text, (revoke, text)
        assert "denied" in text or "db sync" in text, (revoke, text)
        server.admin(revoke.replace("REVOKE", "GRANT").replace(" FROM ", " TO "), name)
    live = liveness.Liveness(settings)
    live.start()
    live.stop()
