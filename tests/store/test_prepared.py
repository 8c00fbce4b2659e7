"""What is sent as text is what SQLAlchemy would have sent."""

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from liveness.clock import Clock, UtcDateTime
from liveness.db import tables
from liveness.db.prepared import Prepared, Statements
from liveness.db.rows import among
from tests.clock import SettableClock

D = tables.deadline


@pytest.fixture
def connection():
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        yield connection


def numbers(connection):
    """Asks which of the numbers of a list are 1, 2 or 3."""
    rows = [sa.select(sa.literal(number).label("id")) for number in (1, 2, 3)]
    some = sa.union_all(*rows).subquery()
    statement = sa.select(some.c.id).where(among(connection, some.c.id, "ids"))
    return Prepared(statement, connection.dialect)


def test_a_list_of_numbers_is_put_in_place(connection):
    found = numbers(connection).execute(connection, {"ids": [3, 5, 1]})
    assert sorted(found.scalars()) == [1, 3]


def test_an_empty_list_holds_nothing(connection):
    assert not list(numbers(connection).execute(connection, {"ids": []}))


def test_what_is_no_number_is_put_in_no_statement(connection):
    with pytest.raises(ValueError):
        numbers(connection).execute(connection, {"ids": ["1) OR (1=1"]})


def test_a_list_of_texts_cannot_be_prepared(connection):
    statement = sa.select(D.c.id).where(D.c.state.in_(["armed", "claimed"]))
    with pytest.raises(AssertionError, match="only lists of numbers"):
        Prepared(statement, connection.dialect)


def test_times_are_read_and_written_as_their_type_says(connection):
    moment = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
    echo = sa.bindparam("when", type_=UtcDateTime()).label("when")
    statement = Prepared(sa.select(echo), connection.dialect, [echo])
    assert statement.rows(connection, {"when": moment}) == [[moment]]


def test_a_clock_is_asked_at_each_execution(connection):
    clock = SettableClock()
    now = clock.database_now().label("now")
    statement = Prepared(sa.select(now), connection.dialect, [now])
    assert statement.rows(connection, {}) == [[clock.utc]]
    clock.advance(5)
    assert statement.rows(connection, {}) == [[clock.utc]]


def test_another_time_takes_the_place_of_the_one_it_was_made_with(connection):
    clock = Clock()
    then = clock.database_now()
    both = [then.label("then"), clock.database_now().label("now")]
    statement = Prepared(
        sa.select(*both), connection.dialect, both, moments={"then": then}
    )
    ((later, now),) = statement.rows(
        connection, {}, moments={"then": clock.database_now(3600)}
    )
    assert (later - now).total_seconds() == 3600


def test_names_do_not_pile_up(connection):
    statements = Statements(most=2)
    made = []
    for name in (1, 1, 2, 2, 3, 3):
        statements.get(
            name, connection.dialect, lambda name=name: made.append(name) or 7
        )
    assert made == [1, 2, 3]
    assert len(statements._made) <= 2
