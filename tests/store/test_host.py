"""Arms and disarms inside the host program's own transactions."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from liveness import exceptions

HOSTS = [
    ("sqlite", None),
    ("mariadb", None),
    ("mariadb", "READ COMMITTED"),
    ("mariadb", "REPEATABLE READ"),
    ("postgresql", None),
    ("postgresql", "READ COMMITTED"),
    ("postgresql", "REPEATABLE READ"),
]


@pytest.fixture(params=HOSTS, ids=lambda host: "-".join(map(str, host)))
def kind_of_host(request) -> tuple[str, str | None]:
    return request.param


@pytest.fixture
def backend(kind_of_host) -> str:
    return kind_of_host[0]


@pytest.fixture
def host(store, kind_of_host) -> Iterator[sa.Connection]:
    """A host program's connection, under each isolation level that it may have."""
    with store.host(kind_of_host[1]) as connection:
        yield connection


def test_an_arm_is_real_when_the_callers_transaction_commits(store, host):
    value = store.deadlines.arm(host, store.new())
    assert store.find() is None
    host.commit()
    assert store.row() == value


def test_an_arm_is_gone_when_the_callers_transaction_rolls_back(store, host):
    store.deadlines.arm(host, store.new())
    host.rollback()
    assert store.find() is None
    store.arm()


def test_the_callers_transaction_goes_on_after_already_armed(store, host):
    before = store.arm("taken", owner="other")
    store.deadlines.arm(host, store.new("one"))
    with pytest.raises(exceptions.AlreadyArmed):
        store.deadlines.arm(host, store.new("taken"))
    store.deadlines.arm(host, store.new("two"))
    host.commit()
    assert store.keys() == ["one", "taken", "two"]
    assert store.row("taken") == before


def test_arming_one_key_twice_in_a_transaction_is_refused(store, host):
    first = store.deadlines.arm(host, store.new())
    with pytest.raises(exceptions.AlreadyArmed):
        store.deadlines.arm(host, store.new())
    host.commit()
    assert store.row() == first


def test_a_disarm_is_real_when_the_callers_transaction_commits(store, host):
    value = store.arm()
    assert store.deadlines.complete(host, [value]) == set()
    host.rollback()
    assert store.row() == value
    assert store.deadlines.complete(host, [value]) == set()
    host.commit()
    assert store.find() is None


def test_many_are_armed_in_the_callers_transaction(store, host):
    values = store.deadlines.arm_many(
        host, [store.new("a"), store.new("b")], hosted=True
    )
    host.commit()
    assert [store.row("a"), store.row("b")] == values
