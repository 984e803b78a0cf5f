"""A planted secret that a rule covers is found in no place that anything of a record goes to."""

from __future__ import annotations

import functools
import io
import logging
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from redacting import Ordered, Some, as_dataclass, forms

from e2i_serving.exporters.documents import as_json, document
from e2i_serving.exporters.opik import OpikExporter
from e2i_serving.exporters.opik_traces import TraceStyle
from e2i_serving.exporters.otlp_logs import OtlpLogsExporter
from e2i_serving.exporters.webhook import cloud_event
from e2i_serving.journal.frame import KINDS, FrameKind, encode_into
from e2i_serving.observers.access_log import AccessLogObserver
from e2i_serving.observers.metrics import MetricsObserver, SeriesFile, collect, render
from e2i_serving.observers.spans import spans_of
from e2i_serving.record import (
    AccessEvent,
    Column,
    Constant,
    Entry,
    FeatureProvenance,
    LateResult,
    Life,
    Matrix,
    ModelInfo,
    Outcome,
    OutcomeEvent,
    PredictionRecord,
    StreamEnd,
    Values,
    ViewReading,
)
from e2i_serving.redaction import redactor_of
from e2i_serving.relay.explode import explode
from e2i_serving.runtime.errors import ErrorReporter
from e2i_serving.settings import Settings

CALLER = "0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a11"
FEATURES = ("age", "income", "height")
LIFE = Life("01920000-0000-7000-8000-000000000001", "credit", 1, 1, model=ModelInfo("m", "1", feature_names=FEATURES))


class Planted(msgspec.Struct):
    """A record's fields, the secrets in them, and the rules that cover these."""

    fields: dict[str, Any]
    secrets: list[str | int | float]
    rules: list[dict[str, Any]]


def frame(record: PredictionRecord) -> bytes:
    """The bytes that stand in the journal."""
    buffer = bytearray()
    encode_into(buffer, record, FrameKind.RECORD, 1, 1)
    return bytes(buffer)


def rows(record: PredictionRecord) -> bytes:
    """All that a store is handed."""
    batch = explode([Entry(LIFE, 1, record)])
    return repr([getattr(batch, table) for table in batch.__slots__]).encode()


def access_log(record: PredictionRecord) -> bytes:
    """The line that is logged."""
    out = io.StringIO()
    logger = logging.getLogger("e2i_serving.test_redaction_sinks")
    logger.setLevel(logging.INFO)
    handler = logging.StreamHandler(out)
    logger.addHandler(handler)
    AccessLogObserver(logger).on_end(record)
    logger.removeHandler(handler)
    return out.getvalue().encode()


def metrics(record: PredictionRecord) -> bytes:
    """What ``/metrics`` shows, and the file it is read from."""
    with tempfile.TemporaryDirectory() as folder:
        file = SeriesFile(Path(folder), LIFE.life)
        with closing(file):
            MetricsObserver(file, LIFE).on_end(record)
            shown = render(collect(Path(folder))).encode()
            return shown + b"".join(path.read_bytes() for path in Path(folder).iterdir())


def spans(record: PredictionRecord) -> bytes:
    """What is exported as spans."""
    traced = msgspec.structs.replace(record, trace_id="a" * 32, span_id="b" * 16)
    made = spans_of(traced, {}, Resource({}))
    return repr([(span.name, span.attributes, [event.attributes for event in span.events]) for span in made]).encode()


@functools.cache
def reporter() -> ErrorReporter:
    """A reporter that is only asked what it would send."""
    return ErrorReporter("http://public@127.0.0.1:9/1", LIFE, text=str)


def error_event(record: PredictionRecord) -> bytes:
    """What is sent to Sentry for an error whose own message is not redacted."""
    failed = msgspec.structs.replace(record, outcome=Outcome.ERROR, error_type="RuntimeError")
    error = RuntimeError("what was raised")
    error.__cause__ = ValueError("what it was raised for")
    return msgspec.json.encode(reporter()._event(error, failed), enc_hook=repr)


class KeptOpik(OpikExporter):
    """Keeps what it would send."""

    kept: tuple[bytes, ...] = ()

    def _send(self, method: str, path: str, member: str, batch: list[bytes]) -> None:
        self.kept += (path.encode(), *batch)


