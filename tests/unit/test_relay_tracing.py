"""What the relay's own spans tell of a delivery, and that a delivery never waits for them."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from e2i_serving.exceptions import RefusedError, StoreError
from e2i_serving.observers.spans import SpanSink
from e2i_serving.record import Entry, Outcome, PredictionFilter, PredictionRecord, Values
from e2i_serving.relay.audit_destination import AuditDestination
from e2i_serving.runtime.relay_process import run_relay
from e2i_serving.runtime.relay_spans import BatchSpans
from e2i_serving.runtime.relay_tracing import TracedDestination, relay_tracing_of
from e2i_serving.settings import Settings, environment_of, load_settings, with_signal_variables
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.query import SqlAuditQuery
from e2i_serving.stores.sql import SqlAuditStore
from e2i_serving.testing import OtlpReceiver

SECRET = "not for anyone"
TRACED = {"trace_exporter": "otlp-http", "trace_sample_rate": 1.0}
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"

SEES_MODULES = """
import sys
from pathlib import Path
{statement}
print([name for name in sys.modules if name.startswith({prefix!r})])
"""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    """None of OpenTelemetry's variables is set."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def receiver(monkeypatch):
    """A receiver of spans, to which OpenTelemetry's variables lead."""
    with OtlpReceiver() as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


def record(number):
    """A sampled prediction that holds what no span may tell."""
    return PredictionRecord(
        f"p{number}",
        number,
        0.1,
        Outcome.OK,
        200,
        request_id=f"{SECRET} {number}",
        trace_id=TRACE_ID,
        span_id=f"{number + 1:016x}",
        sampled=True,
        principal=SECRET,
        entities={"patient": Values([SECRET])},
        inputs={"text": Values([SECRET])},
        items=1,
    )


def write(journal, data_dir, count, life="life-1"):
    """Journal predictions as a worker does."""
    with closing(journal.open_writer(data_dir / "journal", life)) as writer:
        for number in range(count):
            writer.append(record(1000 * int(life[-1]) + number))


def stored(data_dir):
    """How many predictions the audit store holds."""
    with closing(SqlAuditQuery(sqlite_url(data_dir / "audit.db"))) as query:
        return query.count(PredictionFilter())


def test_each_batch_is_a_tree_of_its_own(tmp_path, journal, receiver):
    """A batch is a root span, each call of the database its child; none is of a request, none tells a value."""
    write(journal, tmp_path, 30, "life-1")
    write(journal, tmp_path, 5, "life-2")
    assert run_relay(Settings(**TRACED, relay_batch_size=10), tmp_path, once=True)
    assert stored(tmp_path) == 35
    spans = receiver.spans
    roots = {span["span_id"]: span for span in spans if not span["parent_span_id"]}
    assert {span["name"] for span in roots.values()} == {"deliver audit-store"}
    assert sum(span["attributes"]["e2i.records"] for span in roots.values()) == 35
    assert {span["attributes"]["e2i.life"] for span in roots.values()} == {"life-1", "life-2"}
    assert {span["attributes"]["e2i.destination"] for span in roots.values()} == {"audit-store"}
    assert all(span["attributes"]["e2i.bytes"] > 100 for span in roots.values())
    assert len({span["trace_id"] for span in roots.values()}) == len(roots) >= 4
    children = [span for span in spans if span["parent_span_id"]]
    for child in children:
        root = roots[child["parent_span_id"]]
        assert child["trace_id"] == root["trace_id"]
        assert root["start"] <= child["start"] <= child["end"] <= root["end"]
        assert child["kind"] == SpanKind.CLIENT.value + 1  # OTLP counts from 1
        assert child["attributes"]["db.system.name"] == "sqlite"
    last = list(roots)[-1]
    assert [child["name"] for child in children if child["parent_span_id"] == last][-1] == "COMMIT"
    assert not any(span["is_error"] for span in spans)
    assert TRACE_ID not in {span["trace_id"] for span in spans}
    assert SECRET not in repr(spans)


def test_a_batch_is_a_few_spans_however_many_rows_it_has(tmp_path, journal, receiver):
    """The rows of a table are one call, which says how many they are."""
    write(journal, tmp_path, 500)
    assert run_relay(Settings(**TRACED, relay_batch_size=1000), tmp_path, once=True)
    assert len([span for span in receiver.spans if span["name"] == "deliver audit-store"]) == 1
    inserts = [span for span in receiver.spans if span["attributes"].get("db.collection.name") == "predictions"]
    assert [span["name"] for span in inserts] == ["BATCH INSERT predictions"]
    assert inserts[0]["attributes"]["db.operation.name"] == "BATCH INSERT"
    assert inserts[0]["attributes"]["db.operation.batch.size"] == 500


