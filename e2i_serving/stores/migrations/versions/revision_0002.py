"""Chains, retention and payload files; events, outcomes, accesses, gaps and holds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from e2i_serving.stores.tables import JsonText

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add columns and tables. Rows that are there have NULL in the new columns: they are in no chain."""
    for name in ("retention", "payload_digest", "salt"):
        op.add_column("predictions", sa.Column(name, sa.Text()))
    op.add_column("predictions", sa.Column("erased", JsonText()))
    op.add_column("predictions", sa.Column("hash", sa.Text()))
    op.create_index("ix_predictions_life_sequence", "predictions", ["life", "sequence"])
    op.add_column("items", sa.Column("salt", sa.Text()))
    op.add_column("items", sa.Column("erased", JsonText()))
    _make_events()
    _make_outcomes()
    _make_accesses()
    op.create_table(
        "gaps",
        sa.Column("life", sa.Text(), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        *_texts("digest", "removal", "hash"),
        sa.PrimaryKeyConstraint("life", "last"),
    )
    op.create_table(
        "holds",
        sa.Column("hold_id", sa.Text(), primary_key=True),
        sa.Column("time_ns", sa.BigInteger(), nullable=False),
        *_texts("entity", "model", "reason", "principal"),
        sa.Column("since_ns", sa.BigInteger()),
        sa.Column("until_ns", sa.BigInteger()),
        sa.Column("released_ns", sa.BigInteger()),
        *_texts("released_by"),
    )


def _make_events() -> None:
    op.create_table(
        "events",
        sa.Column("life", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("prediction_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("duration", sa.Double(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("response_bytes", sa.BigInteger()),
        *_texts("error_type", "error_message"),
        sa.Column("outputs", JsonText()),
        sa.Column("redactions", JsonText()),
        *_texts("salt"),
        sa.Column("erased", JsonText()),
        *_texts("hash"),
        sa.PrimaryKeyConstraint("life", "sequence"),
    )
    op.create_index("ix_events_prediction_id", "events", ["prediction_id"])


def _make_outcomes() -> None:
    op.create_table(
        "outcomes",
        sa.Column("outcome_id", sa.Text(), nullable=False),
        sa.Column("time_ns", sa.BigInteger(), nullable=False),
        *_texts("prediction_id"),
        sa.Column("item_index", sa.BigInteger(), nullable=False),
        *_texts("request_id"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", JsonText()),
        sa.Column("score", sa.Double()),
        *_texts("source", "comment"),
        sa.Column("observed_ns", sa.BigInteger()),
        sa.Column("life", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        *_texts("salt"),
        sa.Column("erased", JsonText()),
        *_texts("hash"),
        sa.PrimaryKeyConstraint("life", "sequence"),
    )
    op.create_index("ix_outcomes_outcome_id", "outcomes", ["outcome_id"])
    op.create_index("ix_outcomes_prediction_id", "outcomes", ["prediction_id"])
    op.create_index("ix_outcomes_request_id", "outcomes", ["request_id"])


def _make_accesses() -> None:
    op.create_table(
        "accesses",
        sa.Column("access_id", sa.Text(), primary_key=True),
        sa.Column("time_ns", sa.BigInteger(), nullable=False),
        *_texts("principal", "source", "way", "action"),
        sa.Column("conditions", JsonText()),
        sa.Column("predictions", sa.BigInteger(), nullable=False),
        sa.Column("life", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        *_texts("salt"),
        sa.Column("erased", JsonText()),
        *_texts("hash"),
    )
    op.create_index("ix_accesses_time", "accesses", ["time_ns"])
    op.create_index("ix_accesses_life_sequence", "accesses", ["life", "sequence"])


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text()) for name in names]
