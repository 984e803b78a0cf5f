"""The exporters that settings ask for, from the relay's side and from the command line's."""

from __future__ import annotations

import base64
import gzip
import hmac
import json
import os
import stat
from contextlib import closing, contextmanager

import pytest
from typer.testing import CliRunner

from e2i_serving.cli.application import app
from e2i_serving.exceptions import ConfigurationError, RefusedError, StoreError
from e2i_serving.exporters.json_lines import JsonLinesExporter
from e2i_serving.exporters.otlp_logs import OtlpLogsExporter
from e2i_serving.exporters.webhook import WebhookExporter
from e2i_serving.propagation import ContextExtractor
from e2i_serving.record import Entry, Life, ModelInfo, Outcome, OutcomeEvent, PredictionRecord, Values
from e2i_serving.relay import read_books
from e2i_serving.runtime.exporting import exporter_problems, open_exporters, opik_trace_address, round_trips
from e2i_serving.runtime.observation import Endpoint, Observation
from e2i_serving.runtime.relay_process import run_relay
from e2i_serving.settings import Settings, load_settings, logs_variables, opik_variables
from e2i_serving.testing import ExportReceiver, Fault, OpikReceiver

SECRET = "a secret of its own"
LIFE = Life("life-1", "credit", 1, 1)
ID = "0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a11"


@contextmanager
def closing_exporter(exporter):
    """Shut an exporter down in the end."""
    try:
        yield exporter
    finally:
        exporter.shutdown()


def entry(sequence=1, **changes):
    """A prediction's entry."""
    fields = {"items": 1, "inputs": {"age": Values([31])}, "trace_id": "ab" * 16, "span_id": "cd" * 8, **changes}
    return Entry(LIFE, sequence, PredictionRecord(ID, 1_790_000_000_000_000_000, 0.25, Outcome.OK, 200, **fields))


def test_the_relay_delivers_to_every_exporter(instance, tmp_path, monkeypatch):
    """Each has a book of its own, and all of it."""
    with OpikReceiver() as opik, ExportReceiver() as hooked, ExportReceiver() as logged:
        settings = load_settings(
            {
                "opik_enabled": True,
                "opik_url": opik.url,
                "jsonl_path": str(tmp_path / "out" / "trail.jsonl"),
                "webhook_url": hooked.url,
                "webhook_secret": SECRET,
                "otlp_logs_enabled": True,
                "otlp_logs_endpoint": f"{logged.url}/v1/logs",
            }
        ).settings
        instance.ledger.close()
        with closing(instance.open_writer()) as writer:
            for number in range(50):
                writer.append(instance.record(number))
        assert run_relay(settings, instance.data_dir, once=True)
        assert len(opik.traces) == 50
        assert sum(len(request.json()) for request in hooked.requests) == 50
        assert [request.path for request in logged.requests] == ["/v1/logs"]
    lines = (tmp_path / "out" / "trail.jsonl").read_text().splitlines()
    assert [json.loads(line)["prediction_id"] for line in lines] == instance.names(50)
    books = {book.destination: (book.accepted, book.stored) for book in read_books(instance.data_dir)}
    assert books == dict.fromkeys(["audit-store", "jsonl", "opik", "otlp-logs", "webhook"], (50, 50))


def test_an_exporter_whose_settings_are_wrong_holds_up_nothing_but_itself(tmp_path):
    """It says what is wrong, at the start-up check and when it is used."""
    settings = Settings(opik_enabled=True, opik_url="ftp://opik", webhook_url="http://localhost", jsonl_path="x")
    assert [exporter.name for exporter in open_exporters(settings)] == ["opik", "jsonl", "webhook"]
    problems = list(exporter_problems(settings))
    assert len(problems) == 2
    assert "ftp://opik" in problems[0]
    assert "webhook_secret" in problems[1]
    for exporter in open_exporters(settings):
        if exporter.name != "jsonl":
            with pytest.raises(StoreError):
                exporter.export([entry()])
            assert exporter.force_flush(1)
        exporter.shutdown()


def test_a_round_trip_is_made_to_every_destination(tmp_path):
    """What is wrong is said with its mend, and nothing is left there."""
    with OpikReceiver() as opik:
        settings = Settings(
            opik_enabled=True, opik_url=opik.url, jsonl_path=str(tmp_path / "a" / "b.jsonl"), audit_url=""
        )
        assert dict(round_trips(settings, tmp_path)) == {"audit-store": "", "opik": "", "jsonl": ""}
        opik.judge = lambda _request: Fault(401)
        assert "OPIK_API_KEY" in dict(round_trips(settings, tmp_path))["opik"]
    assert "can't be reached" in dict(round_trips(settings, tmp_path))["opik"]
    assert not (tmp_path / "a" / "b.jsonl").exists()
    broken = Settings(audit_url=f"sqlite:///{tmp_path}/none.db")
    assert dict(round_trips(broken, tmp_path))["audit-store"]


