"""From a model in the BentoML store to one that predicts, whichever framework saved it."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import bentoml
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.runtime.models import describe_model, files_digest
from e2i_serving.services.loading import (
    accepts_missing,
    as_probabilities,
    feature_count_of,
    feature_names_of,
    load_model,
)

pytestmark = pytest.mark.filterwarnings("ignore:`bentoml.picklable_model` is deprecated")

NAMES = ("age", "income", "tenure")
SOURCE = np.random.default_rng(7)
ROWS = SOURCE.normal(size=(90, 3))
BINARY = (ROWS[:, 0] > 0).astype(int)
THREE = np.digitize(ROWS[:, 0], [-0.5, 0.5])


class Doubling:
    """A model of no framework."""

    def predict(self, rows: Any) -> Any:
        return np.asarray(rows).sum(axis=1) * 2


@pytest.fixture(autouse=True)
def xgboost_version(monkeypatch):
    """BentoML asks for the version of a distribution named xgboost; its build for CPUs has another name."""
    from _bentoml_impl.frameworks import xgboost as module

    monkeypatch.setattr(module, "get_pkg_version", lambda _name: xgboost.__version__)


def booster(objective: str, target: Any, names: tuple[str, ...] | None = None, **parameters: Any) -> xgboost.Booster:
    """A small XGBoost booster."""
    data = xgboost.DMatrix(ROWS, target, feature_names=names and list(names))
    return xgboost.train({"objective": objective, **parameters}, data, num_boost_round=4)


def light_booster(objective: str, target: Any, names: Any = "auto", **parameters: Any) -> lightgbm.Booster:
    """A small LightGBM booster."""
    data = lightgbm.Dataset(ROWS, target, feature_name=names)
    return lightgbm.train({"objective": objective, "verbose": -1, **parameters}, data, num_boost_round=4)


def saved(module: Any, name: str, model: Any, **options: Any) -> bentoml.Model:
    """The model, out of the store."""
    stored: bentoml.Model = module.save_model(name, model, **options)
    return bentoml.models.get(stored.tag)


def test_a_scikit_learn_model_is_loaded_as_it_is():
    """What has the interface already is not wrapped."""
    model = LogisticRegression().fit(pd.DataFrame(ROWS, columns=list(NAMES)), BINARY)
    loaded = load_model(saved(bentoml.sklearn, "sklearn_named", model))
    assert isinstance(loaded, LogisticRegression)
    assert feature_names_of(loaded) == NAMES
    assert feature_count_of(loaded) == 3
    frame = pd.DataFrame(ROWS, columns=list(NAMES))
    assert loaded.predict_proba(frame) == pytest.approx(model.predict_proba(frame))


def test_a_model_without_names_has_none():
    """Fitted on an array, a model knows how many features it takes and not their names."""
    loaded = load_model(saved(bentoml.sklearn, "sklearn_unnamed", LinearRegression().fit(ROWS, ROWS[:, 0])))
    assert feature_names_of(loaded) == ()
    assert feature_count_of(loaded) == 3


def test_an_object_that_can_be_pickled_is_loaded_as_it_is():
    """A model of no framework predicts all the same, and says nothing of its features."""
    loaded = load_model(saved(bentoml.picklable_model, "pickled", Doubling()))
    assert loaded.predict([[1, 2], [3, 4]]).tolist() == [6, 14]
    assert feature_names_of(loaded) == ()
    assert feature_count_of(loaded) is None
    assert accepts_missing(loaded)


@pytest.mark.parametrize("names", [NAMES, None])
def test_an_xgboost_booster_gets_the_interface(names):
    """A bare booster takes an array in its own order and gives probabilities of both classes."""
    model = booster("binary:logistic", BINARY, names)
    loaded = load_model(saved(bentoml.xgboost, "xgboost_booster", model))
    data = xgboost.DMatrix(ROWS, feature_names=names and list(names))
    assert feature_names_of(loaded) == (names or ())
    assert feature_count_of(loaded) == 3
    probabilities = loaded.predict_proba(ROWS)
    assert probabilities.shape == (90, 2)
    assert probabilities[:, 1] == pytest.approx(model.predict(data))
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(90))
    assert loaded.predict([[0.5, 1, None]]).shape == (1,)


def test_an_xgboost_booster_of_many_classes_and_of_none():
    """Probabilities of many classes are as they come; a regressor's values likewise."""
    many = load_model(saved(bentoml.xgboost, "xgboost_many", booster("multi:softprob", THREE, num_class=3)))
    assert many.predict_proba(ROWS).shape == (90, 3)
    value = load_model(saved(bentoml.xgboost, "xgboost_value", booster("reg:squarederror", ROWS[:, 0])))
    assert value.predict(ROWS).shape == (90,)


def test_the_scikit_learn_interface_of_xgboost_is_kept():
    """A classifier comes back as one, with its classes."""
    model = xgboost.XGBClassifier(n_estimators=4).fit(pd.DataFrame(ROWS, columns=list(NAMES)), THREE)
    loaded = load_model(saved(bentoml.xgboost, "xgboost_classifier", model))
    assert isinstance(loaded, xgboost.XGBClassifier)
    assert feature_names_of(loaded) == NAMES
    assert feature_count_of(loaded) == 3
    assert loaded.classes_.tolist() == [0, 1, 2]
    assert loaded.predict_proba(ROWS) == pytest.approx(model.predict_proba(ROWS))
    regressor = xgboost.XGBRegressor(n_estimators=4).fit(ROWS, ROWS[:, 0])
    loaded = load_model(saved(bentoml.xgboost, "xgboost_regressor", regressor))
    assert feature_names_of(loaded) == ()
    assert loaded.predict(ROWS) == pytest.approx(regressor.predict(ROWS))