@functools.cache
def opiks() -> list[KeptOpik]:
    """Exporters to Opik of all styles, that are only asked what they would send."""
    styles = (TraceStyle(), TraceStyle(per="item", thread="patient"), TraceStyle(thread="brand"))
    return [KeptOpik("http://127.0.0.1:9", style=style, spans=True) for style in styles]


@functools.cache
def collector() -> OtlpLogsExporter:
    """An exporter that is only asked what it would send."""
    return OtlpLogsExporter("http://127.0.0.1:9")


def opik(record: PredictionRecord) -> bytes:
    """What is sent to Opik: a trace a request and a trace an item, spans, and the child of a caller's trace."""
    of_caller = {**record.attributes, "opik_trace_id": CALLER}
    child = msgspec.structs.replace(record, prediction_id=CALLER, attributes=of_caller, phases={"predict": 0.1})
    for exporter in opiks():
        exporter.kept = ()
        exporter.export([Entry(LIFE, 1, child)])
    return b"\n".join(each for exporter in opiks() for each in exporter.kept)


def other_exporters(record: PredictionRecord) -> bytes:
    """What a file of lines, a webhook and a collector of logs get."""
    entry = Entry(LIFE, 1, record)
    return b"\n".join(
        [as_json(document(entry)), as_json(cloud_event(entry)), collector()._request([entry]).SerializeToString()]
    )


SINKS: dict[str, Callable[[PredictionRecord], bytes]] = {
    "frame": frame,
    "rows": rows,
    "access log": access_log,
    "metrics": metrics,
    "spans": spans,
    "error event": error_event,
    "traces in Opik": opik,
    "other exporters": other_exporters,
}
"""Every place that a record goes to, as the bytes that arrive there. A new sink is one more line."""


texts = st.text("BCDFGHJKLMNPQRSTVWXZ", min_size=12, max_size=20).map("zq{}".format)
wholes = st.text("123456789", min_size=12, max_size=15).map(
    int
)  # no zeros: no rounding leaves it, no zeros are like it
floats = wholes.map(lambda number: number % 10**12 + 0.625)
secrets = st.one_of(texts, wholes, floats)
actions = st.sampled_from(["drop", "mask", "hash"])
names = st.sampled_from(["a", "b.c", "name", "patient"])
objects = st.sampled_from([dict, Ordered, as_dataclass])
"""Makes an object of what it holds: all of these are kept alike."""
lists = st.sampled_from([list, tuple, Some])


@st.composite
def nested(draw: st.DrawFn, secret: Any, path: str) -> tuple[Any, str]:
    """A value with a secret somewhere in it, and a path that leads there."""
    value: Any = secret
    segments: list[str] = []
    for kind in draw(st.lists(st.sampled_from(["object", "list", "object"]), max_size=4)):
        if kind == "list":
            value = draw(lists)([draw(st.sampled_from([None, 7, "other"])), value])
        else:
            name = draw(names)
            value = draw(objects)({name: value, "other": draw(st.sampled_from([1, "x", None]))})
            segments.insert(0, name)
    way = draw(st.sampled_from(["whole", "stars", "deep", "container"]))
    if way == "stars":
        segments = ["*" for _ in segments]
    if way == "deep":
        return value, f"{path}.**.{segments[-1]}" if segments else path
    if way == "container":
        segments = segments[: draw(st.integers(0, len(segments)))]
    return value, ".".join([path, *segments])


@st.composite
def planted(draw: st.DrawFn) -> Planted:
    """A record with secrets at some places."""
    items = draw(st.integers(1, 4))
    fields: dict[str, Any] = {"items": items}
    if draw(st.booleans()):
        reading = ViewReading({"hit": items}, ("hit",) * items, (1,) * items)
        fields["feature_provenance"] = FeatureProvenance("feast", "v1", features=("usage:age",), views={"u": reading})
    made = Planted(fields, [], [])

    def rule(path: str, *, numbers: bool = False) -> None:
        action = draw(actions if not numbers else st.sampled_from(["drop", "mask", "hash", "round"]))
        made.rules.append({"path": path, "action": action, "digits": -10})

    def secret(kind: Any = secrets) -> Any:
        made.secrets.append(value := draw(kind))
        return value

    for root in draw(st.sets(st.sampled_from(["inputs", "outputs", "entities"]))):
        columns: dict[str, Column] = {}
        for name in draw(st.sets(st.sampled_from(["features", "score", "note", "id"]), min_size=1)):
            columns[name] = draw_column(draw, root, name, items, rule, secret)
        fields[root] = columns
    if draw(st.booleans()):
        value, path = draw(nested(secret(), "attributes.top"))
        fields["attributes"] = {"top": value, "kept": 1}
        rule(path)
    if draw(st.booleans()):
        fields["labels"] = {"brand": secret(texts), "shop": "s"}
        rule("labels.*")
    for name in draw(st.sets(st.sampled_from(["request_id", "parent_request_id", "principal", "error_message"]))):
        fields[name] = draw(st.sampled_from(["{}", "before {}", "{} after"])).format(secret(texts))
        rule(name)
    return made


