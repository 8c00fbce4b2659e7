"""Statements that are compiled once and then sent as text.

SQLAlchemy finds a compiled statement by a key that it makes of all the statement's
parts, at each execution. For the few statements that an engine sends all the time this
costs more than the rest of the way to the driver.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa


def parameter_of(moment: Any) -> sa.BindParameter[Any]:
    """The one parameter of what :meth:`liveness.clock.Clock.database_now` gives."""
    (found,) = moment.get_children()
    parameter: sa.BindParameter[Any] = found
    return parameter


def kind_of(dialect: sa.Dialect) -> Hashable:
    """Dialects of one kind compile a statement to the same text."""
    mariadb = getattr(dialect, "is_mariadb", False)
    version = dialect.server_version_info if dialect.name == "mysql" else None
    parts = dialect.name, dialect.driver, dialect.paramstyle, dialect.insert_returning
    return *parts, mariadb, version


class Prepared:
    """One statement for one kind of dialect."""

    def __init__(
        self,
        statement: Any,
        dialect: sa.Dialect,
        columns: Sequence[sa.ColumnElement[Any]] = (),
        moments: Mapping[str, Any] | None = None,
    ) -> None:
        """``columns``: what the statement returns; ``moments``: times in it, by names
        under which other times can be given to :meth:`execute`."""
        compiled: Any = statement.compile(dialect=dialect)
        self._text: str = compiled.string
        self._options = dict(statement.get_execution_options())
        self._fixed: dict[str, Any] = {}
        self._asked: dict[str, Any] = {}  # anew for each execution
        self._lists: dict[str, str] = {}
        self._bound: dict[str, Callable[[Any], Any]] = {}
        for parameter, name in compiled.bind_names.items():
            self._add(parameter, name, dialect)
        self._order: list[str] | None = None
        if compiled.positional:
            self._order = [n for n in compiled.positiontup if n not in self._lists]
        names = compiled.bind_names
        self._moments = {
            given: names[parameter_of(moment)]
            for given, moment in (moments or {}).items()
        }
        types = [column.type.dialect_impl(dialect) for column in columns]
        found = [type_.result_processor(dialect, None) for type_ in types]
        self.readers = [(n, read) for n, read in enumerate(found) if read is not None]

    def _add(self, parameter: Any, name: str, dialect: sa.Dialect) -> None:
        mark = f"__[POSTCOMPILE_{name}]"
        if mark in self._text:
            assert parameter.required, f"{name}: only lists of numbers are put in place"
            self._lists[name] = mark
            return
        bound = parameter.type.dialect_impl(dialect).bind_processor(dialect)
        if bound is not None:
            self._bound[name] = bound
        if parameter.callable is not None:
            self._asked[name] = parameter
        elif not parameter.required:
            value = parameter.value
            self._fixed[name] = value if bound is None else bound(value)

    def execute(
        self,
        connection: sa.Connection,
        values: Mapping[str, Any],
        moments: Mapping[str, Any] | None = None,
    ) -> sa.CursorResult[Any]:
        """Run it with ``values`` by name; lists are of whole numbers."""
        sent = {n: asked.effective_value for n, asked in self._asked.items()}
        for given, moment in (moments or {}).items():
            sent[self._moments[given]] = parameter_of(moment).effective_value
        sent.update(values)
        text = self._text
        for name, mark in self._lists.items():
            numbers = ",".join([str(int(number)) for number in sent.pop(name)])
            text = text.replace(mark, numbers or "NULL")
        for name, bound in self._bound.items():
            if name in sent:
                sent[name] = bound(sent[name])
        sent = self._fixed | sent
        ordered: Any = sent
        if self._order is not None:
            ordered = tuple([sent[name] for name in self._order])
        return connection.exec_driver_sql(text, ordered, self._options or None)

    def rows(
        self,
        connection: sa.Connection,
        values: Mapping[str, Any],
        moments: Mapping[str, Any] | None = None,
    ) -> list[list[Any]]:
        """Run it; what it returns, column by column as their types say."""
        rows = list(map(list, self.fetched(connection, values, moments)))
        for number, read in self.readers:
            for row in rows:
                row[number] = read(row[number])
        return rows

    def fetched(
        self,
        connection: sa.Connection,
        values: Mapping[str, Any],
        moments: Mapping[str, Any] | None = None,
    ) -> Sequence[tuple[Any, ...]]:
        """Run it; what it returns, as the driver gives it: :attr:`readers` say of which
        columns by number something else is to be made, and how."""
        result = self.execute(connection, values, moments)
        # Past SQLAlchemy's rows, which are made one by one to be taken apart again.
        rows: Sequence[tuple[Any, ...]] = result.cursor.fetchall()
        result.close()
        return rows


class ManyRows:
    """An INSERT of one row, for many of them in one text. (PyMySQL sends them one by
    one if there is more than parameters in a row; SQLAlchemy's own way of it costs
    three times as much.)"""

    _MARK = re.compile(r"%\((\w+)\)s")

    def __init__(
        self, statement: Any, dialect: sa.Dialect, columns: Sequence[str]
    ) -> None:
        """``columns``: what is given with each row; the rest is the statement's."""
        compiled: Any = statement.compile(dialect=dialect, column_keys=list(columns))
        head, values, rest = compiled.string.partition("VALUES (")
        row, end, self._tail = rest.rpartition(")")
        self._head = head + values[:-1]
        self._row = "(" + self._MARK.sub("%s", row) + end
        self._order = self._MARK.findall(row)
        self._fixed = {
            name: value for name, value in compiled.params.items() if value is not None
        }

    def execute(
        self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]
    ) -> sa.CursorResult[Any]:
        """Insert all of ``rows``, as the driver takes their values."""
        text = self._head + ",".join([self._row] * len(rows)) + self._tail
        names, fixed = self._order, self._fixed
        whole = (fixed | dict(row) for row in rows)
        values = [row[name] for row in whole for name in names]
        return connection.exec_driver_sql(text, tuple(values))


def rows_of_json(dialect: str, columns: Sequence[sa.Column[Any]]) -> list[Any]:
    """``columns`` of the rows in the parameter ``rows``, a JSON text: of lists on
    SQLite, of objects on PostgreSQL. One text for any number of rows is compiled once,
    planned once, and has one parameter."""
    if dialect == "sqlite":
        rows = sa.func.json_each(sa.bindparam("rows", type_=sa.Text))
        value = rows.table_valued("value").c.value
        return [sa.func.json_extract(value, f"$[{n}]") for n in range(len(columns))]
    text = sa.cast(sa.bindparam("rows", type_=sa.Text), sa.JSON)
    typed = [sa.column(column.name, column.type) for column in columns]
    found = sa.func.json_to_recordset(text).table_valued(*typed, name="rows")
    return list(found.render_derived(with_types=True).c)


class Statements:
    """Prepared statements by name and kind of dialect, each made when first asked
    for. Not more than ``most``: names may hold what an operator changes."""

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._made: dict[Hashable, Prepared] = {}

    def get(
        self, name: Hashable, dialect: sa.Dialect, make: Callable[[], Prepared]
    ) -> Prepared:
        key = (name, kind_of(dialect))
        made = self._made.get(key)
        if made is None:
            if len(self._made) >= self._most:
                self._made.clear()
            made = self._made[key] = make()
        return made
