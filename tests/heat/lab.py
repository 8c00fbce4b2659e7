"""A private OpenStack of exactly what Heat needs, and what tests do with it.

`Cloud` is what all labs of a run share: MariaDB, RabbitMQ and keystone. A `Lab` is
one Heat on it: a database, a virtual host, engines and a client, with
(`mode="liveness"`) or without (`mode="stock"`) this package.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.heat import venv
from tests.heat.client import Client
from tests.heat.fleet import PLUGINS, Fleet, Master, Worker, ini
from tests.heat.journal import Journal
from tests.heat.keystone import Keystone
from tests.heat.processes import Group
from tests.heat.rabbitmq import RabbitMQ
from tests.proc import until
from tests.servers import MariaDB

MODES = ("stock", "liveness")
VHOSTS = 16


class Cloud:
    def __init__(self) -> None:
        self.database = MariaDB()
        self.group: Group | None = None
        self._numbers = itertools.count()

    @staticmethod
    def available() -> str | None:
        """None, or why it cannot be had and what to install."""
        return MariaDB.available() or RabbitMQ.available()

    def start(self) -> None:
        self.venv = venv.stock()
        self.group = Group()
        try:
            self._start(self.group)
        except BaseException:
            self.close()
            raise

    def _start(self, group: Group) -> None:
        self.rabbit = RabbitMQ(group, VHOSTS)
        self.rabbit.launch()
        self.database.start()
        self.keystone = Keystone(group, self.venv, self.database)
        self.keystone.start()
        self.rabbit.wait_ready()

    def close(self) -> None:
        if self.group is not None:
            self.group.close()
            self.group = None
        self.database.close()

    def lab(self, mode: str) -> Lab:
        return Lab(self, mode, next(self._numbers))


@dataclass(frozen=True)
class Row:
    """A resource as Heat's database has it."""

    id: int
    name: str
    action: str
    status: str
    reason: str | None
    engine_id: str | None
    physical: str | None
    replaces: int | None
    replaced_by: int | None
    stack: str

    @property
    def state(self) -> str:
        return f"{self.action}_{self.status}"


@dataclass(frozen=True)
class Stack:
    id: str
    name: str
    action: str
    status: str
    reason: str | None
    traversal: str | None
    deleted: bool
    rows: list[Row] = field(default_factory=list)

    @property
    def state(self) -> str:
        return f"{self.action}_{self.status}"

    @property
    def ended(self) -> bool:
        return self.status != "IN_PROGRESS"

    def __str__(self) -> str:
        rows = ", ".join(
            f"{row.name}[{row.id}] {row.state}"
            + (f" held by {row.engine_id[:8]}" if row.engine_id else "")
            + (f" replaces {row.replaces}" if row.replaces else "")
            for row in self.rows
        )
        return f"{self.name} {self.state} ({self.reason}): {rows or 'no resources'}"