def test_the_resource_is_the_relay_of_the_service(tmp_path, journal, receiver, monkeypatch):
    """The spans are the served service's, and of its relay, not of a worker; OpenTelemetry's variables win."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=risk")
    write(journal, tmp_path, 1)
    assert run_relay(Settings(**TRACED, pod="pod-7"), tmp_path, once=True)
    (resource,) = {tuple(sorted(span["resource"].items())) for span in receiver.spans}
    found = dict(resource)
    assert found["service.name"] == "credit"
    assert found["service.instance.id"] == "pod-7/relay"
    assert found["team"] == "risk"


def test_opentelemetrys_variables_turn_it_on_as_in_a_worker(tmp_path, journal, receiver, monkeypatch):
    """A relay that a worker starts traces where the worker does, by whatever told the worker."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    write(journal, tmp_path, 1)
    handed_on = environment_of(load_settings({"data_dir": tmp_path, "relay_linger_seconds": 0}, environ={}).settings)
    done = subprocess.run(
        [sys.executable, "-m", "e2i_serving.runtime.relay_process"],
        env={**os.environ, **handed_on},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert "deliver audit-store" in {span["name"] for span in receiver.spans}


@pytest.mark.parametrize(
    ("given", "variables", "expected"),
    [
        ({}, {}, ("none", 0.0)),
        ({}, {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER": "always_on"}, ("otlp-http", 1.0)),
        ({"trace_exporter": "none"}, {"OTEL_TRACES_EXPORTER": "otlp"}, ("none", 0.0)),
        ({"trace_sample_rate": 0}, {"OTEL_TRACES_SAMPLER": "always_on"}, ("none", 0.0)),
        (TRACED, {"OTEL_SDK_DISABLED": "true"}, ("none", 0.0)),
        (TRACED, {}, ("otlp-http", 1.0)),
    ],
)
def test_a_child_process_traces_as_its_parent(given, variables, expected, monkeypatch):
    """What the parent came to is handed on, so that a default is not taken for a choice, nor a choice for a default."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    parent = with_signal_variables(load_settings(given, environ={}).settings)
    child = with_signal_variables(
        load_settings(environ=environment_of(load_settings(given, environ={}).settings)).settings
    )
    assert (parent.trace_exporter, parent.trace_sample_rate) == expected
    assert (child.trace_exporter, child.trace_sample_rate) == expected


@pytest.mark.parametrize("signal", ["metrics", "log"])
def test_a_signal_that_is_set_to_none_is_not_sent(signal, monkeypatch):
    """A variable fills in for a setting that nobody set, in a child process too, and overrides none."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp")
    name = f"{signal}_exporter"
    for given, expected in (({}, "otlp-http"), ({name: "none"}, "none")):
        settings = load_settings(given, environ={}).settings
        child = load_settings(environ=environment_of(settings)).settings
        assert getattr(with_signal_variables(settings), name) == expected
        assert getattr(with_signal_variables(child), name) == expected


@pytest.mark.parametrize("settings", [{}, {"trace_exporter": "otlp-http"}, {"trace_sample_rate": 1.0}])
def test_nothing_is_sent_unless_asked_for(tmp_path, journal, receiver, settings):
    """Without an exporter, or with nothing sampled, there is no span."""
    write(journal, tmp_path, 1)
    assert run_relay(Settings(**settings), tmp_path, once=True)
    assert (stored(tmp_path), receiver.spans) == (1, [])


def test_what_is_off_imports_nothing(tmp_path, journal):
    """Off, the part itself imports nothing of OpenTelemetry's, and a whole relay neither its SDK nor an exporter."""
    write(journal, tmp_path, 1)
    alone = "from e2i_serving.runtime.relay_tracing import relay_tracing_of\n"
    alone += "from e2i_serving.settings import Settings\nrelay_tracing_of(Settings()).close()"
    whole = "from e2i_serving.runtime.relay_process import run_relay\nfrom e2i_serving.settings import Settings\n"
    whole += f"assert run_relay(Settings(), Path({str(tmp_path)!r}), once=True)"
    cases = ((alone, "opentelemetry"), (whole, "opentelemetry.sdk"), (whole, "opentelemetry.exporter"))
    for statement, prefix in cases:
        code = SEES_MODULES.format(statement=statement, prefix=prefix)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == "[]"


def test_nobody_to_take_spans_is_not_felt(tmp_path, journal, free_port, monkeypatch):
    """With nobody at the collector's port all is delivered, and the relay ends."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port}")
    write(journal, tmp_path, 20)
    assert run_relay(Settings(**TRACED, relay_batch_size=5), tmp_path, once=True)
    assert stored(tmp_path) == 20


@pytest.mark.parametrize("exporter", ["otlp-http", "otlp-grpc"])
def test_a_collector_that_hangs_is_not_felt(tmp_path, journal, monkeypatch, exporter):
    """A collector that takes connections and never answers holds up neither the delivery nor the relay's end."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{mute.getsockname()[1]}")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
        write(journal, tmp_path, 20)
        assert run_relay(Settings(**TRACED | {"trace_exporter": exporter}, relay_batch_size=5), tmp_path, once=True)
    assert stored(tmp_path) == 20


def test_an_exporter_that_can_not_be_made_is_said(tmp_path, journal, caplog, monkeypatch):
    """Without the extra, or with variables that make no sense, the relay says so and delivers."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    write(journal, tmp_path, 1)
    assert run_relay(Settings(**TRACED), tmp_path, once=True)
    assert stored(tmp_path) == 1
    assert "e2i-serving[otlp]" in caplog.text
    monkeypatch.undo()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "missing"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    relay_tracing_of(Settings(**TRACED | {"trace_exporter": "otlp-grpc"})).close()


class Rig:
    """A traced audit store on SQLite, and the spans of what it is handed."""

    def __init__(self, url, processor=None):
        self.exporter = InMemorySpanExporter()
        self.sink = SpanSink(self.exporter, Resource.get_empty())
        self.spans = BatchSpans(processor or self.sink, Settings(**TRACED))
        store = SqlAuditStore(url, on_call=self.spans.on_call)
        self.destination = TracedDestination(AuditDestination(store), self.spans)

    def finished(self):
        self.sink.force_flush()
        return self.exporter.get_finished_spans()

    def close(self):
        self.destination.close()
        self.spans.close()
        self.sink.shutdown()


@pytest.fixture
def make_rig():
    """Make rigs, and end them."""
    made = []

    def make(*arguments):
        made.append(Rig(*arguments))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


def test_a_batch_that_fails_says_why_without_a_message(tmp_path, journal, make_rig):
    """The batch and the call that failed carry the type of the error, never its text; the error goes on as it was."""
    rig = make_rig(sqlite_url(tmp_path / "audit.db"))
    life = journal.life()
    state = rig.destination.deliver([Entry(life, 1, record(1))], b"")
    refuse = f"CREATE TRIGGER refuse BEFORE INSERT ON predictions BEGIN SELECT RAISE(ABORT, '{SECRET}'); END"
    with closing(sqlite3.connect(tmp_path / "audit.db")) as connection:
        connection.execute(refuse)
    with pytest.raises(RefusedError, match=SECRET):
        rig.destination.deliver([Entry(life, 2, record(2))], state)
    batch, *calls = rig.finished()[-3:]
    assert (batch.name, batch.attributes["error.type"]) == ("deliver audit-store", "RefusedError")
    assert [call.name for call in calls] == ["INSERT predictions", "ROLLBACK"]
    assert calls[0].attributes["error.type"] == "IntegrityError"
    assert [span.status.is_ok for span in (batch, *calls)] == [False, False, True]
    assert [event for span in (batch, *calls) for event in span.events] == []
    assert SECRET not in repr([(span.attributes, span.status.description) for span in (batch, *calls)])


def test_a_store_that_is_not_there_is_a_batch_without_calls(tmp_path, journal, make_rig):
    """When not even a connection is made, the batch alone says so."""
    rig = make_rig(sqlite_url(tmp_path / "missing" / "audit.db"))
    with pytest.raises(StoreError):
        rig.destination.deliver([Entry(journal.life(), 1, record(1))], b"")
    (batch,) = rig.finished()
    assert batch.attributes["error.type"] == "StoreError"


def test_a_dead_letter_that_is_delivered_again_is_a_batch(tmp_path, journal, make_rig):
    """It is one entry's."""
    rig = make_rig(sqlite_url(tmp_path / "audit.db"))
    rig.destination.redeliver(Entry(journal.life(), 1, record(1)), b"x" * 32, b"")
    batch = rig.finished()[0]
    assert (batch.attributes["e2i.records"], batch.attributes["e2i.entries"], batch.parent) == (1, 1, None)


class Broken(SpanProcessor):
    """A processor that fails at everything."""

    def on_end(self, span):
        raise ValueError("broken")


def test_a_fault_of_the_tracing_is_not_felt(tmp_path, journal, make_rig, caplog):
    """What goes wrong with the spans is said, and the batch is delivered."""
    rig = make_rig(sqlite_url(tmp_path / "audit.db"), Broken())
    assert len(rig.destination.deliver([Entry(journal.life(), 1, record(1))], b"")) == 32
    assert stored(tmp_path) == 1
    assert "broken" in caplog.text


def test_a_traced_destination_is_the_destination(tmp_path, journal, make_rig):
    """All but what is traced goes to the destination as it is."""
    rig = make_rig(sqlite_url(tmp_path / "audit.db"))
    entry = Entry(journal.life(), 1, record(1))
    assert rig.destination.name == "audit-store"
    assert len(rig.destination.digest(entry)) == 32
    rig.destination.tick()
    rig.destination.closed("life-1")
    assert rig.finished() == ()
