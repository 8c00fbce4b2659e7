"""Run by alembic; the connection comes from :mod:`liveness.db.migration`."""

from alembic import context

from liveness.db import tables

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("Run the migrations with: liveness-manage db sync")

context.configure(
    connection=connection,
    target_metadata=tables.metadata,
    version_table=tables.VERSION_TABLE,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
