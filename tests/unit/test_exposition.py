"""Prometheus' text format: what any scraper can read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from e2i_serving.observers.metrics import CONTENT_TYPE, FAMILIES, MetricType, render
from e2i_serving.observers.metrics.families import (
    DURATION,
    DURATION_BUCKETS,
    HTTP_REQUESTS,
    IN_PROGRESS,
    OBSERVED,
    PREDICTIONS,
)

FINITE = st.floats(0, 1e12)


def parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels, as Prometheus' own parser reads them."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_nothing_renders_as_nothing():
    """Without numbers there are no families."""
    assert render({}) == ""
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def test_the_text_is_what_it_should_be():
    """Families stand in the table's order, each with help and type, series by their labels."""
    text = render(
        {
            (OBSERVED.name, ()): [3.0],
            (HTTP_REQUESTS.name, ("/predict", "500")): [1.0],
            (HTTP_REQUESTS.name, ("/predict", "200")): [2.5],
            (IN_PROGRESS.name, ()): [0.0],
        }
    )
    assert text == (
        "# HELP e2i_predictions_in_progress Requests for predictions being served now.\n"
        "# TYPE e2i_predictions_in_progress gauge\n"
        "e2i_predictions_in_progress 0\n"
        "# HELP e2i_http_requests_total All HTTP requests, by route (never the raw path) and status.\n"
        "# TYPE e2i_http_requests_total counter\n"
        'e2i_http_requests_total{route="/predict",status="200"} 2.5\n'
        'e2i_http_requests_total{route="/predict",status="500"} 1\n'
        "# HELP e2i_audit_records_observed_total Records that should be journaled: every prediction request.\n"
        "# TYPE e2i_audit_records_observed_total counter\n"
        "e2i_audit_records_observed_total 3\n"
    )


def test_a_histogram_is_cumulative():
    """Each bucket counts all at or below its bound, +Inf counts all, and count and sum follow."""
    values = [float(number) for number in range(len(DURATION_BUCKETS) + 1)]
    found = parsed(render({(DURATION.name, ("m", "v", "total")): [*values, 12.5]}))
    labels = {"model": "m", "version": "v", "phase": "total"}
    running = 0.0
    for bound, count in zip([*(f"{bound:.12g}" for bound in DURATION_BUCKETS), "+Inf"], values, strict=True):
        running += count
        assert found[f"{DURATION.name}_bucket", tuple(sorted({**labels, "le": bound}.items()))] == running
    assert found[f"{DURATION.name}_count", tuple(sorted(labels.items()))] == running
    assert found[f"{DURATION.name}_sum", tuple(sorted(labels.items()))] == 12.5


@given(st.tuples(st.text(), st.text()).filter(lambda labels: "\r" not in "".join(labels)), FINITE)
def test_any_label_value_comes_back_as_it_was(labels, value):
    """Backslashes, quotes and line feeds are escaped, whatever a label holds."""
    text = render({(HTTP_REQUESTS.name, labels): [value]})
    assert text.count("\n") == 3
    found = parsed(text)
    key = (HTTP_REQUESTS.name, (("route", labels[0]), ("status", labels[1])))
    assert found == {key: pytest.approx(value, rel=1e-11)}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('say "hi"', r"say \"hi\""),
        ("C:\\new", r"C:\\new"),
        ("two\nlines", r"two\nlines"),
        ('\\"\n', r"\\\"\n"),
    ],
)
def test_label_values_are_escaped(value, text):
    """Escaping is the format's own, once each."""
    assert f'route="{text}",' in render({(HTTP_REQUESTS.name, (value, "200")): [1.0]})


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-3.0, "-3"), (0.1, "0.1"), (1e6, "1000000"), (123456789012.0, "123456789012"), (1e20, "1e+20")],
)
def test_numbers_are_plain(value, text):
    """Whole numbers have no point, small ones no noise."""
    assert render({(OBSERVED.name, ()): [value]}).splitlines()[-1] == f"e2i_audit_records_observed_total {text}"


def test_the_table_is_sound():
    """Names, units and types are Prometheus' conventions, and no family stands there twice."""
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert family.name.startswith("e2i_")
        assert family.name.endswith("_total") == (family.kind is MetricType.COUNTER)
        assert family.summary.endswith(".")
        assert "\n" not in family.summary
        assert bool(family.buckets) == (family.kind is MetricType.HISTOGRAM)
        if family.kind is MetricType.HISTOGRAM:
            assert family.name.endswith("_seconds")
            assert list(family.buckets) == sorted(set(family.buckets))
            assert family.width == len(family.buckets) + 2
        else:
            assert family.width == 1
    assert PREDICTIONS in FAMILIES


def test_all_families_render_and_parse():
    """Whatever the table grows to, Prometheus' parser takes it."""
    totals: Any = {(family.name, ("x",) * len(family.labels)): [1.0] * family.width for family in FAMILIES}
    types = {family.name: family.type for family in text_string_to_metric_families(render(totals))}
    assert types == {family.name.removesuffix("_total"): str(family.kind) for family in FAMILIES}
