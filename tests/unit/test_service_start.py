"""What a service learns when it starts, and what it then refuses."""

from __future__ import annotations

import re
import warnings
from typing import Any

import bentoml
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import e2i_serving
from e2i_serving.exceptions import ConfigurationError, ServiceDefinitionError
from e2i_serving.record import ModelInfo
from e2i_serving.services import CausalService, ClassificationService, PredictionService, RegressionService
from e2i_serving.services.requests import decode

ROWS = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])
BINARY = [0, 0, 1, 1]
THREE = [0, 1, 2, 2]


def started(cls: type[PredictionService]) -> Any:
    """An instance with its model loaded."""
    service = cls()
    service.e2i_load()
    return service


def loading(base: type[PredictionService], estimator: Any, **attributes: Any) -> Any:
    """A service class named Loading whose ``load`` gives an estimator."""
    members = {"load": lambda self: estimator, "__module__": __name__, **attributes}
    return type("Loading", (base,), members)


class Doubling(RegressionService):
    """A regression by no framework."""

    def load(self) -> Any:
        class Model:
            def predict(self, rows: Any) -> Any:
                return np.asarray(rows).sum(axis=1) * 2

        return Model()


class Species(ClassificationService):
    """A classifier of three, named by its own classes."""

    def load(self) -> Any:
        return LogisticRegression().fit(ROWS, ["a", "b", "c", "c"])


def test_class_names_that_do_not_fit_are_refused_at_start():
    """Two names for three classes would answer the wrong ones."""

    class Wrong(Species):
        class_names = ("a", "b")

    with pytest.raises(
        ConfigurationError, match=r"Wrong names 2 classes, a, b, but the model has 3. Correct class_names"
    ):
        started(Wrong)


class Text(PredictionService):
    """A service of no task, whose model is not in the store."""

    def load(self) -> Any:
        return "ready"


async def test_a_service_is_ready_once_its_model_is_loaded():
    """Before, it is not; what it serves is named after the class."""
    service = Text()
    assert not await service.__is_ready__()
    assert service.info == ModelInfo()
    service.e2i_load()
    assert await service.__is_ready__()
    assert service.info == ModelInfo(name="Text")
    assert service.__metrics__("theirs") == "theirs"
    with pytest.raises(NotImplementedError):
        service.postprocess(None, decode(b'{"instances": [[1]]}'))


@pytest.fixture(scope="module")
def stored() -> str:
    """A classifier in the store, with a preprocessor and what it should know of itself."""
    frame = pd.DataFrame(ROWS, columns=["age", "tenure"])
    scaler = StandardScaler().set_output(transform="pandas").fit(frame)
    model = LogisticRegression().fit(scaler.transform(frame).add_prefix("scaled_"), [0, 0, 1, 1])
    tag = bentoml.sklearn.save_model(
        "churn_stored", model, metadata={"class_names": ["stay", "leave"]}, custom_objects={"preprocessor": scaler}
    ).tag
    return str(tag)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_a_stored_model_brings_what_was_saved_with_it(stored):
    """Names, classes and preprocessor come from the store, and the answer names the version."""
    Stored = type("Stored", (ClassificationService,), {"model": stored, "__module__": __name__})  # noqa: N806  # a class
    service = started(Stored)
    assert service.feature_names == ("age", "tenure")
    assert service.class_names == ("stay", "leave")
    assert service.info.classes == ("stay", "leave")
    assert service.info.tag == stored
    assert len(service.info.digest) == 64
    service.estimator = LogisticRegression().fit(service.preprocess(ROWS), [0, 0, 1, 1])
    answer = type(service).predict.func(service, decode(b'{"instances": [{"age": 3, "tenure": 0}]}'))
    assert f"{answer.model_name}:{answer.model_version}" == stored
    assert answer.result["predictions"] == ["leave"]
    assert service.info.task == "classification"
    found = type(service).model_info.func(service)
    assert (found.name, found.classes) == ("churn_stored", ["stay", "leave"])


@pytest.mark.parametrize("name", ["label_names", "feature_names", "class_names"])
def test_a_string_in_place_of_names_is_refused(name):
    """A tuple of one lacks its comma easily, and each letter would be a name."""
    with pytest.raises(ServiceDefinitionError, match=rf"Wrong.{name} must be a tuple .* Write {name} = \('brand',\)"):
        type("Wrong", (ClassificationService,), {name: "brand"})


def test_feature_names_of_another_number_than_the_models_are_refused():
    """Each request would fail, or be answered with features in the wrong places."""
    model = LinearRegression().fit(ROWS, BINARY)
    with pytest.raises(ConfigurationError, match=r"Loading has 3 feature names, but the model takes 2 features"):
        started(loading(RegressionService, model, feature_names=("a", "b", "c")))
    assert started(loading(RegressionService, model, feature_names=("a", "b"))).feature_names == ("a", "b")
    assert started(loading(RegressionService, object(), feature_names=("a",))).feature_names == ("a",)


