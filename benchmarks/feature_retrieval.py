"""What ``TimedFeatureStore`` adds to Feast's own ``get_online_features``: one feature view of 20 features on SQLite.

Both give plain values. Run: ``python benchmarks/feature_retrieval.py [rounds]``. Needs e2i-serving[feast].
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from e2i_serving.features import FeastFeatureStore, TimedFeatureStore

CONFIGURATION = """
project: shop
provider: local
registry: {folder}/registry.db
online_store:
  type: sqlite
  path: {folder}/online.db
entity_key_serialization_version: 3
"""
BLOCK = 10
FEATURES = [f"f{number}" for number in range(20)]


def make(folder: Path) -> Any:
    """A repository with 100 entities, opened anew: the store that defined it reads its registry each time."""
    import pandas as pd  # noqa: PLC0415  # after Feast's own settings
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType  # noqa: PLC0415
    from feast.types import Float64  # noqa: PLC0415

    (folder / "feature_store.yaml").write_text(CONFIGURATION.format(folder=folder))
    now = datetime.now(UTC)
    columns: dict[str, Any] = {"customer_id": list(range(100)), "event_timestamp": [now] * 100}
    frame = pd.DataFrame(columns | {name: [float(number) for number in range(100)] for name in FEATURES})
    frame.to_parquet(folder / "usage.parquet")
    store = FeatureStore(repo_path=str(folder))
    customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
    usage = FeatureView(
        name="usage",
        entities=[customer],
        schema=[Field(name=name, dtype=Float64) for name in FEATURES],
        source=FileSource(path=str(folder / "usage.parquet"), timestamp_field="event_timestamp"),
    )
    service = FeatureService(name="churn_v1", features=[usage])
    store.apply([customer, usage, service])
    store.write_to_online_store("usage", frame)
    return FeatureStore(repo_path=str(folder))


def milliseconds(call: Callable[[], Any]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def main() -> None:
    """Measure both in turn, and print the medians."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    with tempfile.TemporaryDirectory() as name:
        store = make(Path(name))
        service = store.get_feature_service("churn_v1")
        timed = TimedFeatureStore(FeastFeatureStore(name), "churn_v1", refresh_seconds=0, timeout=30)
        for entities in (1, 100):
            rows = [{"customer_id": number} for number in range(entities)]
            calls = (
                lambda rows=rows: store.get_online_features(service, rows).to_dict(),
                lambda rows=rows: timed.retrieve(rows),
            )
            # In blocks, as each has its own connection and caches to keep warm.
            pairs = [[median(milliseconds(call) for _ in range(BLOCK)) for call in calls] for _ in range(rounds)]
            feast, ours = (median(values) for values in zip(*pairs, strict=True))
            print(f"{entities:4} entities: Feast {feast:.3f} ms, timed {ours:.3f} ms, {ours / feast - 1:+.1%}")


if __name__ == "__main__":
    main()