def test_a_webhook_is_signed_and_its_events_have_ids(monkeypatch):
    """The receiver can check who it is from, and knows an event again."""
    with ExportReceiver() as hooked:
        exporter = WebhookExporter(hooked.url, SECRET)
        exporter.export([entry(), Entry(LIFE, 2, OutcomeEvent(ID, 5, ID, value=True))])
        exporter.export([entry()])
        exporter.shutdown()
    first, again = hooked.requests
    signed = f"{first.headers['webhook-id']}.{first.headers['webhook-timestamp']}.".encode() + first.body
    expected = base64.b64encode(hmac.digest(SECRET.encode(), signed, "sha256")).decode()
    assert first.headers["webhook-signature"] == f"v1,{expected}"
    assert first.headers["content-type"].startswith("application/cloudevents-batch+json")
    event, outcome = first.json()
    assert (event["specversion"], event["id"], event["source"]) == ("1.0", "life-1/1", "/e2i-serving/credit")
    assert (event["type"], event["subject"], event["time"]) == (
        "e2i_serving.prediction",
        ID,
        "2026-09-21T14:13:20.000000Z",
    )
    assert event["data"]["items"] == [{"input": {"age": 31}}]
    assert (outcome["type"], outcome["data"]["value"]) == ("e2i_serving.outcome", True)
    assert again.json()[0]["id"] == event["id"]
    with pytest.raises(ConfigurationError, match="webhook_secret"):
        WebhookExporter("http://localhost", "short")


def test_a_secret_with_the_standards_prefix_is_decoded():
    """What verifies by Standard Webhooks takes the prefix off and decodes the rest; any other secret is text."""
    key = bytes(range(24))
    with ExportReceiver() as hooked:
        with closing_exporter(WebhookExporter(hooked.url, "whsec_" + base64.b64encode(key).decode())) as exporter:
            exporter.export([entry()])
        (post,) = hooked.requests
    signed = f"{post.headers['webhook-id']}.{post.headers['webhook-timestamp']}.".encode() + post.body
    expected = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert post.headers["webhook-signature"] == f"v1,{expected}"


@pytest.mark.parametrize(
    ("secret", "said"),
    [("whsec_not-base64-and-no-key", "base64"), ("whsec_" + "QUJD" * 4, "16 bytes"), ("whsec_QUI=", "16 bytes")],
)
def test_a_secret_that_cannot_be_the_standards_is_refused(secret, said):
    """At the start-up check, without saying the secret."""
    (problem,) = exporter_problems(Settings(webhook_url="http://localhost", webhook_secret=secret))
    assert "webhook_secret" in problem
    assert said in problem
    assert secret not in problem


def test_a_webhook_takes_any_success_and_a_collector_no_page():
    """Web frameworks answer with HTML unless told otherwise; a collector does not, and so a sign-in page is none."""
    page = Fault(200, {"Content-Type": "text/html; charset=utf-8"}, b"ok", takes=True)
    with ExportReceiver() as receiver:
        receiver.judge = lambda _request: page
        with closing_exporter(WebhookExporter(receiver.url, SECRET)) as webhook:
            webhook.export([entry()])
        with (
            closing_exporter(OtlpLogsExporter(receiver.url)) as collector,
            pytest.raises(StoreError, match="page of HTML"),
        ):
            collector.export([entry()])


def test_a_log_record_has_the_ids_that_it_is_searched_by():
    """Trace, span and severity in their own fields, the rest in attributes; what is refused in part is refused."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
        ExportLogsServiceRequest,
        ExportLogsServiceResponse,
    )

    with ExportReceiver() as logged:
        exporter = OtlpLogsExporter(logged.url, headers={"x-tenant": "a"})
        exporter.export([entry(labels={"brand": "north"}, model="scorer")])
        (request,) = logged.requests
        refusal = ExportLogsServiceResponse()
        refusal.partial_success.rejected_log_records = 1
        refusal.partial_success.error_message = "too old"
        kind = {"Content-Type": "application/x-protobuf"}
        logged.faults.append(Fault(200, kind, refusal.SerializeToString()))
        with pytest.raises(StoreError, match="too old"):
            exporter.export([entry()])
        exporter.shutdown()
    assert request.headers["x-tenant"] == "a"
    (resource,) = ExportLogsServiceRequest.FromString(request.body).resource_logs
    (log,) = resource.scope_logs[0].log_records
    assert (log.trace_id.hex(), log.span_id.hex(), log.severity_text) == ("ab" * 16, "cd" * 8, "INFO")
    attributes = {pair.key: pair.value.string_value for pair in log.attributes}
    assert attributes["e2i.prediction_id"] == ID
    assert attributes["e2i.label.brand"] == "north"
    assert attributes["log.record.uid"] == "life-1/1"
    assert {pair.key: pair.value.string_value for pair in resource.resource.attributes}["service.name"] == "credit"


def test_an_id_of_another_length_is_left_out_of_a_log_record():
    """A collector would refuse the request for it; the entry's JSON has it."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    with ExportReceiver() as logged, closing_exporter(OtlpLogsExporter(logged.url)) as exporter:
        exporter.export([entry(trace_id="abcd", span_id="order-17")])
        (request,) = logged.requests
    (resource,) = ExportLogsServiceRequest.FromString(request.body).resource_logs
    (log,) = resource.scope_logs[0].log_records
    assert (log.trace_id, log.span_id) == (b"", b"")
    assert json.loads(log.body.string_value)["trace_id"] == "abcd"


