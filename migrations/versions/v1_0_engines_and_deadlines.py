"""Engines and deadlines"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "1.0"
down_revision = None
branch_labels = None
depends_on = None

MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
TABLE = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}
INDEXES = (
    ("ix_liveness_engine_ended", "liveness_engine", ["ended_at"]),
    ("ix_liveness_deadline_due", "liveness_deadline", ["state", "due_at", "id"]),
    (
        "ix_liveness_deadline_owner",
        "liveness_deadline",
        ["owner_id", "state", "due_at", "id"],
    ),
)


def upgrade() -> None:
    op.create_table(
        "liveness_engine",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("process_start", sa.BigInteger),
        sa.Column("boot_id", sa.String(64)),
        sa.Column("namespaces", sa.String(128)),
        sa.Column("binary", sa.String(255), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("beat_seq", sa.BigInteger, nullable=False),
        sa.Column("beat_at", MOMENT, nullable=False),
        sa.Column("ttl", sa.Double, nullable=False),
        sa.Column("ended_at", MOMENT),
        sa.Column("fenced_by", sa.String(64)),
        sa.Column("fence_evidence", sa.String(255)),
        if_not_exists=True,
        **TABLE,
    )
    op.create_table(
        "liveness_deadline",
        sa.Column("id", ROW_ID, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("owner_id", sa.String(64)),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("arm_token", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("due_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("payload", TEXT),
        sa.Column("last_error", sa.Text),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.UniqueConstraint("kind", "key", name="uq_liveness_deadline_kind_key"),
        sqlite_autoincrement=True,
        if_not_exists=True,
        **TABLE,
    )
    inspector = sa.inspect(op.get_bind())
    for name, table, columns in INDEXES:
        present = {index["name"] for index in inspector.get_indexes(table)}
        if name not in present:
            op.create_index(name, table, columns)


def downgrade() -> None:
    op.drop_table("liveness_deadline", if_exists=True)
    op.drop_table("liveness_engine", if_exists=True)
