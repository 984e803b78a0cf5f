"""The numbers of many workers: summed while they live, kept when they are gone."""

from __future__ import annotations

import random
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from e2i_serving.journal import new_life_id
from e2i_serving.observers.metrics import RelayMetrics, SeriesFile, collect, fold
from e2i_serving.observers.metrics import collection as collection_module
from e2i_serving.observers.metrics.collection import FOLDED_NAME
from e2i_serving.observers.metrics.families import (
    DELIVERED,
    DROPPED,
    DURATION,
    HTTP_REQUESTS,
    IN_PROGRESS,
    SERVICE_INFO,
    TIMED,
)

REQUESTS = (HTTP_REQUESTS.name, ("/predict", "200"))
GAUGE = (IN_PROGRESS.name, ())
DURATIONS = (DURATION.name, ("m", "v"))


def open_file(folder: Path, life: str | None = None, *, requests: int = 0) -> SeriesFile:
    """A worker's file with some requests counted, one of them in progress."""
    file = SeriesFile(folder, life or new_life_id())
    file.series(HTTP_REQUESTS, "/predict", "200").add(requests)
    file.series(IN_PROGRESS).add()
    return file


def test_no_workers_have_no_numbers(tmp_path):
    """An empty folder, or none, is no error."""
    assert collect(tmp_path) == {}
    assert collect(tmp_path / "none") == {}
    assert fold(tmp_path) == 0
    assert fold(tmp_path / "none") == 0


def test_files_are_summed(tmp_path):
    """Counters, gauges and histograms of all live workers add up, by series."""
    with closing(open_file(tmp_path, requests=3)) as first, closing(open_file(tmp_path, requests=4)) as second:
        second.series(HTTP_REQUESTS, "/other", "404").add()
        for file, value in ((first, 0.2), (second, 0.3), (second, 20.0)):
            file.series(DURATION, "m", "v").observe(value)
        totals = collect(tmp_path)
    assert totals[REQUESTS] == [7.0]
    assert totals[GAUGE] == [2.0]
    assert totals[HTTP_REQUESTS.name, ("/other", "404")] == [1.0]
    assert sum(totals[DURATIONS][:-1]) == 3
    assert totals[DURATIONS][-1] == pytest.approx(20.5)


def test_services_side_by_side_keep_their_own_bounds(tmp_path):
    """Whichever file comes last, what each service's objective asks for is counted exactly."""
    with ExitStack() as files:
        for life, model, bound in (("b", "churn", 0.3), ("a", "fraud", 0.2)):
            file = files.enter_context(closing(SeriesFile(tmp_path, f"{life}-1")))
            file.series(DURATION.bounded_by((bound,)), model, "v").observe(bound - 0.001)
        totals = collect(tmp_path)
    for model, bound in (("churn", "0.3"), ("fraud", "0.2")):
        assert totals[TIMED.name, (model, "v", bound, "yes")] == [1.0]
        assert totals[TIMED.name, (model, "v", bound, "no")] == [0.0]


def test_dead_workers_keep_their_counters_and_lose_their_gauges(tmp_path):
    """A counter never goes back when a worker dies, before or after folding; a gauge goes with it."""
    first, second = open_file(tmp_path, requests=3), open_file(tmp_path, requests=4)
    first.close()
    for _ in range(2):
        totals = collect(tmp_path)
        assert totals[REQUESTS] == [7.0]
        assert totals[GAUGE] == [1.0]
        fold(tmp_path)
    second.close()
    assert fold(tmp_path) == 1
    totals = collect(tmp_path)
    assert totals[REQUESTS] == [7.0]
    assert GAUGE not in totals
    assert not any(family == SERVICE_INFO.name for family, _ in totals)
    assert [path.name for path in tmp_path.iterdir()] == [FOLDED_NAME]


def test_folding_keeps_sums_exactly(tmp_path):
    """However often the dead are folded, each bucket, count and sum stays as it was."""
    source = random.Random(7)
    expected = 0
    for number in range(12):
        with closing(open_file(tmp_path, requests=number)) as file:
            series = file.series(DURATION, "m", "v")
            for _ in range(50):
                series.observe(source.randrange(1, 2**20) / 2**10)  # exact in binary, so that sums are too
            expected += 50
        before = collect(tmp_path)
        assert fold(tmp_path) == 1
        after = collect(tmp_path)
        assert after == before
        assert sum(after[DURATIONS][:-1]) == expected
    assert collect(tmp_path)[REQUESTS] == [66.0]


