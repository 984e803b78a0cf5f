"""The tables of the first release: predictions, items and entities.

Databases were made by that release without a version, so each table may be there already.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from e2i_serving.stores.tables import JsonText

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make what is not there."""
    op.create_table(
        "predictions",
        sa.Column("prediction_id", sa.Text(), primary_key=True),
        sa.Column("time_ns", sa.BigInteger(), nullable=False),
        sa.Column("duration", sa.Double(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        *_texts("service", "endpoint", "route", "method", "request_id", "trace_id", "span_id", "parent_span_id"),
        *_texts("parent_request_id"),
        sa.Column("sampled", sa.Boolean(), nullable=False),
        *_texts("principal", "principal_source"),
        sa.Column("phases", JsonText()),
        *_texts("model", "model_version", "model_digest", "code_digest", "task", "bento", "bento_version"),
        *_texts("environment", "namespace", "pod", "revision", "arm", "error_type", "error_message"),
        sa.Column("labels", JsonText()),
        sa.Column("attributes", JsonText()),
        sa.Column("items", sa.BigInteger(), nullable=False),
        sa.Column("request_bytes", sa.BigInteger()),
        sa.Column("response_bytes", sa.BigInteger()),
        sa.Column("sampling_fraction", sa.Double(), nullable=False),
        sa.Column("redactions", JsonText()),
        *_texts("release"),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("life", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        if_not_exists=True,
    )
    op.create_index("ix_predictions_request_id", "predictions", ["request_id"], if_not_exists=True)
    op.create_index("ix_predictions_trace_id", "predictions", ["trace_id"], if_not_exists=True)
    op.create_index("ix_predictions_model_time", "predictions", ["model", "time_ns"], if_not_exists=True)
    op.create_index("ix_predictions_time", "predictions", ["time_ns"], if_not_exists=True)
    op.create_table(
        "items",
        sa.Column("prediction_id", sa.Text(), nullable=False),
        sa.Column("item_index", sa.BigInteger(), nullable=False),
        sa.Column("time_ns", sa.BigInteger(), nullable=False),
        *_texts("model", "model_version"),
        sa.Column("entity", JsonText()),
        sa.Column("inputs", JsonText()),
        sa.Column("outputs", JsonText()),
        sa.Column("prediction", JsonText()),
        sa.Column("score", sa.Double()),
        sa.Column("decision", sa.Text()),
        *_numbers("threshold", "lower", "upper", "level"),
        sa.Column("treatment", sa.Text()),
        *_numbers("propensity", "outcome_control", "outcome_treated", "effect"),
        sa.Column("policy", sa.Text()),
        sa.Column("exploration", sa.Boolean()),
        sa.PrimaryKeyConstraint("prediction_id", "item_index"),
        if_not_exists=True,
    )
    op.create_table(
        "entities",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("prediction_id", sa.Text(), nullable=False),
        sa.Column("item_index", sa.BigInteger(), nullable=False),
        sa.Column("time_ns", sa.BigInteger(), nullable=False),
        *_texts("model"),
        sa.PrimaryKeyConstraint("name", "value", "prediction_id", "item_index"),
        sqlite_with_rowid=False,
        if_not_exists=True,
    )
    op.create_index("ix_entities_value", "entities", ["value"], if_not_exists=True)


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text()) for name in names]


def _numbers(*names: str) -> list[sa.Column[float]]:
    return [sa.Column(name, sa.Double()) for name in names]
