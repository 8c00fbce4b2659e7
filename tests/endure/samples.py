"""What processes and servers have at a moment: one flat dictionary of numbers."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tests.servers import MariaDB, Server

TABLES = ("liveness_deadline", "liveness_engine", "liveness_event")


def of_process(pid: int, port: int) -> dict[str, float]:
    """Memory (bytes), descriptors, threads, and connections to a server on ``port``."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    links = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    sockets = _sockets_to(port)
    return {
        "rss": int(fields["VmRSS"].split()[0]) * 1024,
        "threads": int(fields["Threads"]),
        "fds": len(links),
        "connections": sum(link in sockets for link in links),
    }


def _sockets_to(port: int) -> set[str]:
    """The sockets of this machine with that remote port, as /proc/PID/fd names them."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = (line.split() for line in lines)
    return {f"socket:[{row[9]}]" for row in rows if row[2].endswith(f":{port:04X}")}


def of_server(server: Server, name: str) -> dict[str, float]:
    """Rows and bytes of each table of a database, its connections, and the server's
    statements (PostgreSQL: transactions; every statement outside of one is one)."""
    found: dict[str, float] = {}
    for table in TABLES:
        ((found[f"rows of {table}"],),) = server.admin(
            f"SELECT count(*) FROM {table}", name
        )
    sizes, connections, statements = (
        _of_mariadb(server, name)
        if isinstance(server, MariaDB)
        else _of_postgresql(server, name)
    )
    found |= {f"bytes of {table}": size for table, size in sizes.items()}
    found["connections"], found["statements"] = connections, statements
    return found


def _of_mariadb(server: Server, name: str) -> tuple[dict[str, int], int, int]:
    sizes = server.admin(
        "SELECT name, file_size FROM information_schema.innodb_sys_tablespaces"
        f" WHERE name LIKE '{name}/liveness%'"
    )
    ((connections,),) = server.admin(
        f"SELECT count(*) FROM information_schema.processlist WHERE db = '{name}'"
        " AND id <> connection_id()"
    )
    ((_, statements),) = server.admin("SHOW GLOBAL STATUS LIKE 'Questions'")
    by_table = {path.partition("/")[2]: size for path, size in sizes}
    wanted = {table: by_table[table] for table in TABLES}
    return wanted, connections, int(statements)


def _of_postgresql(server: Server, name: str) -> tuple[dict[str, int], int, int]:
    sizes = {
        table: server.admin(f"SELECT pg_total_relation_size('{table}')", name)[0][0]
        for table in TABLES
    }
    ((connections,),) = server.admin(
        f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    ((transactions,),) = server.admin(
        "SELECT xact_commit + xact_rollback FROM pg_stat_database"
        f" WHERE datname = '{name}'"
    )
    return sizes, connections, int(transactions)
