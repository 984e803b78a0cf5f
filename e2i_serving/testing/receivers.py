"""Receivers of spans and of error events, for tests of what a service sends."""

from __future__ import annotations

import gzip
import zlib
from http.server import BaseHTTPRequestHandler
from typing import Any

import msgspec

from e2i_serving.testing.servers import LocalServer


class Receiver(LocalServer):
    """An HTTP server on a free port of this machine, for the length of a with-block.

    Attributes:
        status: What it answers, 200 at first.
    """

    def __init__(self) -> None:
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the standard library's name
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                encoding = self.headers.get("content-encoding", "")
                if encoding == "gzip":
                    body = gzip.decompress(body)
                elif encoding == "deflate":
                    body = zlib.decompress(body)
                if receiver.status < 300:  # noqa: PLR2004  # HTTP's own number
                    receiver.receive(body)
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # likewise
                """Say nothing."""

        super().__init__(Handler)

    def receive(self, body: bytes) -> None:
        """Take what was sent. From any thread."""
        raise NotImplementedError


class OtlpReceiver(Receiver):
    """Receives spans by OTLP over HTTP. Needs ``opentelemetry-proto``, which the extra ``otlp`` brings.

    Attributes:
        spans: One object a span: ``name``, ``trace_id``, ``span_id``, ``parent_span_id``, ``kind``, ``start``,
            ``end`` (nanoseconds), ``is_error``, ``attributes``, ``events`` and ``resource``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[dict[str, Any]] = []

    @property
    def environment(self) -> dict[str, str]:
        """OpenTelemetry's variables that lead here."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url}

    def receive(self, body: bytes) -> None:
        """Decode an export request."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415  # of an extra
            ExportTraceServiceRequest,
        )

        request = ExportTraceServiceRequest.FromString(body)
        self.spans += [
            {
                "name": span.name,
                "trace_id": span.trace_id.hex(),
                "span_id": span.span_id.hex(),
                "parent_span_id": span.parent_span_id.hex(),
                "kind": span.kind,
                "start": span.start_time_unix_nano,
                "end": span.end_time_unix_nano,
                "is_error": span.status.code == span.status.STATUS_CODE_ERROR,
                "attributes": _attributes(span.attributes),
                "events": [{"name": event.name, **_attributes(event.attributes)} for event in span.events],
                "resource": _attributes(resource.resource.attributes),
            }
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class MetricsReceiver(Receiver):
    """Receives metrics by OTLP over HTTP. Needs ``opentelemetry-proto``, which the extra ``otlp`` brings.

    Attributes:
        metrics: The metrics of the latest request, one object each: ``name``, ``unit``, ``kind``, ``resource``, and
            ``points`` with their attributes and what their kind has.
    """

    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[dict[str, Any]] = []

    @property
    def environment(self) -> dict[str, str]:
        """OpenTelemetry's variables that lead here."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url}

    def receive(self, body: bytes) -> None:
        """Decode an export request."""
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (  # noqa: PLC0415  # of an extra
            ExportMetricsServiceRequest,
        )

        request = ExportMetricsServiceRequest.FromString(body)
        self.metrics = [
            {
                "name": metric.name,
                "unit": metric.unit,
                "kind": metric.WhichOneof("data"),
                "resource": _attributes(resource.resource.attributes),
                "points": [_point(point) for point in getattr(metric, metric.WhichOneof("data")).data_points],
            }
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]


class LogReceiver(Receiver):
    """Receives log lines by OTLP over HTTP. Needs ``opentelemetry-proto``, which the extra ``otlp`` brings.

    Attributes:
        lines: One object a line: ``body``, ``severity``, ``time`` (nanoseconds), ``trace_id``, ``span_id``,
            ``attributes`` and ``resource``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    @property
    def environment(self) -> dict[str, str]:
        """OpenTelemetry's variables that lead here."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url}

    def receive(self, body: bytes) -> None:
        """Decode an export request."""
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (  # noqa: PLC0415  # of an extra
            ExportLogsServiceRequest,
        )

        request = ExportLogsServiceRequest.FromString(body)
        self.lines += [
            {
                "body": line.body.string_value,
                "severity": line.severity_text,
                "time": line.time_unix_nano,
                "trace_id": line.trace_id.hex(),
                "span_id": line.span_id.hex(),
                "attributes": _attributes(line.attributes),
                "resource": _attributes(resource.resource.attributes),
            }
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for line in scope.log_records
        ]


def _point(point: Any) -> dict[str, Any]:
    found = {**_attributes(point.attributes), "start": point.start_time_unix_nano}
    names = {field.name for field in point.DESCRIPTOR.fields}
    if "as_double" in names:
        return {**found, "value": getattr(point, point.WhichOneof("value"))}
    found |= {"count": point.count, "sum": point.sum}
    if "positive" in names:
        return {**found, "offset": point.positive.offset, "buckets": list(point.positive.bucket_counts)}
    return {**found, "bounds": list(point.explicit_bounds), "buckets": list(point.bucket_counts)}


class EnvelopeReceiver(Receiver):
    """Receives error events as Sentry does.

    Attributes:
        events: The events, decoded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    @property
    def dsn(self) -> str:
        """The DSN that leads here."""
        return f"http://public@{self.address}/1"

    def receive(self, body: bytes) -> None:
        """Decode an envelope: a line of headers, then for each item a line of headers and its payload."""
        _, _, rest = body.partition(b"\n")
        while rest:
            head, _, rest = rest.partition(b"\n")
            if not head:
                continue
            headers = msgspec.json.decode(head)
            length = headers.get("length")
            payload, rest = (rest[:length], rest[length + 1 :]) if length is not None else rest.split(b"\n", 1)
            if headers.get("type") == "event":
                self.events.append(msgspec.json.decode(payload))


def _attributes(found: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in found}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind) if kind else None
