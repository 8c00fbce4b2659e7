"""History

Only adds: engines of 1.0 go on, and write no history.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "1.1"
down_revision = "1.0"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TABLE = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}


def upgrade() -> None:
    op.create_table(
        "liveness_event",
        sa.Column("id", ROW_ID, primary_key=True, autoincrement=True),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("what", sa.String(16), nullable=False),
        sa.Column("engine_id", sa.String(64)),
        sa.Column("about_id", sa.String(64)),
        sa.Column("kind", sa.String(64)),
        sa.Column("key", sa.String(255)),
        sa.Column("epoch", sa.BigInteger),
        sa.Column("attempts", sa.Integer),
        sa.Column("detail", sa.String(500)),
        sqlite_autoincrement=True,
        if_not_exists=True,
        **TABLE,
    )


def downgrade() -> None:
    op.drop_table("liveness_event", if_exists=True)
