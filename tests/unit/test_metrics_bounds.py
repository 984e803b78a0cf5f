"""However many values strangers send, there are never more series than set, and nothing is lost from the sums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2i_serving.journal import new_life_id
from e2i_serving.observers.metrics import LabelBounds, Measured, MetricsObserver, SeriesFile, collect, fold, render
from e2i_serving.observers.metrics.admission import FILE_NAME, Admissions
from e2i_serving.observers.metrics.series import OTHER
from e2i_serving.record import Life, Matrix, ModelInfo, Outcome, PredictionRecord, Values

PHASES = ("decode", "queue", "features", "preprocess", "predict", "postprocess", "encode")
LARGEST = 300_000
"""Most bytes of a scrape."""


@contextmanager
def observing(folder: Path, model: ModelInfo, **bounds: object) -> Iterator[MetricsObserver]:
    """An observer of a worker's own life."""
    life = new_life_id()
    labels = LabelBounds(**{"allowed": {"brand": frozenset(), "region": frozenset({"north"})}, **bounds})  # type: ignore[arg-type]
    measured = Measured((0.25, 0.5), labels)
    with closing(MetricsObserver(SeriesFile(folder, life), Life(life, "s", 1, 1, model=model), measured)) as made:
        yield made


def record(model: ModelInfo, **changes: object) -> PredictionRecord:
    """A prediction of a model."""
    made = PredictionRecord(
        "p1", 1, 0.01, Outcome.OK, 200, model=model.name, model_version=model.version, task=model.task, items=1
    )
    return msgspec.structs.replace(made, **changes)


def values(totals: object, family: str) -> dict[tuple[str, ...], float]:
    """The first number of each series of a family."""
    return {labels: found[0] for (name, labels), found in totals.items() if name == family}  # type: ignore[attr-defined]


def test_a_flood_of_values_stays_small(tmp_path):
    """100,000 hostile values over three models make a scrape of less than 300 KB, and each is counted."""
    models = [ModelInfo(f"model-{number}", "q2w5fnehgusrzuax4", task="classification") for number in range(3)]
    phases = dict.fromkeys(PHASES, 0.001)
    with ExitStack() as stack:
        observers = [stack.enter_context(observing(tmp_path, model)) for model in models]
        sent = [record(model, phases=phases, outputs={"score": Matrix.of(np.array([0.5]))}) for model in models]
        for number in range(100_000):
            which = number % 3
            labels = {"brand": f"brand\n-{number}", "region": f"region-{number % 1000}"}
            duration = 0.0001 * 1.0001**number
            observers[which].on_end(msgspec.structs.replace(sent[which], labels=labels, duration=duration))
            observers[which].on_end(
                msgspec.structs.replace(sent[which], error_type=f"Error{number}", outcome=Outcome.ERROR)
            )
        totals = collect(tmp_path)
    assert len(render(totals)) < LARGEST
    counted = values(totals, "e2i_labelled_predictions_total")
    assert sum(counted.values()) == 100_000
    assert len({labels[4] for labels in counted}) == 101
    overflow = values(totals, "e2i_label_overflow_total")
    assert overflow == {("brand",): 99_900, ("region",): 100_000}
    errors = values(totals, "e2i_errors_total")
    assert len({kind for _, kind in errors}) == 101
    assert sum(errors.values()) == 100_000


def test_workers_admit_the_same_values(tmp_path):
    """The bound holds for all workers of an instance together, for those after them, and after folding."""
    model = ModelInfo("m", "v")
    for life in range(3):
        with observing(tmp_path, model, values=5) as first, observing(tmp_path, model, values=5) as second:
            for number in range(20):
                first.on_end(record(model, labels={"brand": f"first-{life}-{number}"}))
                second.on_end(record(model, labels={"brand": f"second-{life}-{number}"}))
        counted = values(collect(tmp_path), "e2i_labelled_predictions_total")
        assert len(counted) == 6
        assert sum(counted.values()) == 40 * (life + 1)
        fold(tmp_path)
        assert values(collect(tmp_path), "e2i_labelled_predictions_total") == counted


