"""What each part of observing costs, in microseconds: on the path of a request in the worker, and in the relay."""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from e2i_serving.evidence import seal
from e2i_serving.journal import JournalWriter, new_life_id
from e2i_serving.observers.access_log import LOGGER_NAME, AccessLogObserver
from e2i_serving.observers.metrics import MetricsObserver, SeriesFile
from e2i_serving.propagation import ContextExtractor
from e2i_serving.record import Constant, Entry, Life, Matrix, ModelInfo, PredictionRecord, RowBatch, Values
from e2i_serving.relay.explode import explode
from e2i_serving.runtime.definition import define
from e2i_serving.runtime.observation import Endpoint, Observation
from e2i_serving.runtime.worker import Worker
from e2i_serving.stores.sql import SqlAuditStore

FEATURES = 30
HEADERS = [
    (b"host", b"127.0.0.1:3000"),
    (b"user-agent", b"benchmark/1.0"),
    (b"accept", b"*/*"),
    (b"content-type", b"application/json"),
    (b"content-length", b"620"),
]
OWN_HEADERS = [
    *HEADERS,
    (b"x-request-id", b"order-17"),
    (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
]
MODEL = ModelInfo(
    name="overhead",
    version="1",
    task="classification",
    feature_names=tuple(f"feature_{number}" for number in range(FEATURES)),
    classes=("malignant", "benign"),
)
PHASES = {"decode": 1e-4, "queue": 2e-4, "features": 1e-5, "preprocess": 1e-6, "predict": 3e-4, "postprocess": 2e-5}
ENDPOINT = Endpoint("predict", "/predict")

console = Console(highlight=False, width=max(100, Console().width))

Result = tuple[str, str, list[float]]
"""What was timed, per what, and the microseconds each repetition took."""


def observe(extractor: ContextExtractor, items: int = 1) -> Observation:
    """A request as it stands when its answer begins.

    Args:
        extractor: Makes its context.
        items: How many rows it has.
    """
    features = np.random.default_rng(0).normal(size=(items, FEATURES))
    probabilities = np.full((items, 2), 0.5)
    request = Observation(ENDPOINT, extractor.extract(OWN_HEADERS), "POST")
    request.status = 200
    request.items = items
    request.phases = dict(PHASES)
    request.labels = {"brand": "alpha", "region": "north", "segment": "new"}
    request.entities = {"patient": Values([f"patient-{number}" for number in range(items)])}
    request.inputs = {"features": Matrix.of(features)}
    request.outputs = {
        "prediction": Values(["benign"] * items),
        "score": Matrix.of(probabilities[:, 1]),
        "probabilities": Matrix.of(probabilities),
        "threshold": Constant(0.5),
    }
    return request


def on_the_path(directory: Path, repeat: int, number: int) -> Iterator[Result]:
    """Time what happens in the worker before an answer leaves."""
    extractor = ContextExtractor()
    request = observe(extractor)
    record = request.record(MODEL)
    features = np.random.default_rng(0).normal(size=(1, FEATURES))
    life = Life(new_life_id(), "Overhead", time.time_ns(), os.getpid(), model=MODEL)
    writer = JournalWriter(directory / "journal", life, segment_bytes=64 << 20, record_bytes=4 << 20)
    file = SeriesFile(directory / "metrics", life.life)
    metrics = MetricsObserver(file, life)
    access_log = AccessLogObserver()
    definition = define(type("Overhead", (), {}), arguments={"data_dir": directory / "worker", "relay_enabled": False})
    worker = Worker(definition, MODEL, {ENDPOINT.route: ENDPOINT})
    parts: dict[str, Callable[[], object]] = {
        "context, from headers without ids": lambda: extractor.extract(HEADERS),
        "context, from X-Request-ID and traceparent": lambda: extractor.extract(OWN_HEADERS),
        "inputs as a matrix": lambda: Matrix.of(features),
        "record": lambda: request.record(MODEL),
        "journal append": lambda: writer.append(record),
        "metrics": lambda: metrics.on_end(record),
        "access log, to /dev/null": lambda: access_log.on_end(record),
        "response headers": lambda: worker.response_headers(request),
        "all of the end: record, journal, metrics, log": lambda: worker.end(request),
    }
    for name, part in parts.items():
        yield name, "request", timed(part, repeat, number)
    worker.close()
    writer.close()
    metrics.close()


def in_the_relay(directory: Path, repeat: int, requests: int, items: int) -> Iterator[Result]:
    """Time what the relay does, for requests of so many items each, into SQLite."""
    extractor = ContextExtractor()
    life = Life(new_life_id(), "Overhead", time.time_ns(), os.getpid(), model=MODEL)
    store = SqlAuditStore(f"sqlite:///{directory / f'audit-{items}.db'}")
    exploding: list[float] = []
    sealing: list[float] = []
    inserting: list[float] = []
    link = b""
    store.write(RowBatch())
    for _ in range(repeat):
        records: list[PredictionRecord] = [observe(extractor, items).record(MODEL) for _ in range(requests)]
        salted = (msgspec.structs.replace(record, salt=os.urandom(16)) for record in records)
        entries = [Entry(life, sequence, record) for sequence, record in enumerate(salted)]
        began = time.perf_counter()
        batch = explode(entries)
        exploded = time.perf_counter()
        link = seal(batch, life.life, link)
        sealed = time.perf_counter()
        store.write(batch)
        inserting.append((time.perf_counter() - sealed) / requests * 1e6)
        sealing.append((sealed - exploded) / requests * 1e6)
        exploding.append((exploded - began) / requests * 1e6)
    store.close()
    together = [sum(parts) for parts in zip(exploding, sealing, inserting, strict=True)]
    for name, taken in (("explode", exploding), ("seal", sealing), ("insert", inserting), ("all three", together)):
        yield f"{name}, {items} item{'s' * (items > 1)} a request", "request", taken
        if items > 1:
            yield f"{name}, {items} items a request", "item", [each / items for each in taken]


def timed(part: Callable[[], object], repeat: int, number: int) -> list[float]:
    """Microseconds a call, once a repetition."""
    part()
    return [seconds / number * 1e6 for seconds in timeit.Timer(part).repeat(repeat, number)]


def show(title: str, results: Sequence[Result]) -> None:
    """Show medians, and the least of the repetitions."""
    table = Table(title, "per", "median, µs", "least, µs")
    for name, per, taken in results:
        table.add_row(name, per, f"{statistics.median(taken):.2f}", f"{min(taken):.2f}")
    console.print(table)


def main() -> None:
    """Time everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=15, help="repetitions (default: %(default)s)")
    parser.add_argument("--number", type=int, default=1000, help="calls a repetition (default: %(default)s)")
    options = parser.parse_args()
    logger = logging.getLogger(LOGGER_NAME)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    with Path(os.devnull).open("w", encoding="utf-8") as null, tempfile.TemporaryDirectory() as name:
        logger.addHandler(logging.StreamHandler(null))
        directory = Path(name)
        show("on the path", list(on_the_path(directory, options.repeat, options.number)))
        relayed = [
            *in_the_relay(directory, options.repeat, options.number, 1),
            *in_the_relay(directory, options.repeat, max(options.number // 100, 1), 100),
        ]
        show("in the relay", relayed)


if __name__ == "__main__":
    main()