class Lab:
    def __init__(self, cloud: Cloud, mode: str, number: int) -> None:
        assert mode in MODES and cloud.group is not None
        self.cloud, self.mode = cloud, mode
        self.group = cloud.group
        self.name = f"heat{number}"
        self._number = number
        folder = self.group.path(self.name)
        self.journal = Journal(folder)
        self._names = itertools.count(1)
        self._identities: dict[str, dict] = {}
        self.venv = venv.liveness() if mode == "liveness" else cloud.venv
        self._connected = False
        self.fleet: Fleet = Fleet(self.group, self.venv, Path(), folder)
        self._folder = folder
        self._fleets = itertools.count()
        self.options: tuple[int, dict[str, Any]] | None = None

    # Up and down.

    def create_schema(self) -> None:
        self.cloud.database.create_database(self.name)
        config = self._write_config(f"{self.name}-base", {})
        manage = self.venv.script("heat-manage")
        self.group.run(
            f"{self.name}-db-sync", [*manage, "--config-file", str(config), "db_sync"]
        )
        if self.mode == "liveness":
            self.group.run(
                f"{self.name}-liveness-db-sync",
                [
                    *self.venv.script("liveness-manage"),
                    "db",
                    "sync",
                    "--config-file",
                    str(config),
                ],
            )

    def connect(self) -> None:
        """What users ask of Heat may be asked from now on."""
        self.client = Client(
            self.group,
            self.cloud.venv,
            f"{self.name}-driver",
            self.group.path("etc", f"{self.name}-base.conf"),
            self.cloud.keystone.url,
        )
        self._connected = True

    def start_engines(
        self, masters: int = 2, workers: int = 1, stock: bool = False, **options: Any
    ) -> None:
        """A fresh fleet of `masters` hosts; whatever ran before is ended.

        `options` are heat.conf's, of [DEFAULT] or as `group__name`. `stock`: without
        this package, whatever the mode."""
        self.options = None
        self.fleet.end()
        self._forget_dead_engines()
        config = self._write_config(
            f"{self.name}-{next(self._fleets)}", options, stock=stock
        )
        python = self.cloud.venv if stock else self.venv
        self.fleet = Fleet(self.group, python, config, self._folder)
        for _ in range(masters):
            self.fleet.add(workers)
        self.wait_engines()
        self.options = None if stock else (masters, options)

    def ensure_engines(self, masters: int = 2) -> None:
        """Whatever a test did: have this many hosts, with all their workers."""
        for worker in self.fleet.workers:
            worker.cont()
        for master in self.fleet.masters:
            if not master.running:
                master.kill_host()
                master.launch()
        while len(self.fleet.masters) < masters:
            self.fleet.add()
        self.wait_engines()

    def wait_engines(self) -> None:
        self.fleet.wait_ready(lambda: set(self.registered()))

    def close(self) -> None:
        self.fleet.end()
        if self._connected:
            self.client.close()
        self.cloud.database.drop_database(self.name)

    # What users ask of Heat.

    def create_stack(
        self,
        template: dict,
        name: str | None = None,
        files: dict[str, str] | None = None,
        **args: Any,
    ) -> str:
        """Its id. `args`: timeout_mins, disable_rollback, adopt_stack_data, ..."""
        name = name or f"{self.name}-stack-{next(self._names)}"
        args.setdefault("disable_rollback", True)
        identity = self.client.call("create_stack", name, template, files, **args)
        self._identities[identity["stack_id"]] = identity
        return identity["stack_id"]

    def begin_create(self, template: dict, name: str, **args: Any) -> Future:
        """The same, without waiting for an answer."""
        args.setdefault("disable_rollback", True)
        return self.client.begin("create_stack", name, template, None, **args)

    def adopt(self, template: dict, data: dict, **args: Any) -> str:
        return self.create_stack(template, adopt_stack_data=json.dumps(data), **args)

    def update(self, stack: str, template: dict, files=None, **args: Any) -> None:
        self.client.call("update_stack", self.identity(stack), template, files, **args)

    def delete(self, stack: str) -> None:
        self.client.call("delete_stack", self.identity(stack))

    def abandon(self, stack: str) -> Any:
        return self.client.call("abandon_stack", self.identity(stack))

    def suspend(self, stack: str) -> None:
        self.client.call("stack_suspend", self.identity(stack))

    def resume(self, stack: str) -> None:
        self.client.call("stack_resume", self.identity(stack))

    def check(self, stack: str) -> None:
        self.client.call("stack_check", self.identity(stack))

    def cancel(self, stack: str, rollback: bool = True) -> None:
        self.client.call(
            "stack_cancel_update",
            self.identity(stack),
            cancel_with_rollback=rollback,
        )

    def snapshot(self, stack: str, name: str = "snapshot") -> Any:
        return self.client.call("stack_snapshot", self.identity(stack), name)

    def delete_snapshot(self, stack: str, snapshot: str) -> None:
        self.client.call("delete_snapshot", self.identity(stack), snapshot)

    def restore(self, stack: str, snapshot: str) -> None:
        self.client.call("stack_restore", self.identity(stack), snapshot)

    def events(self, stack: str) -> list[dict]:
        return self.client.call("list_events", self.identity(stack), nested_depth=5)

    def identity(self, stack: str) -> dict:
        if stack not in self._identities:
            row = self.stack(stack)
            project = self.query("SELECT tenant FROM stack WHERE id = %s", stack)
            self._identities[stack] = {
                "stack_name": row.name,
                "stack_id": stack,
                "tenant": project[0][0],
                "path": "",
            }
        return copy.copy(self._identities[stack])

    # What Heat's database says.

    def query(self, sql: str, *values: Any) -> list[tuple]:
        quoted = tuple("'" + str(v).replace("'", "''") + "'" for v in values)
        return self.cloud.database.admin(sql % quoted if values else sql, self.name)

    def stack(self, stack: str) -> Stack:
        found = self.query(
            "SELECT id, name, action, status, status_reason, current_traversal,"
            " deleted_at IS NOT NULL FROM stack WHERE id = %s",
            stack,
        )
        if not found:
            raise KeyError(stack)
        return Stack(*found[0][:6], bool(found[0][6]), self.rows(stack))

    def rows(self, stack: str) -> list[Row]:
        rows = self.query(
            "SELECT id, name, action, status, status_reason, engine_id,"
            " nova_instance, replaces, replaced_by, stack_id"
            " FROM resource WHERE stack_id = %s ORDER BY id",
            stack,
        )
        return [Row(*row) for row in rows]

    def tree(self, stack: str) -> list[Stack]:
        """The stack, and all that are nested in it and not deleted."""
        found = [self.stack(stack)]
        for (child,) in self.query(
            "SELECT id FROM stack WHERE owner_id = %s AND deleted_at IS NULL", stack
        ):
            found += self.tree(child)
        return found

    def snapshots(self, stack: str) -> list[tuple[str, str | None]]:
        """The stack's snapshots: id and status."""
        return self.query("SELECT id, status FROM snapshot WHERE stack_id = %s", stack)

    def by_name(self, name: str) -> str | None:
        found = self.query(
            "SELECT id FROM stack WHERE name = %s AND deleted_at IS NULL", name
        )
        return found[0][0] if found else None

    def holders(self, stack: str) -> dict[str, Worker | None]:
        """Who holds which resource; None: an engine that this lab never saw."""
        return {
            row.name: self.fleet.worker_of(row.engine_id)
            for member in self.tree(stack)
            for row in member.rows
            if row.engine_id
        }

    def holder(self, stack: str, resource: str, seconds: float = 60) -> Worker:
        """The worker that holds the resource's lock; waits until one does."""
        if not until(lambda: self.holders(stack).get(resource), seconds):
            raise AssertionError(f"nobody holds {resource}: {self.stack(stack)}")
        worker = self.holders(stack)[resource]
        assert worker is not None
        return worker

    def registered(self) -> list[str]:
        """The engine ids in Heat's own table of services."""
        rows = self.query("SELECT engine_id FROM service WHERE deleted_at IS NULL")
        return [engine_id for (engine_id,) in rows]

    def wait_stack(
        self, stack: str, *states: str, seconds: float = 120, ended: bool = False
    ) -> Stack:
        """Until it is in one of `states`, or (`ended`) in progress no more."""
        last: list[Stack] = []

        def there() -> bool:
            last[:] = [self.stack(stack)]
            return last[0].state in states or (ended and last[0].ended)

        if not until(there, seconds, 0.1):
            raise AssertionError(
                f"not {' or '.join(states) or 'ended'} after {seconds} s: "
                + "; ".join(str(member) for member in self.tree(stack))
            )
        return last[0]

    # What happens to machines.

    @property
    def workers(self) -> list[Worker]:
        return self.fleet.workers

    @property
    def masters(self) -> list[Master]:
        return self.fleet.masters

    def kill(self, worker: Worker) -> float:
        """SIGKILL, and when it was sent."""
        at = time.time()
        worker.kill()
        return at

    def restart_database(self, down: float = 0) -> None:
        self.cloud.database.stop()
        time.sleep(down)
        self.cloud.database.start()

    def restart_rabbit(self) -> None:
        self.cloud.rabbit.restart()

    # Details.

    def _forget_dead_engines(self) -> None:
        self.query("DELETE FROM service")

    def _write_config(
        self, name: str, options: dict[str, Any], stock: bool = False
    ) -> Path:
        sections = self._sections()
        if self.mode == "liveness" and not stock:
            sections["liveness"] = {"enabled": True}
        for option, value in options.items():
            section, _, key = option.rpartition("__")
            sections.setdefault(section or "DEFAULT", {})[key] = value
        return self.group.write(f"etc/{name}.conf", ini(sections))

    def _sections(self) -> dict[str, dict[str, object]]:
        keystone = self.cloud.keystone.url
        sections: dict[str, dict[str, object]] = {
            "DEFAULT": {
                "transport_url": self.cloud.rabbit.url(self._number),
                "debug": os.environ.get("LIVENESS_HEAT_DEBUG", "") not in ("", "0"),
                "plugin_dirs": PLUGINS,
                "periodic_interval": 5,
                "rpc_response_timeout": 30,
                "executor_thread_pool_size": 16,
                "enable_stack_abandon": True,
                "enable_stack_adopt": True,
                "auth_encryption_key": "0123456789abcdef0123456789abcdef",
                "trusts_delegated_roles": "heat_stack_owner",
                "stack_user_domain_name": "heat",
                "stack_domain_admin": "heat_admin",
                "stack_domain_admin_password": "heat",
                "region_name_for_services": "RegionOne",
            },
            "database": {"connection": self.cloud.database.url(self.name)},
            "trustee": {
                "auth_type": "password",
                "auth_url": keystone,
                "username": "heat",
                "password": "heat",
                "user_domain_id": "default",
            },
            "keystone_authtoken": {
                "www_authenticate_uri": keystone,
                "auth_url": keystone,
                "auth_type": "password",
                "username": "heat",
                "password": "heat",
                "project_name": "service",
                "user_domain_id": "default",
                "project_domain_id": "default",
            },
            "clients_keystone": {"auth_uri": keystone.removesuffix("/v3")},
        }
        return sections
