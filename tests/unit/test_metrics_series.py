"""The series of one worker: counted in a file, read back by anyone."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i_serving.observers.metrics import FAMILIES, Family, MetricsObserver, MetricType, SeriesFile, fold
from e2i_serving.observers.metrics import series as series_module
from e2i_serving.observers.metrics.families import (
    DURATION,
    HTTP_REQUESTS,
    IN_PROGRESS,
    OBSERVED,
    PHASE_DURATION,
    PREDICTIONS,
)
from e2i_serving.observers.metrics.series import FILE_BYTES, HEAD_SIZE, OTHER, Sample, read_series
from e2i_serving.record import Life, ModelInfo, Outcome, PredictionRecord

LIFE = Life("life-1", "credit", 1, 2, release="1.0", model=ModelInfo("scorer", "v1", task="classification"))


def samples(file: SeriesFile) -> dict[tuple[str, tuple[str, ...]], tuple[float, ...]]:
    """What a reader of the file finds."""
    found = list(read_series(file.path.read_bytes()))
    assert len(found) == len({(sample.family, sample.labels) for sample in found})
    return {(sample.family, sample.labels): sample.values for sample in found}


@pytest.fixture
def file(tmp_path):
    """An open file of series."""
    with closing(SeriesFile(tmp_path, "life-1")) as made:
        yield made


def test_what_is_counted_is_read_back_at_once(file):
    """A reader sees counters, gauges and histograms as they stand, without a flush."""
    file.series(HTTP_REQUESTS, "/predict", "200").add()
    file.series(HTTP_REQUESTS, "/predict", "200").add(2)
    file.series(IN_PROGRESS).add(-1)
    file.series(OBSERVED).set(7)
    durations = file.series(DURATION, "scorer", "v1")
    durations.observe(0.0001)
    durations.observe(0.000101)
    durations.observe(100.0)
    found = samples(file)
    assert found["e2i_http_requests_total", ("/predict", "200")] == (3.0,)
    assert found["e2i_predictions_in_progress", ()] == (-1.0,)
    assert found["e2i_audit_records_observed_total", ()] == (7.0,)
    values = found["e2i_prediction_duration_seconds", ("scorer", "v1")]
    assert len(values) == DURATION.width == len(DURATION.buckets) + 2
    assert (values[1], values[2], values[-2]) == (1.0, 1.0, 1.0)
    assert sum(values[:-1]) == 3
    assert values[-1] == pytest.approx(100.000201)


@given(st.lists(st.floats(0, 1000), max_size=50))
@settings(max_examples=30)
def test_a_histogram_puts_each_value_in_its_bucket(tmp_path_factory, values):
    """A bucket holds what is at or below its bound and above the one before."""
    with closing(SeriesFile(tmp_path_factory.mktemp("metrics"), "life-1")) as file:
        series = file.series(DURATION, "m", "v")
        for value in values:
            series.observe(value)
        (found,) = samples(file).values()
    bounds = [-1.0, *DURATION.buckets, float("inf")]
    for index in range(len(bounds) - 1):
        assert found[index] == sum(bounds[index] < value <= bounds[index + 1] for value in values)
    assert found[-1] == pytest.approx(sum(values))


@given(st.lists(st.tuples(st.sampled_from(FAMILIES), st.text(max_size=40)), max_size=40))
@settings(max_examples=30)
def test_any_label_values_keep_series_apart(tmp_path_factory, wanted):
    """Each combination of family and label values has numbers of its own."""
    expected: Counter[tuple[str, tuple[str, ...]]] = Counter()
    with closing(SeriesFile(tmp_path_factory.mktemp("metrics"), "life-1")) as file:
        for family, label in wanted:
            labels = (label,) * len(family.labels)
            file.series(family, *labels).add()
            expected[family.name, labels] += 1
        assert {key: values[0] for key, values in samples(file).items()} == dict(expected)


def test_a_full_file_counts_the_rest_as_other(file):
    """Without room a new combination goes to the family's other series, and none is lost."""
    made = 0
    while (series := file.series(HTTP_REQUESTS, f"/{made}", "200")) is not file._series.get(
        (HTTP_REQUESTS.name, (OTHER, OTHER))
    ):
        series.add()
        made += 1
    for number in range(10):
        file.series(HTTP_REQUESTS, f"/late/{number}", "404").add()
    file.series(HTTP_REQUESTS, "/0", "200").add()
    found = samples(file)
    assert made > 1000
    assert found["e2i_http_requests_total", (OTHER, OTHER)] == (10.0,)
    assert found["e2i_http_requests_total", ("/0", "200")] == (2.0,)
    assert sum(values[0] for values in found.values()) == made + 11
    assert file.path.stat().st_size == FILE_BYTES
    file.series(PREDICTIONS, "m", "v", "t", "ok").add()
    assert samples(file)["e2i_predictions_total", (OTHER,) * 4] == (1.0,)


