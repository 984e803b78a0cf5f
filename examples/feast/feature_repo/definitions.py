"""What Feast knows of customers: how they use what they bought, and a feature computed from a request's own data."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64

USAGE = Path(__file__).parent / "data" / "usage.parquet"

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
usage = FeatureView(
    name="usage",
    entities=[customer],
    ttl=timedelta(days=1),
    schema=[Field(name="calls", dtype=Int64), Field(name="minutes", dtype=Float64)],
    source=FileSource(path=str(USAGE), timestamp_field="event_timestamp"),
)
offer = RequestSource(name="offer", schema=[Field(name="price", dtype=Float64)])


@on_demand_feature_view(sources=[usage, offer], schema=[Field(name="price_per_minute", dtype=Float64)], mode="python")
def rates(inputs: dict[str, Any]) -> dict[str, Any]:
    """What a minute would cost."""
    pairs = zip(inputs["price"], inputs["minutes"], strict=True)
    return {"price_per_minute": [price / minutes if minutes else price for price, minutes in pairs]}


# Named anew for each model version, as a feature service has none.
churn_v1 = FeatureService(name="churn_v1", features=[usage, rates])