def test_a_flood_of_combinations_stays_small(tmp_path):
    """Two labels whose combinations nobody could count, over three models, are bounded together."""
    models = [ModelInfo(f"model-{number}", "q2w5fnehgusrzuax4") for number in range(3)]
    with ExitStack() as stack:
        observers = [
            stack.enter_context(observing(tmp_path, model, allowed={"brand": frozenset(), "region": frozenset()}))
            for model in models
        ]
        for number in range(9_000):
            labels = {"brand": f"brand-{number}", "region": f"region-{number % 97}"}
            duration = 0.0001 * 1.001**number
            made = record(models[number % 3], labels=labels, duration=duration, phases=dict.fromkeys(PHASES, 0.001))
            observers[number % 3].on_end(made)
        totals = collect(tmp_path)
    assert len(render(totals)) < LARGEST
    assert len(render(totals, openmetrics=True)) < LARGEST
    counted = values(totals, "e2i_labelled_predictions_total")
    assert len(counted) <= 150 + len(models)
    assert sum(counted.values()) == 9_000


def test_combinations_are_bounded_beside_the_values(tmp_path):
    """Each label may be within its bound, and their combinations are not."""
    model = ModelInfo("m", "v")
    allowed = {"a": frozenset(map(str, range(10))), "b": frozenset(map(str, range(10)))}
    with observing(tmp_path, model, allowed=allowed, series=7) as observer:
        for number in range(100):
            observer.on_end(record(model, labels={"a": str(number // 10), "b": str(number % 10)}))
        totals = collect(tmp_path)
    counted = values(totals, "e2i_labelled_predictions_total")
    assert len(counted) == 8
    assert counted["m", "v", "ok", "a", OTHER, "b", OTHER] == 93
    assert values(totals, "e2i_label_overflow_total") == {("__all__",): 93}


def test_listed_values_are_the_only_ones_shown(tmp_path):
    """A label with a list of values shows those, and the others as one; a label that is missing is left out."""
    model = ModelInfo("m", "v")
    with observing(tmp_path, model) as observer:
        for labels in ({"region": "north"}, {"region": "south"}, {"undeclared": "x"}, {}):
            observer.on_end(record(model, labels=labels))
        found = values(collect(tmp_path), "e2i_labelled_predictions_total")
    assert found == {("m", "v", "ok", "region", "north"): 1, ("m", "v", "ok", "region", OTHER): 1}


@pytest.mark.parametrize("classes", [("low", "high"), ()])
def test_classes_are_the_model_s_own(tmp_path, classes):
    """A model that names its classes has no others; one that does not has so many at most."""
    model = ModelInfo("m", "v", task="classification", classes=classes)
    with observing(tmp_path, model) as observer:
        for number in range(300):
            observer.on_end(record(model, outputs={"prediction": Values(["low", f"class {number}"])}))
        found = values(collect(tmp_path), "e2i_predicted_class_total")
    assert len(found) == (2 if classes else 101)
    assert found["m", "v", "low"] == 300
    assert sum(found.values()) == 600


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=30))
def test_distributions_count_what_is_finite(tmp_path_factory, numbers):
    """Values one by one and many at once fall into the same buckets; what is no number is not counted."""
    folder = tmp_path_factory.mktemp("metrics")
    single, many = ModelInfo("single", "v"), ModelInfo("many", "v")
    with observing(folder, single) as one, observing(folder, many) as other:
        for number in numbers:
            one.on_end(record(single, outputs={"effect": Matrix.of(np.array([number]))}))
        other.on_end(record(many, outputs={"effect": Matrix.of(np.array(numbers))}))
        totals = collect(folder)
    found = {labels[0]: each[:-1] for (name, labels), each in totals.items() if name == "e2i_prediction_effect"}
    assert found["single"] == found["many"]
    assert sum(found["many"]) == np.isfinite(numbers).sum()


@given(st.lists(st.tuples(st.integers(0, 3), st.text(max_size=5)), max_size=60), st.integers(1, 6))
def test_admission_is_agreed_on_and_bounded(tmp_path_factory, asked, bound):
    """Whoever asks, in whatever order: the same values are in, no more than the bound, and they stay in."""
    folder = tmp_path_factory.mktemp("metrics")
    with ExitStack() as stack:
        workers = [stack.enter_context(closing(Admissions(folder))) for _ in range(4)]
        admitted: set[str] = set()
        for who, value in asked:
            if workers[who].admits("label", value, bound):
                admitted.add(value)
            else:
                assert value not in admitted
        assert len(admitted) <= bound
        assert len(admitted) == min(bound, len({value for _, value in asked}))
        assert all(worker.admits("label", value, bound) for worker in workers for value in admitted)


def test_a_value_that_can_not_be_noted_is_not_shown(tmp_path):
    """With no folder to write to, values are others, and nothing raises; a half-written line hides none behind it."""
    with closing(Admissions(tmp_path / "none")) as admissions:
        assert not admissions.admits("label", "a", 5)
    (tmp_path / FILE_NAME).write_bytes(b'["label","a"]\n["lab\n["label","b"]\n')
    with closing(Admissions(tmp_path)) as admissions:
        assert admissions.admits("label", "b", 2)
        assert not admissions.admits("label", "c", 2)
    assert (tmp_path / FILE_NAME).stat().st_size < 60


def test_buckets_that_changed_are_added_up_safely(tmp_path):
    """A worker of former objectives stays in the sum: exact at the bounds both have, never faster than it was."""
    life = Life("a", "s", 1, 1, model=ModelInfo("m", "v"))
    for name, bounds, durations in (("a", (0.25,), (0.2, 0.24, 7.0)), ("b", (0.5,), (0.3, 0.2))):
        with closing(MetricsObserver(SeriesFile(tmp_path, name), life, Measured(bounds))) as observer:
            for seconds in durations:
                observer.on_end(record(life.model, phases={"predict": seconds}))
        for _ in range(2):
            totals = collect(tmp_path)
            fold(tmp_path)
    family = totals.families["e2i_prediction_phase_duration_seconds"]
    found = totals[family.name, ("m", "v", "predict")]
    cumulative = dict(zip(family.buckets, np.cumsum(found[:-1]), strict=False))
    assert 0.25 not in cumulative
    assert cumulative[0.5] == 4
    assert cumulative[0.1] == 0
    assert (sum(found[:-1]), found[-1]) == (5, pytest.approx(7.94))


def test_both_series_of_a_new_bound_begin_with_it(tmp_path):
    """What was counted before stands in both, and what is counted since goes up in the one where it belongs."""
    life = Life("a", "s", 1, 1, model=ModelInfo("m", "v"))

    def counted() -> dict[tuple[str, ...], float]:
        found = values(collect(tmp_path), "e2i_predictions_timed_total")
        assert {labels[:2] for labels in found} == {("m", "v")}
        return {labels[2:]: number for labels, number in found.items()}

    with closing(MetricsObserver(SeriesFile(tmp_path, "a"), life, Measured((0.5, 2.0)))) as observer:
        assert set(counted().values()) == {0.0}
        for seconds in (0.1, 0.5, 0.6, 7.0):
            observer.on_end(record(life.model, duration=seconds))
        assert counted() == {("0.5", "yes"): 2, ("0.5", "no"): 2, ("2", "yes"): 3, ("2", "no"): 1}
    fold(tmp_path)
    with closing(MetricsObserver(SeriesFile(tmp_path, "b"), life, Measured((0.3,)))) as observer:
        before = counted()
        assert before == {("0.3", "yes"): 1, ("0.3", "no"): 3}
        for seconds in (0.3, 0.2, 0.31):
            observer.on_end(record(life.model, duration=seconds))
        assert counted() == {("0.3", "yes"): 3, ("0.3", "no"): 4}