@pytest.mark.parametrize("step", ["features", "preprocess"])
def test_a_service_that_makes_features_itself_may_name_others(step):
    """What a request carries need not be what the model takes."""
    model = LinearRegression().fit(ROWS, BINARY)
    inner = loading(RegressionService, model, feature_names=("a", "b", "c"), **{step: lambda self, given: given})
    assert started(inner).feature_names == ("a", "b", "c")


def test_names_are_counted_against_the_preprocessor():
    """It stands before the model; the names may come from the metadata."""
    scaler = StandardScaler().fit(ROWS)
    for names, refused in ((["a", "b"], False), (["a"], True)):
        stored = bentoml.sklearn.save_model(
            "counted",
            LinearRegression().fit(ROWS[:, :1], BINARY),
            metadata={"feature_names": names},
            custom_objects={"preprocessor": scaler},
        )
        inner = type("Counted", (RegressionService,), {"model": str(stored.tag), "__module__": __name__})
        if refused:
            with pytest.raises(ConfigurationError, match=r"has 1 feature names, but .* preprocessor takes 2 features"):
                started(inner)
        else:
            assert started(inner).feature_names == ("a", "b")


def test_arrays_where_a_frame_was_fitted_are_no_news():
    """The service sees to the order, so that nothing warns at each prediction, whoever loaded the model."""
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(pd.DataFrame(ROWS, columns=["a", "b"]), BINARY)
    inner = loading(RegressionService, model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        service = started(inner)
        assert service.infer(ROWS).shape == (4,)
        started(inner)
        kept = [known for known in warnings.filters if known[1] is not None and "valid feature" in known[1].pattern]
        assert len(kept) == 1


def booster(objective: Any, target: Any, **parameters: Any) -> xgboost.Booster:
    """A small XGBoost booster."""
    options = {"objective": objective} if isinstance(objective, str) else {}
    made = None if options else objective
    return xgboost.train({**options, **parameters}, xgboost.DMatrix(ROWS, target), num_boost_round=2, obj=made)


def light_booster(objective: Any, target: Any, **parameters: Any) -> lightgbm.Booster:
    """A small LightGBM booster."""
    options = {"objective": objective, "verbose": -1, "min_data_in_leaf": 1, **parameters}
    return lightgbm.train(options, lightgbm.Dataset(ROWS, target), num_boost_round=2)


def own_objective(predicted: Any, data: Any) -> Any:
    """The gradient of squares, as a user would write it."""
    return predicted - data.get_label(), np.ones_like(predicted)


@pytest.mark.parametrize(
    ("train", "objective", "target", "parameters", "said"),
    [
        (booster, "multi:softmax", THREE, {"num_class": 3}, "objective 'multi:softmax'"),
        (booster, "binary:logitraw", BINARY, {}, "objective 'binary:logitraw'"),
        (booster, "binary:hinge", BINARY, {}, "objective 'binary:hinge'"),
        (booster, "reg:squarederror", BINARY, {}, "objective 'reg:squarederror'"),
        (booster, own_objective, BINARY, {}, "objective 'reg:squarederror'"),
        (light_booster, "regression", BINARY, {}, "objective 'regression'"),
        (light_booster, "cross_entropy_lambda", BINARY, {}, "objective 'cross_entropy_lambda'"),
        (light_booster, own_objective, BINARY, {}, "an objective of its own"),
    ],
)
def test_a_booster_without_probabilities_is_no_classifier(train, objective, target, parameters, said):
    """Its classes or margins would be answered as probabilities; ``infer`` may make some of them."""
    model = train(objective, target, **parameters)
    mend = r"Train it with '\S+' or 'multi\S+', or override infer\(\)"
    with pytest.raises(ConfigurationError, match=rf"Loading serves a booster with {said}, which gives no .*{mend}"):
        started(loading(ClassificationService, model))
    started(loading(ClassificationService, model, infer=lambda self, inputs: inputs))
    started(loading(RegressionService, model))


@pytest.mark.parametrize("model", [LinearSVC(), make_pipeline(StandardScaler(), LinearSVC()), LinearRegression()])
def test_an_estimator_without_probabilities_is_no_classifier(model):
    """Its classes or values would be answered as probabilities; ``infer`` may make some of them."""
    model.fit(ROWS, BINARY)
    with pytest.raises(ConfigurationError, match=r"which has no predict_proba\. Train .* or override infer\(\)"):
        started(loading(ClassificationService, model))
    started(loading(ClassificationService, model, infer=lambda self, inputs: inputs))


@pytest.mark.parametrize(
    ("base", "model", "said"),
    [
        (CausalService, LinearRegression(), "a regressor. Serve a model with effect"),
        (
            CausalService,
            make_pipeline(StandardScaler(), LogisticRegression()),
            "a classifier. Serve a model with effect",
        ),
        (RegressionService, LogisticRegression(), "a classifier. Serve it by a ClassificationService"),
    ],
)
def test_a_model_on_the_wrong_base_is_refused(base, model, said):
    """It would be answered, and recorded, as something that it is not."""
    model.fit(ROWS, BINARY)
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        started(loading(base, model))
    started(loading(base, model, infer=lambda self, inputs: inputs))


def test_a_model_that_selects_columns_by_name_wants_frames():
    """With arrays it would fail at every request."""
    frame = pd.DataFrame(ROWS, columns=["age", "dose"])
    for columns in (["age"], "age"):
        selection = ColumnTransformer([("scale", StandardScaler(), ["age"]), ("keep", "passthrough", columns)])
        model = make_pipeline(selection, LogisticRegression()).fit(frame, BINARY) if columns != "age" else selection
        with pytest.raises(ConfigurationError, match=r"selects columns by name. Set as_frame = True"):
            started(loading(PredictionService, model))
    started(loading(PredictionService, model, as_frame=True, feature_names=("age", "dose")))


def test_a_stored_booster_without_probabilities_is_refused(monkeypatch):
    """The objective outlives saving and loading."""
    from _bentoml_impl.frameworks import xgboost as module

    monkeypatch.setattr(module, "get_pkg_version", lambda _name: xgboost.__version__)
    margins = bentoml.xgboost.save_model("margins", booster("binary:logitraw", BINARY))
    values = bentoml.lightgbm.save_model("values", light_booster("regression", BINARY))
    for stored in (margins, values):
        inner = type("Stored", (ClassificationService,), {"model": str(stored.tag), "__module__": __name__})
        with pytest.raises(ConfigurationError, match="gives no class probabilities"):
            started(inner)


@pytest.mark.parametrize(
    ("train", "objective", "target", "parameters"),
    [
        (booster, "binary:logistic", BINARY, {}),
        (booster, "reg:logistic", BINARY, {}),
        (booster, "multi:softprob", THREE, {"num_class": 3}),
        (light_booster, "binary", BINARY, {"sigmoid": 2}),
        (light_booster, "cross_entropy", BINARY, {}),
        (light_booster, "multiclass", THREE, {"num_class": 3}),
        (light_booster, "multiclassova", THREE, {"num_class": 3}),
    ],
)
def test_a_booster_with_probabilities_is_a_classifier(train, objective, target, parameters):
    """These objectives give what a classification answers."""
    assert started(loading(ClassificationService, train(objective, target, **parameters))).estimator is not None


def test_a_service_can_be_served():
    """The decorator gives BentoML's own service, with the routes of the base."""
    service = e2i_serving.service(name="doubling", observability={"arm": "b"})(Doubling)
    assert service.name == "doubling"
    assert set(service.apis) == {"predict", "model_info"}
    assert service.apis["predict"].route == "/predict"
    with pytest.raises(ServiceDefinitionError, match="is a service already"):
        e2i_serving.service(service)


@pytest.mark.parametrize("kind", ["thread", "loop"])
async def test_under_a_plain_decorator_records_are_made_on_the_event_loop(tmp_path, monkeypatch, kind):
    """The journal has one writer: what is raised in a method's thread is put on record by the loop, and in order."""
    import threading

    import httpx

    from e2i_serving.journal import JournalReader, JournalWriter, list_lives

    monkeypatch.setenv("E2I_SERVING_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("E2I_SERVING_RELAY_ENABLED", "false")
    monkeypatch.setenv("E2I_SERVING_GC_FREEZE", "false")
    threads: set[str] = set()
    append = JournalWriter.append

    def noted(writer: JournalWriter, body: Any) -> None:
        threads.add(threading.current_thread().name)
        append(writer, body)

    monkeypatch.setattr(JournalWriter, "append", noted)

    class Broken(Doubling):
        def infer(self, inputs: Any) -> Any:
            raise ValueError("model failed")

    service = bentoml.service(name=f"broken-{kind}", metrics={"enabled": False})(Broken)
    service.inject_config()
    app = service.to_asgi()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        body = {"instances": [[1, 2]] if kind == "thread" else []}
        statuses = [(await client.post("/predict", json=body)).status_code for _ in range(5)]
        (folder,) = list_lives(tmp_path / "journal")
        bodies = [frame.decode() for frame in JournalReader(folder).read(100, ended=True)]
    assert statuses == [500 if kind == "thread" else 400] * 5
    assert [getattr(body, "status", None) for body in bodies] == statuses
    assert threads == {threading.current_thread().name}