def draw_column(draw: Any, root: str, name: str, items: int, rule: Any, secret: Any) -> Column:
    """A column with secrets, and the rules that cover them."""
    path = f"{root}.{name}"
    kind = draw(st.sampled_from(["matrix", "values", "constant", "named"]))
    if kind == "named" and root == "inputs" and name == "features":
        at = draw(st.integers(0, 2))
        array = np.ones((items, 3))
        array[:, at] = [secret(floats) for _ in range(items)]
        rule(f"inputs.{FEATURES[at]}" if draw(st.booleans()) else f"{path}.{FEATURES[at]}", numbers=True)
        if draw(st.booleans()):
            return Matrix.of(array)
        return Values(
            array.tolist() if draw(st.booleans()) else [dict(zip(FEATURES, row, strict=True)) for row in array.tolist()]
        )
    if kind in ("matrix", "named"):
        numbers = draw(st.sampled_from([floats, wholes]))
        shape = draw(st.sampled_from([(items,), (items, 2), (items, 1, 2)]))
        array = np.array([secret(numbers) for _ in range(int(np.prod(shape)))]).reshape(shape)
        rule(path, numbers=True)
        return Matrix.of(array)
    if kind == "constant":
        value, deeper = draw(nested(secret(), path))
        rule(deeper)
        return Constant(value)
    found = [draw(nested(secret(), path)) for _ in range(items)]
    for _, deeper in found:
        rule(deeper)
    return Values([value for value, _ in found])


def assert_gone(record: PredictionRecord, planted_secrets: list[Any]) -> None:
    """No secret is in any sink."""
    for name, sink in SINKS.items():
        content = sink(record)
        for secret in planted_secrets:
            for form in forms(secret):
                assert form not in content, f"{secret!r} is in the {name}"


def build(fields: dict[str, Any]) -> PredictionRecord:
    """A record that failed, so that its message is logged wherever messages are."""
    return PredictionRecord("p1", 1, 0.1, Outcome.ERROR, 500, "predict", "/predict", "POST", error_type="E", **fields)


def test_the_sinks_show_what_is_not_redacted():
    """Each search finds what is there, or it would find nothing ever."""
    fields = {"request_id": "zqSECRET", "items": 1, "inputs": {"x": Matrix.of(np.array([123456789012.625]))}}
    record = build(fields)
    assert b"zqSECRET" in frame(record)
    assert b"zqSECRET" in rows(record)
    assert b"zqSECRET" in access_log(record)
    assert b"e2i_predictions_total" in metrics(record)
    assert opik(record).count(b"zqSECRET") > 1
    assert b"spans/batch" in opik(record)
    assert other_exporters(record).count(b"zqSECRET") > 2
    assert any(form in opik(record) for form in forms(123456789012.625))
    assert any(form in other_exporters(record) for form in forms(123456789012.625))
    assert any(form in frame(record) for form in forms(123456789012.625))
    assert any(form in rows(record) for form in forms(123456789012.625))


@settings(max_examples=200)
@given(planted())
def test_no_sink_shows_what_a_rule_covers(what: Planted) -> None:
    """By any action, at any place."""
    chosen = Settings(redaction_rules=what.rules, redaction_key="a key of 16 chars")
    redactor = redactor_of(chosen, LIFE.model)
    record = build(what.fields)
    assert_gone(redactor.record(record) if redactor else record, what.secrets)


@settings(max_examples=100)
@given(planted())
def test_no_sink_shows_what_is_not_allowed(what: Planted) -> None:
    """An allow-list of other things leaves nothing of these."""
    chosen = Settings(redaction_allow=["attributes.kept", "labels.shop", "inputs.else"])
    texts_of_their_own = {"request_id", "parent_request_id", "principal", "error_message"}
    fields = {name: value for name, value in what.fields.items() if name not in texts_of_their_own}
    redactor = redactor_of(chosen, LIFE.model)
    assert redactor is not None
    assert_gone(redactor.record(build(fields)), what.secrets)


