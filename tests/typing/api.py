"""The public surface as its users type it. Checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, assert_type

import e2i_serving
from e2i_serving import (
    AuditTrail,
    E2IServingError,
    Outcome,
    OutcomeRecorder,
    PredictionRecord,
    RequestContext,
    current_context,
    record_outcome,
)
from e2i_serving.exceptions import ConfigurationError
from e2i_serving.record import ChainEnd, OutcomeFilter, PredictionFilter, Row, RowBatch
from e2i_serving.settings import Origin, ResolvedSettings, Settings, load_settings
from e2i_serving.typing import AuditQuery, AuditStore, Observer, Propagator

assert_type(e2i_serving.__version__, str)
assert_type(current_context(), RequestContext | None)

resolved = load_settings({"audit_required": True}, config_dir=Path())
assert_type(resolved, ResolvedSettings)
assert_type(resolved.settings, Settings)
assert_type(resolved.settings.data_dir, Path | None)
assert_type(resolved.origins, dict[str, Origin])

error: E2IServingError = ConfigurationError("wrong")

with AuditTrail.open("audit.db") as trail:
    assert_type(trail, AuditTrail)
    assert_type(trail.get("0198"), Row | None)
    assert_type(trail.find("0198"), list[Row])
    assert_type(trail.count(model="churn"), int)
    assert_type(trail.outcomes(name="truth"), list[Row])

with OutcomeRecorder.open("audit.db") as recorder:
    assert_type(recorder.record("0198", item=0, value=True), str)
assert_type(record_outcome(request_id="4711", score=0.5), str)


class Watcher:
    def on_end(self, record: PredictionRecord) -> None:
        assert_type(record.outcome, Outcome)
        assert_type(record.duration, float)


class TenantPropagator:
    fields: tuple[bytes, ...] = (b"x-tenant",)

    def extract(self, headers: Mapping[bytes, bytes], into: dict[str, Any]) -> None: ...

    def inject(self, context: RequestContext) -> Sequence[tuple[bytes, bytes]]:
        return [(b"x-tenant", context.trace_id.encode())]


class ListStore:
    def write(self, batch: RowBatch) -> int:
        return len(batch.predictions)

    def chain_end(self, life: str, *, since: int, until: int) -> ChainEnd | None:
        return None

    def close(self) -> None: ...


class ListQuery:
    def predictions(
        self, where: PredictionFilter, *, limit: int | None = None, newest_first: bool = True
    ) -> Iterator[Row]:
        yield from ()

    def items(self, prediction_ids: Sequence[str]) -> dict[str, list[Row]]:
        return {}

    def count(self, where: PredictionFilter) -> int:
        return 0

    def durations(self, where: PredictionFilter) -> dict[tuple[str, str], list[float]]:
        return {}

    def late_results(self, prediction_ids: Sequence[str]) -> dict[str, list[Row]]:
        return {}

    def outcomes(self, where: OutcomeFilter, *, limit: int | None = None) -> Iterator[Row]:
        yield from ()

    def accesses(
        self, *, since_ns: int | None = None, until_ns: int | None = None, limit: int | None = None
    ) -> Iterator[Row]:
        yield from ()

    def identities(self, prediction_ids: Sequence[str], request_ids: Sequence[str]) -> list[Row]:
        return []


observer: Observer = Watcher()
propagator: Propagator = TenantPropagator()
store: AuditStore = ListStore()
query: AuditQuery = ListQuery()
