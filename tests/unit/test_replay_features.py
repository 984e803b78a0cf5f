"""Replay of services that make their own features, whose form the record does not say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import e2i_serving
from e2i_serving.services.replay import ReplayReport, replay
from e2i_serving.testing import ServiceHarness

WEIGHTS = np.array([0.1, 0.3])
INSTANCES = [[[0.123456789, 2.3], [1.7, 0.9]], [[1.0, 2.0]], [[0.1, 0.2]]]


class Own(e2i_serving.RegressionService):
    """Makes its own features."""

    feature_names = ("age", "tenure")
    made: Callable[[Any], Any]
    drift = 0.0

    def load(self) -> Any:
        return object()

    def features(self, request: Any) -> Any:
        return type(self).made(request.matrix(self.feature_names))


def by_array(inputs: Any) -> Any:
    """Takes an array, and computes in its precision."""
    assert inputs.shape[1] == 2
    return inputs @ WEIGHTS.astype(inputs.dtype)


def by_name(inputs: Any) -> Any:
    """Takes what has columns by name."""
    return np.asarray(inputs["age"] * np.float32(0.1) + inputs["tenure"])


def by_place(inputs: Any) -> Any:
    """Takes two inputs."""
    first, second = inputs
    assert len(first) == len(second)
    return first[:, 0] + second


def by_text(inputs: Any) -> Any:
    """Takes texts."""
    return np.array([float(each.removeprefix("x")) for each in inputs])


FORMS = {
    "single precision": (lambda rows: rows.astype(np.float32), by_array),
    "doubles": (lambda rows: rows * 2, by_array),
    "integers": (lambda rows: rows.astype(np.int64) + 1, lambda inputs: WEIGHTS[inputs[:, 0] % 2]),
    "frame": (lambda rows: pd.DataFrame(rows, columns=["age", "tenure"]), lambda inputs: by_name(inputs.copy())),
    "frame of others": (lambda rows: pd.DataFrame({"age": rows[:, 0], "tenure": rows[:, 1], "city": "Graz"}), by_name),
    "single frame": (lambda rows: pd.DataFrame(rows.astype(np.float32), columns=["age", "tenure"]), by_name),
    "mapping": (lambda rows: {"age": rows[:, 0], "tenure": rows[:, 1], "wide": rows}, by_name),
    "tuple": (lambda rows: (rows, rows[:, 1]), by_place),
    "texts": (lambda rows: [f"x{row[0]}" for row in rows], by_text),
}


def replayed(made: Any, infer: Any, against: Any = None) -> ReplayReport:
    """What a replay says of some predictions of a service with such features."""
    body = {"__module__": __name__, "made": staticmethod(made)}
    body["infer"] = lambda self, inputs: infer(inputs) + self.drift
    Service = e2i_serving.service(type("Owned", (Own,), body))  # noqa: N806
    with ServiceHarness(Service) as running:
        for rows in INSTANCES:
            assert running.predict(instances=rows).status == 200
        with running.trail() as trail:
            if against is not None:
                against(Service.inner)
            return replay(Service, trail.query(), allow_code=True)


def test_a_classification_of_several_inputs_is_replayed() -> None:
    """As many instances as there are items, however many inputs the model has."""

    class Parts(e2i_serving.ClassificationService):
        class_names = ("no", "yes")

        def load(self) -> Any:
            return object()

        def features(self, request: Any) -> Any:
            rows = super().features(request)
            return rows[:, 0], rows[:, 1], rows.sum(axis=1)

        def infer(self, inputs: Any) -> Any:
            share = 1 / (1 + np.exp(-inputs[2]))
            return np.column_stack([1 - share, share])

    Service = e2i_serving.service(Parts)  # noqa: N806
    with ServiceHarness(Service) as running:
        assert running.predict(instances=[[0.5, 0.25], [-0.5, 0.0]]).status == 200
        with running.trail() as trail:
            report = replay(Service, trail.query(), allow_code=True)
    assert (report.replayed, report.changed, dict(report.left_out)) == (1, 0, {})


@pytest.mark.parametrize("form", FORMS)
def test_features_are_made_again_in_their_form(form) -> None:
    """Arrays of either precision, frames, mappings, tuples and lists give what they gave."""
    report = replayed(*FORMS[form])
    assert (report.replayed, report.changed, dict(report.left_out)) == (len(INSTANCES), 0, {})


@pytest.mark.parametrize("form", FORMS)
def test_a_change_is_seen_in_any_form(form) -> None:
    """That a form may be chosen does not make a model the same that is another."""

    def drift(inner: Any) -> None:
        inner.drift = 1e-6

    report = replayed(*FORMS[form], against=drift)
    assert (report.replayed, report.changed) == (len(INSTANCES), len(INSTANCES))


def test_what_is_only_described_is_left_out() -> None:
    """A sparse matrix is on record by its shape, from which nothing can be computed."""
    report = replayed(sparse.csr_array, lambda inputs: inputs.sum(axis=1))
    assert (report.replayed, dict(report.left_out)) == (0, {"unfit-inputs": len(INSTANCES)})


def test_a_step_that_raises_is_a_reason(caplog) -> None:
    """The predictions that can't be replayed are counted, the first is said, and the others go on."""

    def fail(inner: Any) -> None:
        def infer(self: Any, inputs: Any) -> Any:
            if len(inputs) == 1:
                raise IndexError("out of memory")
            return by_array(inputs)

        inner.infer = infer

    report = replayed(*FORMS["doubles"], against=fail)
    assert (report.replayed, report.changed, dict(report.left_out)) == (1, 0, {"replay-failed": 2})
    assert caplog.text.count("can't be replayed: IndexError: out of memory") == 1


def test_a_model_that_can_not_be_loaded_is_a_reason() -> None:
    """What raises while the model is loaded ends no replay."""

    def fail(inner: Any) -> None:
        def load(self: Any) -> Any:
            raise OSError("no weights")

        inner.load = load

    report = replayed(*FORMS["doubles"], against=fail)
    assert dict(report.left_out) == {"replay-failed": len(INSTANCES)}
