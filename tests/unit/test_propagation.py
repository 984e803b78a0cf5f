"""Context headers: what is well-formed is taken over, what is not does no harm and is not repeated."""

from __future__ import annotations

import re
import uuid

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from e2i_serving.context import RequestContext
from e2i_serving.propagation import ContextExtractor, RequestIdPropagator, TraceContextPropagator

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01".encode()

extract = ContextExtractor().extract


def fresh(context: RequestContext) -> bool:
    """Whether nothing in a context came from a trace header."""
    return context.parent_span_id == "" and not context.sampled and context.trace_id != TRACE


def well_formed(context: RequestContext) -> bool:
    """Whether all ids are what everything behind relies on."""
    return (
        uuid.UUID(context.prediction_id).version == 7
        and re.fullmatch(r"[A-Za-z0-9._:/+=@,#~-]{1,128}", context.request_id) is not None
        and re.fullmatch(r"[0-9a-f]{32}", context.trace_id) is not None
        and re.fullmatch(r"[0-9a-f]{16}", context.span_id) is not None
        and re.fullmatch(r"([0-9a-f]{16})?", context.parent_span_id) is not None
        and int(context.trace_id, 16) != 0
        and int(context.span_id, 16) != 0
    )


def test_without_headers_all_is_made_anew():
    """A request that says nothing of itself gets ids of its own, and its prediction id as request id."""
    first, second = extract([]), extract([(b"host", b"example")])
    for context in (first, second):
        assert well_formed(context)
        assert fresh(context)
        assert context.request_id == context.prediction_id
    assert first.prediction_id < second.prediction_id
    assert first.trace_id != second.trace_id
    assert first.span_id != second.span_id


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (VALID, True),
        (f"00-{TRACE}-{SPAN}-00".encode(), False),
        (f"00-{TRACE}-{SPAN}-02".encode(), False),
        (f"00-{TRACE}-{SPAN}-03".encode(), True),
        (f"00-{TRACE}-{SPAN}-ff".encode(), True),
        (f"01-{TRACE}-{SPAN}-01".encode(), True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-bring".encode(), True),
    ],
)
def test_a_trace_goes_on(value, sampled):
    """A valid traceparent, of this version or a later one, gives trace, parent and the sampling flag."""
    context = extract([(b"traceparent", value)])
    assert (context.trace_id, context.parent_span_id, context.sampled) == (TRACE, SPAN, sampled)
    assert context.span_id != SPAN
    assert well_formed(context)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"-",
        b"garbage",
        VALID.upper(),
        VALID[:-1],
        VALID + b"0",
        VALID + b"-extra",
        VALID + b"\n",
        b" " + VALID,
        VALID.replace(b"-", b"_"),
        f"ff-{TRACE}-{SPAN}-01".encode(),
        f"0-{TRACE}-{SPAN}-01".encode(),
        f"00-{'0' * 32}-{SPAN}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        f"00-{TRACE[:-1]}-{SPAN}-01".encode(),
        f"00-{TRACE[:-1]}g-{SPAN}-01".encode(),
        f"00-{TRACE}-{SPAN}-zz".encode(),
        f"cc-{TRACE}-{SPAN}-01extra".encode(),
        VALID.replace(b"4", "\uff14".encode()),  # digits of another script
    ],
)
def test_a_malformed_trace_is_ignored(value):
    """As the specification asks, a traceparent that is not one starts a new trace."""
    context = extract([(b"traceparent", value)])
    assert fresh(context)
    assert well_formed(context)


@pytest.mark.parametrize("value", [b"a", b"order-17", b"A.b_c:d/e+f=g@h,i#j~k-9", b"x" * 128])
def test_a_request_id_is_taken_over_verbatim(value):
    """An id within bounds comes back as it was sent."""
    assert extract([(b"x-request-id", value)]).request_id == value.decode()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"x" * 129,
        b"two words",
        b"<script>",
        b'"',
        b"a\r\nset-cookie: b",
        b"a\n",
        b"\x00",
        b"\xff\xfe",
        "naïve".encode(),
        b"%0d%0a",
        b"a;b",
        b"${jndi:x}",
    ],
)
def test_a_hostile_request_id_is_not_taken_over(value):
    """An id that could harm a log, a header or a page is replaced by the prediction's own."""
    context = extract([(b"x-request-id", value)])
    assert context.request_id == context.prediction_id


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"traceparent", b"x-request-id", b"tracestate", b"baggage", b"cookie"]),
            st.binary(max_size=200)
            | st.from_regex(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", fullmatch=True),
        ),
        max_size=8,
    )
)
@example([(b"traceparent", VALID), (b"traceparent", b"garbage")])
@example([(b"x-request-id", b"good"), (b"x-request-id", b"bad id")])
def test_no_header_raises_or_is_repeated_as_it_came(headers):
    """Any bytes in any header give a context whose every part is well-formed."""
    context = extract(headers)
    assert well_formed(context)
    for propagator in (TraceContextPropagator(), RequestIdPropagator()):
        for name, value in propagator.inject(context):
            assert re.fullmatch(rb"[a-z-]+", name)
            assert re.fullmatch(rb"[A-Za-z0-9._:/+=@,#~-]{1,128}", value)


@given(st.binary(), st.binary())
def test_what_was_found_before_is_kept(request_id, traceparent):
    """A propagator of a higher precedence has the last word."""
    into = {"request_id": "first", "trace_id": "a" * 32}
    RequestIdPropagator().extract({b"x-request-id": request_id}, into)
    TraceContextPropagator().extract({b"traceparent": traceparent}, into)
    assert (into["request_id"], into["trace_id"]) == ("first", "a" * 32)
    TraceContextPropagator().extract({b"traceparent": VALID}, into)
    assert into["trace_id"] == "a" * 32


def test_what_is_injected_is_extracted_again():
    """The context that goes out to another service is the one that arrives there."""
    context = extract([(b"traceparent", VALID), (b"x-request-id", b"order-17")])
    headers = [*TraceContextPropagator().inject(context), *RequestIdPropagator().inject(context)]
    arrived = extract(headers)
    assert (arrived.request_id, arrived.trace_id, arrived.sampled) == ("order-17", TRACE, True)
    assert arrived.parent_span_id == context.span_id


def test_a_propagator_of_ones_own_takes_part():
    """Any object with the fields and the method is a propagator; the first one wins."""

    class Tenant:
        fields = (b"x-tenant",)

        def extract(self, headers, into):
            if b"x-tenant" in headers:
                into["request_id"] = headers[b"x-tenant"].decode("ascii", "replace")

        def inject(self, context):
            return ()

    extractor = ContextExtractor((Tenant(), RequestIdPropagator()))
    assert extractor.extract([(b"x-tenant", b"north"), (b"x-request-id", b"r1")]).request_id == "north"
    assert extractor.extract([(b"x-request-id", b"r1")]).request_id == "r1"