def test_a_full_file_has_room_for_what_has_no_labels(file):
    """Room is kept for a family that has no other series to fall back to."""
    while file.series(HTTP_REQUESTS, f"/{len(file._series)}", "200") is not file._series.get(
        (HTTP_REQUESTS.name, (OTHER, OTHER))
    ):
        pass
    file.series(IN_PROGRESS).add()
    assert samples(file)["e2i_predictions_in_progress", ()] == (1.0,)


def test_a_file_with_no_room_at_all_says_so(file):
    """When even the reserve is used up, the error names the file."""
    wide = Family("wide", MetricType.HISTOGRAM, "Wide.", (), tuple(float(bound) for bound in range(FILE_BYTES)))
    with pytest.raises(OSError, match="no room for another series"):
        file.series(wide)


@pytest.mark.parametrize("content", [b"", b"E2I", b"something else" * 20, bytes(FILE_BYTES)])
def test_what_is_no_series_file_has_no_samples(content):
    """An empty, cut or foreign file reads as nothing."""
    assert list(read_series(content)) == []


def test_a_file_that_lost_a_page_is_read_up_to_there(file):
    """A machine that lost its power may leave zeros behind the head; reading ends, and ends early."""
    for number in range(300):
        file.series(HTTP_REQUESTS, f"/{number}", "200").add()
    content = file.path.read_bytes()
    whole = list(read_series(content))
    assert len(whole) == 300
    for page in range(4096, file._used, 4096):
        torn = content[:page] + bytes(len(content) - page)
        found = list(read_series(torn))
        assert 0 < len(found) < 300
        assert [(sample.family, sample.labels) for sample in found] == [
            (sample.family, sample.labels) for sample in whole[: len(found)]
        ]


@given(st.data())
@settings(max_examples=200)
def test_a_damaged_file_never_raises_and_always_ends(data):
    """Whatever bytes stand behind the magic, reading gives samples or stops."""
    body = data.draw(st.binary(max_size=400))
    used = data.draw(st.integers(0, 2**64 - 1) | st.integers(0, 600))
    content = struct.pack("<8sQ", b"E2IMETR\x01", used).ljust(HEAD_SIZE, b"\0") + body
    assert all(isinstance(sample, Sample) for sample in read_series(content))


