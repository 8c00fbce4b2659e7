"""``liveness-manage db …``: the schema."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from liveness.cmd import app

if TYPE_CHECKING:
    from liveness.conf import Settings


class Sync(app.Command):
    """Make the tables, or bring them up to what this release needs.

    Run it before the first start and before the engines of a new release start. Safe
    to run again, by several at once, and after it was killed half-way. The host
    program's own tables in the same database are not touched.
    """

    examples = (
        "db sync --connection sqlite:////var/lib/liveness/liveness.sqlite",
        "db sync --config-file /etc/heat/heat.conf",
    )

    def take_action(self, args: argparse.Namespace) -> None:
        from liveness.db import migration

        settings = self.settings(args)
        before = migration.sync(settings.connection)
        after = migration.version(settings.connection)
        name = shown(settings)
        if before == after:
            self.say(f"The schema of {name} is {after}; there was nothing to do.")
        else:
            self.say(
                f"The schema of {name} was brought from {before or 'nothing'} to"
                f" {after}."
            )


class Version(app.ShowOne):
    """Show which schema the database has, and which one this release needs.

    Exit code 0 whatever they are: 'db check' judges.
    """

    examples = (
        "db version --config-file /etc/liveness/liveness.conf",
        "db version -f value -c schema",
    )

    def take_action(self, args: argparse.Namespace) -> tuple[Any, Any]:
        from liveness.db import migration

        settings = self.settings(args)
        found, needed = migration.version(settings.connection), migration.needed()
        return self.dict2columns(
            {
                "database": shown(settings),
                "schema": found,
                "needed": needed,
                "state": _state(found),
            }
        )


class Check(app.Lister):
    """Say whether engines of this release can work on the database's tables.

    Lists how they differ from what this release makes; nothing when they do not.

    Exit code 0: current, and equal to the tables in code. 1: differences, or another
    schema. 2: the database could not be looked at.
    """

    failed = 2
    examples = (
        "db check --config-file /etc/liveness/liveness.conf",
        "db check -f json",
    )

    def take_action(self, args: argparse.Namespace) -> tuple[Any, Any]:
        from liveness import exceptions
        from liveness.db import migration

        settings = self.settings(args)
        try:
            found = migration.differences(settings.connection)
        except (
            exceptions.SchemaMissing,
            exceptions.SchemaTooOld,
            exceptions.SchemaTooNew,
        ) as error:
            found = [str(error)]
        self._name, self._differ = shown(settings), bool(found)
        return ("difference",), [(text,) for text in found]

    def produce_output(self, args: argparse.Namespace, names: Any, data: Any) -> int:
        if args.formatter != "table" or self._differ:
            return super().produce_output(args, names, data)
        self.say(f"The schema of {self._name} is what this release needs.")
        return 0

    def run(self, args: argparse.Namespace) -> int:
        super().run(args)
        return 1 if self._differ else 0


def shown(settings: Settings) -> str:
    """The database's URL without its password."""
    from liveness.db.connection import Database

    return str(Database(settings.connection, settings.database_timeout))


def _state(found: str) -> str:
    from liveness import exceptions
    from liveness.db import migration

    try:
        migration.require("", found)
    except exceptions.SchemaMissing:
        return "missing"
    except exceptions.SchemaTooOld:
        return "too old"
    except exceptions.SchemaTooNew:
        return "too new"
    return "current" if found == migration.needed() else "newer, and usable"