def test_a_lightgbm_booster_gets_the_interface():
    """A bare booster takes an array and gives probabilities of both classes."""
    model = light_booster("binary", BINARY, list(NAMES))
    loaded = load_model(saved(bentoml.lightgbm, "lightgbm_booster", model))
    assert feature_names_of(loaded) == NAMES
    assert feature_count_of(loaded) == 3
    assert loaded.predict_proba(ROWS)[:, 1] == pytest.approx(model.predict(ROWS))
    assert loaded.predict([[0.5, 1, None]]).shape == (1,)
    many = load_model(saved(bentoml.lightgbm, "lightgbm_many", light_booster("multiclass", THREE, num_class=3)))
    assert many.predict_proba(ROWS).shape == (90, 3)


def test_the_scikit_learn_interface_of_lightgbm_predicts_the_same():
    """BentoML keeps the booster of a classifier only; its probabilities are the classifier's."""
    model = lightgbm.LGBMClassifier(n_estimators=4, verbose=-1).fit(ROWS, BINARY)
    loaded = load_model(saved(bentoml.lightgbm, "lightgbm_classifier", model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert loaded.predict_proba(ROWS) == pytest.approx(model.predict_proba(ROWS))
    assert feature_count_of(loaded) == 3


def test_probabilities_of_one_class_become_those_of_both():
    """Shape (n,) is the second class's; shape (n, classes) is left as it is."""
    assert as_probabilities([0.25, 1.0]).tolist() == [[0.75, 0.25], [0.0, 1.0]]
    both = np.array([[0.75, 0.25]])
    assert as_probabilities(both) is both


def test_a_model_says_whether_it_takes_missing_values():
    """Where an estimator has tags they are believed, else it decides itself."""

    class Vague:
        def __sklearn_tags__(self) -> Any:
            raise AttributeError("none here")

    assert not accepts_missing(LogisticRegression())
    assert accepts_missing(HistGradientBoostingClassifier())
    assert accepts_missing(Vague())
    assert accepts_missing(object())


def test_a_framework_that_is_missing_is_named(monkeypatch):
    """The error says which model, which module, and what to install or override."""
    stored = saved(bentoml.picklable_model, "unloadable", Doubling())
    monkeypatch.setitem(sys.modules, stored.info.module, None)
    with pytest.raises(ConfigurationError, match=r"unloadable:.* was saved by bentoml.picklable_model.*Install its"):
        load_model(stored)


def test_a_framework_that_can_not_be_imported_is_named(monkeypatch, tmp_path):
    """BentoML has an exception of its own for a missing framework, and a broken one may raise any."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_framework.py").write_text("raise OSError('libgomp.so.1:\\n  cannot open')")
    monkeypatch.delitem(sys.modules, "bentoml.lightgbm", raising=False)
    monkeypatch.delitem(sys.modules, "_bentoml_impl.frameworks.lightgbm", raising=False)
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    for module, said in (
        ("bentoml.lightgbm", "lightgbm is required .*Install its"),
        ("broken_framework", "OSError: libgomp.so.1: cannot open. Install its"),
    ):
        with bentoml.models.create("unimportable", module=module) as stored:
            pass
        with pytest.raises(ConfigurationError, match=rf"was saved by {module}, which can't be imported: {said}"):
            load_model(bentoml.models.get(stored.tag))


def test_a_model_that_can_not_be_loaded_is_named(tmp_path):
    """A damaged file, or a module with no way to load, is an error that names the model."""
    for module, said in (
        ("json", r"was saved by json, which has no load_model. Override load"),
        ("", r"does not say which module saved it. Override load"),
        ("bentoml.sklearn", r"can't be loaded by bentoml.sklearn: \w+: .*Override load"),
    ):
        with bentoml.models.create("bare", module=module) as stored:
            pass
        with pytest.raises(ConfigurationError, match=rf"bare:\w+ {said}"):
            load_model(bentoml.models.get(stored.tag))


def test_a_model_is_described_by_name_version_and_content():
    """The digest is that of the files, whatever the folder is called."""
    stored = saved(bentoml.picklable_model, "described", Doubling(), metadata={"auc": np.float64(0.9).item(), "n": [1]})
    info = describe_model(stored, task="regression", feature_names=NAMES, classes=("no", "yes"))
    assert info.tag == str(stored.tag)
    assert (info.task, info.framework) == ("regression", "bentoml.picklable_model")
    assert (info.feature_names, info.classes) == (NAMES, ("no", "yes"))
    assert info.metadata == {"auc": 0.9, "n": [1]}
    assert len(info.digest) == 64
    assert describe_model(bentoml.models.get(stored.tag)).digest == info.digest


def test_a_digest_covers_names_and_bytes(tmp_path):
    """Any change of a file's name or content changes it, and the order of making does not."""

    def folder(name: str, **files: str) -> str:
        made = tmp_path / name
        for path, content in files.items():
            target = made / path.replace("__", "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
        return files_digest(made)

    same = [folder("a", x="1", sub__y="2"), folder("b", sub__y="2", x="1")]
    others = [
        folder("c", x="1", sub__y="3"),
        folder("d", x="1", sub__z="2"),
        folder("e", x="12", sub__y=""),
        folder("f", x="1", y="2"),
    ]
    assert same[0] == same[1]
    assert len({same[0], *others}) == 5