COUNTING = """
import os, signal, sys
from pathlib import Path
from e2i_serving.observers.metrics import SeriesFile
from e2i_serving.observers.metrics.families import HTTP_REQUESTS

file = SeriesFile(Path(sys.argv[1]), "life-1")
for number in range(1000):
    file.series(HTTP_REQUESTS, "/predict", "200").add()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_counted_survives_the_process(tmp_path):
    """SIGKILL loses no count, and gives up the lock."""
    done = subprocess.run([sys.executable, "-c", COUNTING, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    (path,) = tmp_path.glob("*.series")
    assert [sample.values for sample in read_series(path.read_bytes())] == [(1000.0,)]
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def test_a_file_is_never_seen_before_it_is_locked(tmp_path, monkeypatch):
    """A relay that folds the dead at the very moment a worker begins does not take it for one of them."""
    flock = fcntl.flock
    folded: list[int] = []

    class Locks:
        LOCK_EX, LOCK_NB, LOCK_UN = fcntl.LOCK_EX, fcntl.LOCK_NB, fcntl.LOCK_UN

        @staticmethod
        def flock(fd: int, how: int) -> None:
            folded.append(fold(tmp_path))
            flock(fd, how)
            folded.append(fold(tmp_path))

    monkeypatch.setattr(series_module, "fcntl", Locks)
    with closing(SeriesFile(tmp_path, "life-1")) as file:
        assert folded == [0, 0]
        assert file.path.exists()
        assert fold(tmp_path) == 0


def test_a_file_that_can_not_be_made_leaves_nothing(tmp_path, monkeypatch):
    """A full disk is an error, not a half-made file."""

    def full(_fd: int, _offset: int, _size: int) -> None:
        raise OSError(28, "No space left on device")

    if not hasattr(os, "posix_fallocate"):
        pytest.skip("files are not reserved here")
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        SeriesFile(tmp_path, "life-1")
    assert list(tmp_path.iterdir()) == []


def test_closing_twice_is_closing_once(tmp_path):
    """A file may be closed again."""
    file = SeriesFile(tmp_path, "life-1")
    file.close()
    file.close()


def record(**changes: object) -> PredictionRecord:
    """A prediction as the observer sees it."""
    fields = {
        "prediction_id": "p1",
        "time_ns": 1,
        "duration": 0.25,
        "outcome": Outcome.OK,
        "status": 200,
        "model": "scorer",
        "model_version": "v1",
        "task": "classification",
    }
    return PredictionRecord(**{**fields, **changes})  # type: ignore[arg-type]


def test_an_observer_counts_requests_items_and_phases(file):
    """A batch is one request and many items; each phase is timed beside the total; a failed request has no items."""
    observer = MetricsObserver(file, LIFE)
    observer.on_end(record(items=3, phases={"decode": 0.001, "predict": 0.2}))
    observer.on_end(record(items=1))
    observer.on_end(record(items=0, outcome=Outcome.INVALID, status=400))
    found = samples(file)
    ok = ("scorer", "v1", "classification", "ok")
    invalid = ("scorer", "v1", "classification", "invalid")
    assert found["e2i_predictions_total", ok] == (2.0,)
    assert found["e2i_prediction_items_total", ok] == (4.0,)
    assert found["e2i_predictions_total", invalid] == (1.0,)
    assert found["e2i_prediction_items_total", invalid] == (0.0,)
    sums = {labels[2]: values[-1] for (name, labels), values in found.items() if name == PHASE_DURATION.name}
    assert sums == pytest.approx({"decode": 0.001, "predict": 0.2})
    assert found[DURATION.name, ("scorer", "v1")][-1] == pytest.approx(0.75)
    assert found["e2i_service_info", ("credit", "", "", "scorer", "v1", "classification", "1.0")] == (1.0,)


def test_an_observer_takes_over_counts_of_failures(file):
    """Failures are set, not added: they are counted elsewhere."""
    observer = MetricsObserver(file, LIFE)
    failures = Counter({"journal": 2})
    observer.failures(failures)
    failures["journal"] += 1
    observer.failures(failures)
    observer.http_request("/predict", 200)
    observer.http_request("/predict", 200)
    found = samples(file)
    assert found["e2i_internal_failures_total", ("journal",)] == (3.0,)
    assert found["e2i_http_requests_total", ("/predict", "200")] == (2.0,)


def test_an_observer_on_a_full_file_goes_on(tmp_path):
    """With no room left, predictions are counted as other."""
    with closing(SeriesFile(tmp_path, "life-1")) as file:
        observer = MetricsObserver(file, LIFE)
        for number in range(6000):
            observer.on_end(record(model=f"model-{number}"))
        total = sum(values[0] for (name, _), values in samples(file).items() if name == PREDICTIONS.name)
        assert total == 6000
        assert Path(file.path).stat().st_size == FILE_BYTES
