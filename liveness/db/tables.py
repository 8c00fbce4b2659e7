"""The tables, as the migrations make them (a test compares the two; what is MySQL's
alone, engine and collation, is there only).

There is no foreign key from deadline to engine: an open host transaction with an
arm in it would hold a lock on its engine's row, and block that engine's beat.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from liveness.clock import UtcDateTime

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


class MediumText(sa.Text):
    """Up to 16 MiB on every database."""


# MySQL's own types, and arguments of tables, would be 1 MiB in memory on any database.
@compiles(MediumText, "mysql", "mariadb")
def _medium_text(element: MediumText, compiler: Any, **kw: Any) -> str:
    return "MEDIUMTEXT"


KIND_LENGTH = 64
KEY_LENGTH = 255
ENGINE_ID_LENGTH = 64
DETAIL_LENGTH = 500

metadata = sa.MetaData()

engine = sa.Table(
    "liveness_engine",
    metadata,
    sa.Column("id", sa.String(ENGINE_ID_LENGTH), primary_key=True),
    sa.Column("token", sa.BigInteger, nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_start", sa.BigInteger),
    sa.Column("boot_id", sa.String(64)),
    sa.Column("namespaces", sa.String(128)),
    sa.Column("binary", sa.String(255), nullable=False),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("beat_seq", sa.BigInteger, nullable=False),
    sa.Column("beat_at", UtcDateTime, nullable=False),
    sa.Column("ttl", sa.Double, nullable=False),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("fenced_by", sa.String(ENGINE_ID_LENGTH)),
    sa.Column("fence_evidence", sa.String(255)),
    sa.Index("ix_liveness_engine_ended", "ended_at"),
)

deadline = sa.Table(
    "liveness_deadline",
    metadata,
    sa.Column("id", ID, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String(KIND_LENGTH), nullable=False),
    sa.Column("key", sa.String(KEY_LENGTH), nullable=False),
    sa.Column("owner_id", sa.String(ENGINE_ID_LENGTH)),
    sa.Column("token", sa.BigInteger, nullable=False),
    sa.Column("arm_token", sa.BigInteger, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("due_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("max_attempts", sa.Integer, nullable=False),
    sa.Column("payload", MediumText),
    sa.Column("last_error", sa.Text),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("kind", "key", name="uq_liveness_deadline_kind_key"),
    sa.Index("ix_liveness_deadline_due", "state", "due_at", "id"),
    sa.Index("ix_liveness_deadline_owner", "owner_id", "state", "due_at", "id"),
    # SQLite must never give out an id twice: a stale write would hit another deadline.
    sqlite_autoincrement=True,
)

# No index but the primary key: it is written far more often than it is read.
event = sa.Table(
    "liveness_event",
    metadata,
    sa.Column("id", ID, primary_key=True, autoincrement=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("what", sa.String(16), nullable=False),
    sa.Column("engine_id", sa.String(ENGINE_ID_LENGTH)),
    sa.Column("about_id", sa.String(ENGINE_ID_LENGTH)),
    sa.Column("kind", sa.String(KIND_LENGTH)),
    sa.Column("key", sa.String(KEY_LENGTH)),
    sa.Column("epoch", sa.BigInteger),
    sa.Column("attempts", sa.Integer),
    sa.Column("detail", sa.String(DETAIL_LENGTH)),
    sqlite_autoincrement=True,
)

VERSION_TABLE = "liveness_alembic_version"

REVISION = "1.1"
"""The revision of the schema that these tables are: the newest migration."""
