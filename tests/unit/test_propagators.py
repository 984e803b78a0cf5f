"""The headers of other tracing systems, and the precedence among all of them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2i_serving.propagation import ContextExtractor
from e2i_serving.propagation.extraction import PROPAGATORS

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SHORT = "a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
W3C = (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())
AMAZON = f"Root=1-{TRACE[:8]}-{TRACE[8:]}"
FIELDS = sorted({field for propagator in PROPAGATORS for field in propagator.fields})


def extract(*headers: tuple[bytes, bytes]):
    """The context that headers give."""
    return ContextExtractor().extract(headers)


@pytest.mark.parametrize(
    ("headers", "trace", "parent", "sampled"),
    [
        ([(b"b3", f"{TRACE}-{SPAN}-1".encode())], TRACE, SPAN, True),
        ([(b"b3", f"{TRACE}-{SPAN}-d-{SHORT}".encode())], TRACE, SPAN, True),
        ([(b"b3", f"{TRACE}-{SPAN}-0".encode())], TRACE, SPAN, False),
        ([(b"b3", f"{TRACE}-{SPAN}".encode())], TRACE, SPAN, False),
        ([(b"b3", f"{SHORT}-{SPAN}-1".encode())], SHORT.rjust(32, "0"), SPAN, True),
        ([(b"x-b3-traceid", TRACE.encode()), (b"x-b3-spanid", SPAN.encode())], TRACE, SPAN, False),
        (
            [(b"x-b3-traceid", TRACE.encode()), (b"x-b3-spanid", SPAN.encode()), (b"x-b3-sampled", b"1")],
            TRACE,
            SPAN,
            True,
        ),
        (
            [(b"x-b3-traceid", SHORT.encode()), (b"x-b3-spanid", SPAN.encode()), (b"x-b3-flags", b"1")],
            SHORT.rjust(32, "0"),
            SPAN,
            True,
        ),
        ([(b"x-amzn-trace-id", AMAZON.encode())], TRACE, "", False),
        ([(b"x-amzn-trace-id", f"{AMAZON};Parent={SPAN};Sampled=1".encode())], TRACE, SPAN, True),
        ([(b"x-amzn-trace-id", f"Self=1-2-3;{AMAZON};Sampled=0".encode())], TRACE, "", False),
        ([(b"x-trace-id", TRACE.encode())], TRACE, "", False),
        ([(b"x-trace-id", b"4BF92F35-77B3-4DA6-A3CE-929D0E0E4736")], TRACE, "", False),
    ],
)
def test_a_trace_of_another_system_goes_on(headers, trace, parent, sampled):
    """Each format gives trace, parent and sampling as its own specification says."""
    context = extract(*headers)
    assert (context.trace_id, context.parent_span_id, context.sampled) == (trace, parent, sampled)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("b3", b"garbage"),
        ("b3", f"{'0' * 32}-{SPAN}-1".encode()),
        ("b3", f"{TRACE}-{'0' * 16}".encode()),
        ("b3", f"{TRACE}-{SPAN}-7".encode()),
        ("x-b3-traceid", TRACE.encode()),
        ("x-amzn-trace-id", b"Root=1-5759e988"),
        ("x-amzn-trace-id", b"=;=;="),
        ("x-amzn-trace-id", f"{AMAZON};Parent=zz".encode()),
        ("x-trace-id", b"not hexadecimal"),
        ("x-trace-id", b"0" * 32),
        ("x-request-id", b"two words"),
        ("x-correlation-id", b"<script>"),
        ("traceparent", b"00-zz"),
        ("baggage", b"no member at all"),
        ("baggage", b"k=v," * 4000),
    ],
)
def test_what_is_malformed_is_replaced_and_counted(header, value):
    """A hostile header gives a trace and ids of our own, and a count under its name."""
    extractor = ContextExtractor()
    context = extractor.extract([(header.encode(), value)])
    assert extractor.refused == {header: 1}
    assert context.request_id == context.prediction_id
    assert context.parent_span_id == ""
    assert TRACE not in context.trace_id


def test_the_precedence_is_as_stated():
    """traceparent, b3, X-B3-*, X-Amzn-Trace-Id, X-Trace-Id; X-Request-ID, X-Correlation-ID, baggage."""
    traces = [
        W3C,
        (b"b3", f"{'b' * 32}-{SPAN}-1".encode()),
        (b"x-b3-traceid", b"c" * 32),
        (b"x-amzn-trace-id", f"Root=1-{'d' * 8}-{'d' * 24}".encode()),
        (b"x-trace-id", b"e" * 32),
    ]
    more = [(b"x-b3-spanid", SPAN.encode())]
    expected = [TRACE, "b" * 32, "c" * 32, "d" * 32, "e" * 32]
    for at, trace in enumerate(expected):
        assert extract(*traces[at:], *more).trace_id == trace
    ids = [(b"x-request-id", b"first"), (b"x-correlation-id", b"second"), (b"baggage", b"e2i.request_id=third")]
    for at, request_id in enumerate(["first", "second", "third"]):
        assert extract(*ids[at:]).request_id == request_id


def test_baggage_tells_who_called():
    """The calling service's prediction, and all well-formed members, are in the context."""
    value = b"e2i.prediction_id=0192-a;prop=1, e2i.label.brand=north%20star ,tenant=t1,=x,bad name=1,long=" + b"x" * 257
    context = extract((b"baggage", value))
    assert context.parent_request_id == "0192-a"
    assert context.baggage == {"e2i.prediction_id": "0192-a", "e2i.label.brand": "north star", "tenant": "t1"}


def test_baggage_with_a_hostile_id_gives_none():
    """Ids in baggage are held to the same characters as those in headers; control characters never get in."""
    context = extract((b"baggage", b"e2i.request_id=a%0d%0ab,e2i.prediction_id=%3Cscript%3E,ok=1"))
    assert context.request_id == context.prediction_id
    assert context.parent_request_id == ""
    assert "e2i.request_id" not in context.baggage


@given(st.lists(st.tuples(st.sampled_from(FIELDS), st.binary(max_size=300)), max_size=10))
def test_no_bytes_in_any_header_raise(headers):
    """Whatever arrives, each id is of the form that everything behind relies on."""
    context = ContextExtractor().extract(headers)
    assert re.fullmatch(r"[A-Za-z0-9._:/+=@,#~-]{1,128}", context.request_id)
    assert re.fullmatch(r"[0-9a-f]{32}", context.trace_id)
    assert re.fullmatch(r"([0-9a-f]{16})?", context.parent_span_id)
    assert all(name.isascii() and text.isprintable() for name, text in context.baggage.items())


def test_a_caller_names_its_trace_in_opik():
    """A well-formed pair is in the context; a span alone, or what is no UUID, is not."""
    trace, span = b"0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a11", b"0192F7B0-5C1E-7D4A-9F1E-2B7C6C1E8A12"
    context = extract((b"opik_trace_id", trace), (b"opik_parent_span_id", span))
    assert (context.opik_trace_id, context.opik_parent_span_id) == (trace.decode(), span.decode().lower())
    assert extract((b"opik_trace_id", trace)).opik_parent_span_id == ""
    for headers in ([(b"opik_parent_span_id", span)], [(b"opik_trace_id", b"x" * 36)]):
        assert extract(*headers).opik_trace_id == ""