def test_a_living_worker_is_not_folded(tmp_path):
    """What is still being counted is left alone, and goes on counting."""
    with closing(open_file(tmp_path, requests=3)) as file:
        assert fold(tmp_path) == 0
        file.series(HTTP_REQUESTS, "/predict", "200").add()
        assert collect(tmp_path)[REQUESTS] == [4.0]


def test_a_crash_between_folding_and_deleting_counts_nothing_twice(tmp_path, monkeypatch):
    """A relay that dies with the sum written and the file still there leaves the numbers right."""
    for number in (3, 4):
        open_file(tmp_path, requests=number).close()

    class CrashError(Exception):
        pass

    def crash(*_args: object, **_options: object) -> None:
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", crash)
        with pytest.raises(CrashError):
            fold(tmp_path)
    assert len(list(tmp_path.glob("*.series"))) == 2
    assert collect(tmp_path)[REQUESTS] == [7.0]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(CrashError):
            fold(tmp_path)
    assert collect(tmp_path)[REQUESTS] == [7.0]
    assert fold(tmp_path) == 2
    assert collect(tmp_path)[REQUESTS] == [7.0]
    assert fold(tmp_path) == 0


def test_a_life_older_than_all_that_are_remembered_is_not_counted_twice(tmp_path, monkeypatch):
    """A worker that outlived many others is remembered too while its file may still be read."""
    monkeypatch.setattr(collection_module, "REMEMBERED_LIVES", 2)
    oldest = open_file(tmp_path, "life-0", requests=1)
    for number in range(1, 5):
        open_file(tmp_path, f"life-{number}", requests=1).close()
        fold(tmp_path)
    oldest.close()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_args, **_options: None)
        fold(tmp_path)
    assert collect(tmp_path)[REQUESTS] == [5.0]
    fold(tmp_path)
    assert collect(tmp_path)[REQUESTS] == [5.0]


def test_a_scrape_that_meets_a_fold_counts_nothing_twice(tmp_path, monkeypatch):
    """A file that is read, and folded before the sum of the dead is, counts once."""
    open_file(tmp_path, requests=3).close()
    read_folded = collection_module._read_folded

    def fold_first(folder: Path) -> object:
        monkeypatch.setattr(collection_module, "_read_folded", read_folded)
        fold(tmp_path)
        return read_folded(folder)

    monkeypatch.setattr(collection_module, "_read_folded", fold_first)
    assert collect(tmp_path)[REQUESTS] == [3.0]


def test_a_file_that_goes_while_it_is_read_is_no_error(tmp_path, monkeypatch):
    """Between listing and opening, a file may be folded and deleted."""
    open_file(tmp_path, requests=3).close()
    read = collection_module._read

    def deleted_first(path: Path) -> object:
        fold(tmp_path) if path.exists() else None
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(collection_module, "_read", lambda path: (patch.undo(), deleted_first(path))[1])
        assert collect(tmp_path)[REQUESTS] == [3.0]


def test_a_new_relay_s_counters_go_on_from_the_last_one_s(tmp_path):
    """At no moment between two relays are the numbers of all time gone, or there twice."""
    delivered, dropped = (DELIVERED.name, ("store",)), (DROPPED.name, ("store", "overflow"))
    with closing(RelayMetrics(tmp_path)) as relay:
        relay.counted("store", 10, {"overflow": 3})
        relay.show()
    RelayMetrics(tmp_path).close()  # killed before its first report
    with closing(RelayMetrics(tmp_path)) as relay:
        assert (collect(tmp_path)[delivered], collect(tmp_path)[dropped]) == ([10.0], [3.0])
        relay.counted("store", 11, {"overflow": 3})
        assert (collect(tmp_path)[delivered], collect(tmp_path)[dropped]) == ([10.0], [3.0])
        relay.show()
        assert (collect(tmp_path)[delivered], collect(tmp_path)[dropped]) == ([11.0], [3.0])


def test_a_damaged_file_hides_no_other(tmp_path):
    """Garbage beside good files is passed over, and goes with the dead."""
    open_file(tmp_path, requests=3).close()
    (tmp_path / "garbage.series").write_bytes(b"not a series file at all")
    (tmp_path / "empty.series").write_bytes(b"")
    assert collect(tmp_path)[REQUESTS] == [3.0]
    assert fold(tmp_path) == 3
    assert collect(tmp_path)[REQUESTS] == [3.0]


def test_a_scrape_does_not_end_a_life(tmp_path):
    """Reading a live worker's file leaves it locked."""
    with closing(open_file(tmp_path, requests=1)):
        for _ in range(3):
            collect(tmp_path)
        assert fold(tmp_path) == 0
