"""Where business labels come from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import e2i_serving
from e2i_serving import Label
from e2i_serving.context import RequestContext
from e2i_serving.exceptions import ServiceDefinitionError
from e2i_serving.runtime.labels import LabelReader, declared_labels, label_bounds
from e2i_serving.runtime.scrape import ServedBy
from e2i_serving.settings import Settings

CONTEXT = RequestContext("p", "r", "t", "s", baggage={"e2i.label.region": "north", "tier": "gold"})


def test_headers_and_baggage_give_labels():
    """Each label is read from where it was declared to come from, and from nowhere else."""
    labels = {
        "brand": Label("header:X-Brand"),
        "region": Label("baggage"),
        "tier": Label("baggage:tier"),
        "segment": Label(),
        "channel": Label("method"),
    }
    headers = [(b"x-brand", b"alpha"), (b"x-segment", b"no"), (b"segment", b"no")]
    assert LabelReader(labels).read(CONTEXT, headers) == {"brand": "alpha", "region": "north", "tier": "gold"}
    assert LabelReader({"segment": Label()}).read(CONTEXT, headers) == {}


@given(st.binary(max_size=2000))
def test_a_header_s_value_is_bounded_and_clean(raw):
    """Whatever bytes a header has, its label is short, printable and not empty; or there is none."""
    found = LabelReader({"brand": Label("header:x-brand")}).read(CONTEXT, [(b"x-brand", raw)])
    for value in found.values():
        assert 0 < len(value) <= 128
        assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in value)


@pytest.mark.parametrize("source", ["", "header", "header:", "header:x brand", "cookie:brand", "fields"])
def test_a_source_that_gives_nothing_is_refused(source):
    """The error lists what there is."""
    with pytest.raises(ServiceDefinitionError, match="header:<name>"):
        Label(source)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (("brand",), "must give each label by name"),
        ({"brand": "header:x-brand"}, "must give each label by name"),
        ({"model": Label()}, "which metrics can't have"),
        ({"my-brand": Label()}, "which metrics can't have"),
    ],
)
def test_a_wrong_declaration_is_refused_with_the_class(declared, said):
    """What can't be served is refused when the class is made."""
    with pytest.raises(ServiceDefinitionError, match=said):
        type("Wrong", (e2i_serving.ClassificationService,), {"labels_from": declared})
    with pytest.raises(ServiceDefinitionError, match="a string would count letter by letter"):
        Label(allowed="ab")  # type: ignore[arg-type]


def test_all_ways_of_declaring_add_up():
    """Names in the class and in the settings come from the body; a declaration of a source wins."""

    class Service:
        labels_from = {"brand": Label("header:x-brand", ("alpha",))}

    settings = Settings(labels=("tier", "odd-name"), label_values=7, label_series=9)
    found = declared_labels(Service, ("brand", "region"), settings)
    assert {name: label.source for name, label in found.items()} == {
        "brand": "header:x-brand",
        "region": "field",
        "tier": "field",
        "odd-name": "field",
    }
    bounds = label_bounds(found, settings)
    assert bounds.allowed == {"brand": frozenset({"alpha"}), "region": frozenset(), "tier": frozenset()}
    assert (bounds.values, bounds.series) == (7, 9)


async def test_a_label_from_a_header_is_on_record(make_rig):
    """The layer reads the declared header before anything else sees the request."""
    rig = make_rig()
    rig.worker.labels = LabelReader({"brand": Label("header:x-brand")})
    await rig.request(rig.answering(), headers=[(b"x-brand", b"al\tpha")])
    assert rig.only.labels == {"brand": "alpha"}


async def test_metrics_are_answered_outside_the_application(make_rig):
    """The application, and so any limit of it, is not asked; other methods are refused."""
    rig = make_rig()
    rig.worker.served_by = ServedBy(metrics_path="/metrics")

    async def never(scope, receive, send):
        raise AssertionError

    sent = await rig.request(never, "/metrics", method="GET")
    assert sent[0]["status"] == 200
    assert b'e2i_workers{service="credit"} 1\n' in sent[1]["body"]
    sent = await rig.request(never, "/metrics", method="HEAD")
    assert (sent[0]["status"], sent[1]["body"]) == (200, b"")
    sent = await rig.request(never, "/metrics", method="DELETE")
    assert (sent[0]["status"], rig.header(sent, b"allow")) == (405, [b"GET, HEAD"])


async def test_ten_thousand_paths_are_one_route(make_rig):
    """Random paths add one series, whose value is how many there were, and nothing to the size of a scrape."""
    rig = make_rig()
    before = len(rig.worker.metrics_text())
    for number in range(10_000):
        await rig.request(rig.answering(404), f"/wp-admin/{number}", method="GET")
    assert rig.metric('e2i_http_requests_total{route="__unmatched__",status="404"}') == 10_000
    assert len(rig.worker.metrics_text()) < before + 500
