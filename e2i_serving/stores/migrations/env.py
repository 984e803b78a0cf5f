"""Run by Alembic for each upgrade, on the connection and in the transaction that it is handed."""

from __future__ import annotations

from alembic import context

from e2i_serving.stores.migrations import VERSION_TABLE
from e2i_serving.stores.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
context.run_migrations()