@pytest.mark.parametrize("headers", [{}, {"accept-encoding": "gzip"}])
def test_a_refusal_in_part_is_read_behind_a_proxy_that_compresses(headers):
    """No compression is asked for, by whoever sets headers either, so what is answered can be read."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

    refusal = ExportLogsServiceResponse()
    refusal.partial_success.rejected_log_records = 1
    refusal.partial_success.error_message = "too old"
    kind, body = {"Content-Type": "application/x-protobuf"}, refusal.SerializeToString()
    plain, compressed = Fault(200, kind, body), Fault(200, {**kind, "Content-Encoding": "gzip"}, gzip.compress(body))
    with ExportReceiver() as logged:
        logged.judge = lambda request: compressed if "gzip" in request.headers.get("accept-encoding", "") else plain
        with (
            closing_exporter(OtlpLogsExporter(logged.url, headers=headers)) as exporter,
            pytest.raises(RefusedError, match="too old"),
        ):
            exporter.export([entry()])


def test_a_file_of_lines_may_be_moved_and_mended(tmp_path):
    """A line that was torn is ended, the file is its owner's alone, and a moved one is made anew."""
    path = tmp_path / "trail.jsonl"
    path.write_bytes(b'{"torn')
    exporter = JsonLinesExporter(str(path))
    exporter.export([entry()])
    torn, whole = path.read_bytes().splitlines()
    assert (torn, json.loads(whole)["kind"]) == (b'{"torn', "prediction")
    path.rename(tmp_path / "trail.1")
    exporter.export([entry()])
    assert len(path.read_bytes().splitlines()) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_standard_output_that_leads_nowhere_takes_nothing(capfd):
    """A relay that a command starts for a moment must not throw records away."""
    exporter = JsonLinesExporter("-")
    exporter.export([entry()])
    exporter.check()
    assert json.loads(capfd.readouterr().out)["prediction_id"] == ID
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        with pytest.raises(StoreError, match="leads nowhere"):
            exporter.export([entry()])
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def test_the_callers_trace_in_opik_is_on_record():
    """So that the exporter makes the prediction its child."""
    context = ContextExtractor().extract([(b"opik_trace_id", ID.encode())])
    made = Observation(Endpoint("predict", "/predict"), context, "POST").record(ModelInfo())
    assert made.attributes == {"opik_trace_id": ID}
    plain = Observation(Endpoint("predict", "/predict"), ContextExtractor().extract([]), "POST").record(ModelInfo())
    assert plain.attributes == {}


def test_other_peoples_variables_are_read():
    """What Opik's SDK and OpenTelemetry's exporters are set by, these are as well."""
    said = opik_variables({"OPIK_URL_OVERRIDE": "http://opik/api", "OPIK_API_KEY": "k", "OPIK_PROJECT_NAME": "p"})
    assert (said.url, said.api_key, said.workspace, said.project) == ("http://opik/api", "k", "default", "p")
    assert "k'" not in repr(said)
    assert opik_variables({}).url.startswith("https://")
    logs = logs_variables(
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318/", "OTEL_EXPORTER_OTLP_HEADERS": "a=b%20c,broken"}
    )
    assert (logs.endpoint, logs.headers) == ("http://otel:4318/v1/logs", {"a": "b c"})


def test_show_prints_where_opik_shows_it(instance):
    """The address that Opik itself forwards to the trace."""
    instance.ledger.close()
    with closing(instance.open_writer()) as writer:
        writer.append(instance.record(1))
    settings = Settings(opik_url="http://localhost:5173/api")
    assert opik_trace_address(settings, ID) == (
        f"http://localhost:5173/api/v1/session/redirect/projects/?trace_id={ID}"
        "&path=aHR0cDovL2xvY2FsaG9zdDo1MTczL2FwaS8="
    )
    assert run_relay(Settings(), instance.data_dir, once=True)
    shown = CliRunner().invoke(app, ["audit", "show", "p0001", "--opik", "--data-dir", str(instance.data_dir)])
    assert shown.exit_code == 0
    assert "redirect/projects/?trace_id=p0001" in shown.stdout


def test_opik_cloud_needs_a_key(monkeypatch):
    """Without one, predictions would be sent where nobody takes them; an Opik of one's own may do without."""
    for name in ("OPIK_API_KEY", "OPIK_URL_OVERRIDE"):
        monkeypatch.delenv(name, raising=False)
    (problem,) = exporter_problems(Settings(opik_enabled=True))
    assert "OPIK_API_KEY" in problem
    assert not list(exporter_problems(Settings(opik_enabled=True, opik_api_key="k")))
    monkeypatch.setenv("OPIK_URL_OVERRIDE", "http://localhost:5173/api")
    assert not list(exporter_problems(Settings(opik_enabled=True)))
