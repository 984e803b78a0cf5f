"""Prometheus' text format: what any scraper can read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from e2i_serving.observers.metrics import CONTENT_TYPE, FAMILIES, OPENMETRICS_END, Family, MetricType, Totals, render
from e2i_serving.observers.metrics.exemplars import Exemplar
from e2i_serving.observers.metrics.exposition import bound_text
from e2i_serving.observers.metrics.families import (
    DURATION,
    EFFECT,
    HTTP_REQUESTS,
    IN_PROGRESS,
    LABELLED_DURATION,
    LABELLED_PREDICTIONS,
    OBSERVED,
    PREDICTIONS,
)

FINITE = st.floats(0, 1e12)


def totals(numbers: Any, *others: Family) -> Totals:
    """Numbers as a collection gives them, of the table's families and of others."""
    made = Totals()
    made.families.update({family.name: family for family in (*FAMILIES, *others)})
    made.update(numbers)
    return made


def parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels, as Prometheus' own parser reads them."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_nothing_renders_as_nothing():
    """Without numbers there are no families."""
    assert render(Totals()) == ""
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def test_the_text_is_what_it_should_be():
    """Families stand in the table's order, each with help and type, series by their labels."""
    text = render(
        totals(
            {
                (OBSERVED.name, ()): [3.0],
                (HTTP_REQUESTS.name, ("/predict", "500")): [1.0],
                (HTTP_REQUESTS.name, ("/predict", "200")): [2.5],
                (IN_PROGRESS.name, ()): [0.0],
            }
        )
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
    values = [float(number) for number in range(len(DURATION.buckets) + 1)]
    found = parsed(render(totals({(DURATION.name, ("m", "v")): [*values, 12.5]})))
    labels = {"model": "m", "version": "v"}
    running = 0.0
    for bound, count in zip([*map(bound_text, DURATION.buckets), "+Inf"], values, strict=True):
        running += count
        assert found[f"{DURATION.name}_bucket", tuple(sorted({**labels, "le": bound}.items()))] == running
    assert found[f"{DURATION.name}_count", tuple(sorted(labels.items()))] == running
    assert found[f"{DURATION.name}_sum", tuple(sorted(labels.items()))] == 12.5


@given(st.tuples(st.text(), st.text()).filter(lambda labels: "\r" not in "".join(labels)), FINITE)
def test_any_label_value_comes_back_as_it_was(labels, value):
    """Backslashes, quotes and line feeds are escaped, whatever a label holds."""
    text = render(totals({(HTTP_REQUESTS.name, labels): [value]}))
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
    assert f'route="{text}",' in render(totals({(HTTP_REQUESTS.name, (value, "200")): [1.0]}))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-3.0, "-3"), (0.1, "0.1"), (1e6, "1000000"), (123456789012.0, "123456789012"), (1e20, "1e+20")],
)
def test_numbers_are_plain(value, text):
    """Whole numbers have no point, small ones no noise."""
    assert render(totals({(OBSERVED.name, ()): [value]})).splitlines()[-1] == f"e2i_audit_records_observed_total {text}"


def test_the_table_is_sound():
    """Names, units and types are Prometheus' conventions, and no family stands there twice."""
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert family.name.startswith("e2i_")
        assert family.name.endswith("_total") == (family.kind is MetricType.COUNTER)
        assert family.summary.endswith(".")
        assert "\n" not in family.summary
        if family.kind is MetricType.HISTOGRAM:
            assert family.buckets or family is LABELLED_DURATION  # which has the objectives' bounds only
            assert list(family.buckets) == sorted(set(family.buckets))
            assert family.width == len(family.buckets) + 2
        else:
            assert (family.width, family.buckets) == (1, ())
    assert PREDICTIONS in FAMILIES


def test_all_families_render_and_parse():
    """Whatever the table grows to, Prometheus' parser takes it."""
    numbers: Any = {(family.name, ("x",) * len(family.labels)): [1.0] * family.width for family in FAMILIES}
    types = {family.name: family.type for family in text_string_to_metric_families(render(totals(numbers)))}
    assert types == {family.name.removesuffix("_total"): str(family.kind) for family in FAMILIES}


@given(st.lists(st.integers(0, len(DURATION.buckets)), max_size=5))
def test_each_bucket_has_a_line_at_all_times(counted):
    """Before the first request and after any, so that no bucket begins with what it counts, which has no rate."""
    values = [0.0] * DURATION.width
    for bucket in counted:
        values[bucket] += 1
    text = render(totals({(DURATION.name, ("m", "v")): values}))
    bounds = [
        sample.labels["le"]
        for each in text_string_to_metric_families(text)
        for sample in each.samples
        if "le" in sample.labels
    ]
    assert bounds == [*map(bound_text, DURATION.buckets), "+Inf"]


def test_openmetrics_is_what_its_own_parser_takes():
    """Every family renders as OpenMetrics 1.0, with the same names of series and bounds as in the text format."""
    numbers: Any = {(family.name, ("x",) * len(family.labels)): [1.0] * family.width for family in FAMILIES}
    text = render(totals(numbers), openmetrics=True) + OPENMETRICS_END
    found = {
        sample.name + str(sorted(sample.labels.items()))
        for family in openmetrics_families(text)
        for sample in family.samples
    }
    plain = {
        sample.name + str(sorted(sample.labels.items()))
        for family in text_string_to_metric_families(render(totals(numbers)))
        for sample in family.samples
    }
    assert found == plain


def test_exemplars_stand_beside_their_buckets_in_openmetrics_only():
    """A bucket's example names the trace and the prediction; the text format knows none."""
    made = totals({(DURATION.name, ("m", "v")): [1.0] * DURATION.width})
    made.exemplars[DURATION.name, ("m", "v")] = {3: Exemplar(0.00011, 1700000000.5, "a" * 32, "p-1")}
    families = openmetrics_families(render(made, openmetrics=True) + OPENMETRICS_END)
    (found,) = [sample for family in families for sample in family.samples if sample.exemplar]
    assert found.labels["le"] == bound_text(DURATION.buckets[3])
    assert found.exemplar.labels == {"trace_id": "a" * 32, "prediction_id": "p-1"}
    assert (found.exemplar.value, float(found.exemplar.timestamp)) == (0.00011, 1700000000.5)
    assert "trace_id" not in render(made)


def test_declared_labels_are_labels_of_their_own_names():
    """A series of a labelled family says its further labels by name."""
    text = render(totals({(LABELLED_PREDICTIONS.name, ("m", "v", "ok", "brand", "a", "region", "n")): [2.0]}))
    assert text.splitlines()[-1] == (
        'e2i_labelled_predictions_total{model="m",version="v",outcome="ok",brand="a",region="n"} 2'
    )


def test_values_that_may_be_negative_have_no_sum():
    """A sum to which negative values are added goes back, which no counter may."""
    text = render(totals({(EFFECT.name, ("m", "v")): [1.0] * EFFECT.width}))
    assert f'{EFFECT.name}_bucket{{model="m",version="v",le="+Inf"}}' in text
    assert f"{EFFECT.name}_sum" not in text