@pytest.mark.parametrize("name", ["opik_trace_id", "opik_parent_span_id"])
def test_what_is_no_id_does_not_pass_for_a_callers(name: str) -> None:
    """An allow-list lets the ids of a caller's trace through, and no other text under their names."""
    redactor = redactor_of(Settings(redaction_allow=["labels.shop"]), LIFE.model)
    assert redactor is not None
    for text in ("zqSECRETSECRET", f"{CALLER} zqSECRETSECRET", CALLER.upper(), CALLER.replace("-", ""), ["x"], 7):
        assert redactor.record(build({"attributes": {name: text}})).attributes == {}
    kept = redactor.record(build({"attributes": {name: CALLER, "other": "zqSECRETSECRET"}}))
    assert kept.attributes == {name: CALLER}
    assert kept.redactions == ("attributes.allow-list",)
    untouched = redactor.record(build({"attributes": {name: CALLER}}))
    assert (untouched.attributes, untouched.redactions) == ({name: CALLER}, ())
    dropping = Settings(
        redaction_allow=["labels.shop"], redaction_rules=[{"path": f"attributes.{name}", "action": "drop"}]
    )
    strict = redactor_of(dropping, LIFE.model)
    assert strict is not None
    assert strict.record(build({"attributes": {name: CALLER}})).attributes == {}


@settings(max_examples=100)
@given(planted(), st.sampled_from(["see {}", "{0} and {0}", "[{}]", "{}"]))
def test_no_sink_shows_what_a_pattern_finds(what: Planted, phrase: str) -> None:
    """Secrets that are text are found wherever patterns look, inside other text as well."""

    def phrased(value: Any) -> Any:
        if isinstance(value, str):
            return phrase.format(value) if value.startswith("zq") else value
        if isinstance(value, dict):
            return type(value)({name: phrased(inner) for name, inner in value.items()})
        if isinstance(value, list | tuple):
            return type(value)(phrased(inner) for inner in value)
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **phrased(vars(value)))
        if isinstance(value, Values):
            return Values(phrased(value.values))
        return Constant(phrased(value.value)) if isinstance(value, Constant) else value

    fields = {name: phrased(value) for name, value in what.fields.items()}
    for name in ("request_id", "parent_request_id", "principal"):
        fields.pop(name, None)
    redactor = redactor_of(Settings(redaction_patterns=["zq[A-Z]{12,20}"]), LIFE.model)
    assert redactor is not None
    assert_gone(redactor.record(build(fields)), [secret for secret in what.secrets if isinstance(secret, str)])


@pytest.mark.parametrize("make", [dict, Ordered, as_dataclass])
def test_no_event_shows_what_a_rule_or_a_pattern_covers(make: Callable[[dict[str, Any]], Any]) -> None:
    """What comes after a record, or of who looks at it, is redacted whatever its values are made of."""
    rules = [{"path": f"outputs.{name}.ssn", "action": "drop"} for name in ("prediction", "truth")]
    redactor = redactor_of(Settings(redaction_rules=rules, redaction_patterns=["email"]), LIFE.model)
    assert redactor is not None
    value = make({"ssn": "zqSECRET", "mail": np.str_("zq@secret.com"), "more": Some(["zq@secret.com"])})
    events = (
        redactor.outcome(OutcomeEvent("o1", 1, "p1", value=value, comment="zq@secret.com", source="zq@secret.com")),
        redactor.late_result(LateResult("p1", 0.1, Outcome.OK, outputs={"prediction": Values([value])})),
        redactor.late_result(LateResult("p1", 0.1, Outcome.ERROR, error_message="of zq@secret.com")),
        redactor.stream_end(StreamEnd("p1", 0.1, Outcome.ERROR, error_message="of zq@secret.com")),
        redactor.access(AccessEvent("a1", 1, conditions={"labels": make({"mail": "zq@secret.com"}), "id": "r"})),
    )
    for event in events:
        buffer = bytearray()
        encode_into(buffer, event, KINDS[type(event)], 1, 1)
        assert b"***" in buffer
        assert b"zq" not in buffer
