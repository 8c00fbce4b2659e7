"""Everything that knows SQL: tables, connections, statements, schema.

No other package of the program writes a statement, and the only ``FOR UPDATE``
is in :mod:`liveness.db.claims`.
"""
