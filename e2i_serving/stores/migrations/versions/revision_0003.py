"""Where features and models came from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from e2i_serving.stores.tables import JsonText

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add columns. Rows that are there have NULL in them, which their digests do not count."""
    for name in ("feature_provenance", "lineage"):
        op.add_column("predictions", sa.Column(name, JsonText()))
