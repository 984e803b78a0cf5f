"""Percentiles of durations, exact and from histograms."""

from __future__ import annotations

import math
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from e2i_serving.cli import app
from e2i_serving.exceptions import QueryError
from e2i_serving.observers.metrics import SeriesFile, collect, render
from e2i_serving.observers.metrics.families import DURATION, PHASE_DURATION
from e2i_serving.runtime.percentiles import PARTS, percentiles_of_rows, percentiles_of_text


def row(duration: float, phases: object = None) -> dict[str, object]:
    """A prediction's row, as far as it is looked at."""
    return {"model": "m", "model_version": "v", "duration": duration, "phases": phases}


def test_the_trail_s_percentiles_are_values_that_occurred():
    """Each is the least duration that so great a part does not exceed."""
    total, predict = percentiles_of_rows([row(number / 1000, {"predict": 0.5}) for number in range(1000, 0, -1)])
    assert (total.model, total.version, total.phase, total.count) == ("m", "v", "total", 1000)
    assert total.seconds == {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
    assert (predict.phase, set(predict.seconds.values())) == ("predict", {0.5})


def test_phases_may_be_text():
    """A store that gives JSON as its text is read likewise."""
    assert [each.phase for each in percentiles_of_rows([row(1.0, '{"decode": 0.25}')])] == ["total", "decode"]


@given(st.lists(st.floats(1e-4, 60.0), min_size=1, max_size=200))
def test_a_service_s_percentiles_are_within_five_percent(tmp_path_factory, values):
    """From 0.1 ms to 60 s, whatever the durations are."""
    folder = tmp_path_factory.mktemp("metrics")
    with closing(SeriesFile(folder, "life-1")) as file:
        for value in values:
            file.series(DURATION, "m", "v").observe(value)
        (found,) = percentiles_of_text(render(collect(folder)))
    assert found.count == len(values)
    for name, part in PARTS.items():
        exact = sorted(values)[max(1, math.ceil(part * len(values) - 1e-9)) - 1]
        assert found.seconds[name] == pytest.approx(exact, rel=0.05)


def test_what_is_beyond_the_last_bound_stands_at_it(tmp_path):
    """A histogram can't say more than its last bound; a phase without a count is left out."""
    with closing(SeriesFile(tmp_path, "life-1")) as file:
        file.series(DURATION, "m", "v").observe(1000.0)
        file.series(PHASE_DURATION, "m", "v", "predict")
        (found,) = percentiles_of_text(render(collect(tmp_path)))
    assert found.seconds["p50"] == 60.0


@pytest.mark.parametrize(
    "text",
    [
        "e2i_x{ 1\n",
        '# TYPE e2i_prediction_duration_seconds histogram\ne2i_prediction_duration_seconds_bucket{le="1.0"} 1\n',
    ],
)
def test_what_is_no_metrics_is_refused(text):
    """Something else that answers is not taken for a service."""
    with pytest.raises(QueryError, match="no metrics"):
        percentiles_of_text(text)


def test_the_command_says_who_does_not_answer(free_port):
    """No service is one line, not a traceback."""
    done = CliRunner().invoke(app, ["stats", "--url", f"http://127.0.0.1:{free_port}"])
    assert done.exit_code == 2
    assert "can't be asked" in done.stderr


def test_the_command_takes_one_source():
    """A live service knows no times."""
    done = CliRunner().invoke(app, ["stats", "--url", "http://127.0.0.1:1", "--since", "1h"])
    assert done.exit_code == 2
    assert "Leave out the other options" in done.stderr
