"""Connections of the raw drivers, for floors and for loading rows."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import make_url


def connect(url: str) -> Any:
    """An autocommit connection of the bare driver, READ COMMITTED, durable."""
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    if backend == "mysql":
        import pymysql

        connection = pymysql.connect(
            host=parsed.host,
            port=parsed.port,
            user=parsed.username,
            password=parsed.password or "",
            database=parsed.database,
            charset="utf8mb4",
            autocommit=True,
        )
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        return connection
    if backend == "postgresql":
        import psycopg

        return psycopg.connect(
            host=parsed.host,
            port=parsed.port,
            user=parsed.username,
            password=parsed.password,
            dbname=parsed.database,
            autocommit=True,
        )
    import sqlite3

    connection = sqlite3.connect(
        parsed.database, isolation_level=None, timeout=30, check_same_thread=False
    )
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def execute(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements on a connection of their own; the rows of the last."""
    connection = connect(url)
    try:
        cursor = connection.cursor()
        rows: list[tuple[Any, ...]] = []
        for statement in statements:
            cursor.execute(statement)
            rows = list(cursor.fetchall()) if cursor.description else []
        return rows
    finally:
        connection.close()
