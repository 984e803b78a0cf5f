"""How a service is written: mistakes are refused when the class is made, and what it is is written down."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import bentoml
import pytest

import e2i_serving
from e2i_serving.exceptions import ConfigurationError, E2IServingError, ServiceDefinitionError
from e2i_serving.runtime.bento import ObservedService, endpoints_of
from e2i_serving.runtime.checks import HOOK
from e2i_serving.runtime.definition import ServiceDefinition, code_digest, define, definition_of, source_file
from e2i_serving.runtime.instrument import MARK, UNAUDITED, instrument
from e2i_serving.services import CausalService, ClassificationService, PredictionService, RegressionService
from e2i_serving.services.mistakes import STEPS

BASES = [PredictionService, ClassificationService, RegressionService, CausalService]


def make(base: type = RegressionService, **body: Any) -> type:
    """A subclass with this body."""
    return type("Made", (base,), {"__module__": __name__, **body})


def refusal(base: type = RegressionService, **body: Any) -> str:
    """What is said of a class that is refused."""
    with pytest.raises(ServiceDefinitionError) as raised:
        make(base, **body)
    assert isinstance(raised.value, TypeError)
    assert isinstance(raised.value, E2IServingError)
    return str(raised.value)


@pytest.mark.parametrize("base", [ClassificationService, RegressionService, CausalService])
@pytest.mark.parametrize(
    "value", [lambda self, request: 1, 5, "text", None, ["x"]], ids=["function", "5", "text", "None", "list"]
)
def test_an_api_that_lost_its_decorator_is_refused(base, value):
    """An override or an attribute in the place of an API method would make its route vanish."""
    said = refusal(base, predict=value)
    assert said.startswith(
        "Made.predict replaces the API method 'predict' of its base, so that its route would vanish."
    )
    assert "Override infer(), features() or another step instead, or decorate it with @bentoml.api." in said


def test_a_base_s_other_api_is_guarded_too():
    """Any inherited route counts, those of a user's own base as well."""
    assert "Made.model_info" in refusal(model_info={"name": "x"})

    class Base(RegressionService):
        @bentoml.api
        def explain(self, x: float) -> float:
            return x

    assert "Made.explain" in refusal(Base, explain=lambda self: 1)


def test_an_api_may_be_overridden_by_an_api():
    """With its decorator an override is the new route, and is instrumented as the old one was."""

    class Own(RegressionService):
        @bentoml.api
        def predict(self, x: float) -> float:
            return x

    assert getattr(Own.predict.func, MARK)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_must_be_a_plain_method(step):
    """A coroutine, an attribute or a property in the place of a step would not be called as one."""

    async def coroutine(self: Any) -> None:
        """Never awaited."""

    def generator(self: Any) -> Any:
        """Would give a generator, whatever it yields."""
        yield 1

    for value in (coroutine, generator, {"a": 1}, ("age", "income"), property(lambda self: 1), staticmethod(len), None):
        assert refusal(**{step: value}) == (
            f"Made.{step} must be a plain method (def, not async def, without yield, no attribute): predict calls it."
        )
    make(**{step: lambda self, *_args: None})


def test_a_mixin_may_not_hide_what_the_base_has():
    """What a class finds first is what BentoML serves and predict calls, wherever it was written."""

    class Quiet:
        def predict(self, rows: Any) -> Any:
            """Not an API method."""

    class Later:
        async def infer(self, inputs: Any) -> Any:
            """A coroutine."""

    for mixin, said in ((Quiet, "its route would vanish"), (Later, "must be a plain method")):
        with pytest.raises(ServiceDefinitionError, match=said):
            type("Made", (mixin, RegressionService), {"__module__": __name__})


@pytest.mark.parametrize("model", [5, b"churn", object(), ["churn:latest"]], ids=type)
def test_a_model_is_named_by_its_tag(model):
    """Anything but a tag or BentoML's own reference is refused."""
    assert refusal(model=model).startswith("Made.model must be a model's tag such as 'churn:latest', not ")


def test_a_tag_becomes_bentomls_reference():
    """A string is all it takes for the model to be bundled and resolved."""
    made = make(model="churn:v1")
    assert isinstance(made.model, bentoml.models.BentoModel)
    assert str(made.model.tag) == "churn:v1"
    given = bentoml.models.BentoModel("churn:v2")
    assert make(model=given).model is given
    assert make().model is None


def test_a_subclass_of_a_subclass_is_checked_and_instrumented_once():
    """Inheritance of any depth gives one definition a class and one wrapper a method."""
    first = make(label_names=("brand",))
    second = make(first, model="churn:v1")
    assert second.predict.func is first.predict.func
    assert definition_of(second).inner is second
    assert definition_of(first).inner is first
    assert definition_of(second).label_names == ("brand",)
    assert HOOK in second.__dict__


def test_a_class_may_have_an_init_of_its_own():
    """No ``super().__init__()`` is needed."""

    class Own(RegressionService):
        def __init__(self) -> None:
            self.rate = 2

        def load(self) -> Any:
            return self.rate

    service = Own()
    service.e2i_load()
    assert service.estimator == 2


@pytest.mark.parametrize("base", BASES)
def test_bases_have_their_routes(base):
    """What a base serves is instrumented, but for what predicts nothing."""
    apis = {name: getattr(base, name) for name in ("predict", "model_info") if name in dir(base)}
    assert getattr(apis["model_info"].func, UNAUDITED)
    assert ("predict" in apis) == (base is not PredictionService)


def test_a_definition_says_what_was_written():
    """Name, settings and labels are the class's own, or those given with the decorator."""

    class Plain:
        label_names = ["brand"]

    definition = definition_of(Plain)
    assert definition == ServiceDefinition("Plain", Plain, {}, ("brand",))
    assert definition_of(Plain) is definition
    assert define(Plain, name="credit", arguments={"arm": "b"}) == definition_of(Plain)
    assert definition_of(Plain).load_settings().settings.arm == "b"

    class Derived(Plain):
        pass

    assert definition_of(Derived).name == "Derived"
    assert definition_of(Derived).arguments == {}


def test_a_definition_with_a_wrong_setting_says_so_when_it_is_resolved():
    """Settings are checked where they are needed, not where the class is made."""

    class Plain:
        pass

    define(Plain, arguments={"armm": "b"})
    with pytest.raises(ConfigurationError, match="Did you mean 'arm'"):
        definition_of(Plain).load_settings()


def test_the_decorator_observes_any_class():
    """A class without a base of ours is instrumented and hooked in the same way, with and without arguments."""

    class Plain:
        @bentoml.api
        def classify(self, x: float) -> float:
            return x

        @bentoml.api
        async def stream(self, x: float) -> Any:
            yield "x"

    service = e2i_serving.service(Plain)
    assert isinstance(service, ObservedService)
    assert service.name == "Plain"
    assert service.inner is Plain
    assert getattr(Plain.classify.func, MARK)
    assert HOOK in Plain.__dict__
    endpoints = endpoints_of(service)
    assert {route: endpoint.is_stream for route, endpoint in endpoints.items()} == {"/classify": False, "/stream": True}
    classify = Plain.classify
    instrument(Plain)
    assert Plain.classify is classify


def test_the_decorator_hands_on_what_bentoml_takes():
    """Options, name and the caller's module reach BentoML."""

    class Plain:
        @bentoml.api
        def classify(self, x: float) -> float:
            return x

    service = e2i_serving.service(name="credit", workers=2, observability={"arm": "b"})(Plain)
    assert service.name == "credit"
    assert service.config["workers"] == 2
    assert service._caller_module == __name__
    assert definition_of(Plain) == ServiceDefinition("credit", Plain, {"arm": "b"}, layered=True)
    with pytest.raises(ServiceDefinitionError, match="credit is a service already"):
        e2i_serving.service()(service)


def test_an_instrumented_function_keeps_its_kind():
    """BentoML asks a function what it is, and gets the same answer as before."""
    import inspect

    class Kinds:
        @bentoml.api
        def plain(self, x: float) -> float:
            """Documented."""
            return x

        @bentoml.api
        async def coroutine(self, x: float) -> float:
            return x

        @bentoml.api
        def generator(self, x: float) -> Any:
            yield "a"

        @bentoml.api
        async def asynchronous(self, x: float) -> Any:
            yield "a"

    before = {name: inspect.signature(getattr(Kinds, name).func) for name in vars(Kinds) if not name.startswith("_")}
    schemas = {name: getattr(Kinds, name).input_spec.model_json_schema() for name in before}
    instrument(Kinds)
    for name, signature in before.items():
        assert inspect.signature(getattr(Kinds, name).func) == signature
        assert getattr(Kinds, name).input_spec.model_json_schema() == schemas[name]
    assert Kinds.plain.func.__doc__ == "Documented."
    assert asyncio.iscoroutinefunction(Kinds.coroutine.func)
    assert inspect.isgeneratorfunction(Kinds.generator.func)
    assert inspect.isasyncgenfunction(Kinds.asynchronous.func)
    assert Kinds.plain.func(Kinds(), 2.0) == 2.0
    assert list(Kinds.generator.func(Kinds(), 2.0)) == ["a"]


def module_of(path: Path, name: str) -> ModuleType:
    """Import a file."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_a_code_digest_covers_the_files_that_define_a_service(tmp_path, monkeypatch):
    """The class's own file and its bases', not those of the standard library or of this package."""
    base = tmp_path / "e2i_digest_base.py"
    base.write_text("class Base: pass\n")
    derived = tmp_path / "e2i_digest_service.py"
    derived.write_text(
        "from collections.abc import Sized\nfrom e2i_digest_base import Base\n"
        "from e2i_serving.services import RegressionService\n\n"
        "class Service(RegressionService, Base, Sized):\n    def __len__(self): return 0\n"
    )
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    module_of(base, "e2i_digest_base")
    service = module_of(derived, "e2i_digest_service").Service
    expected = hashlib.sha256()
    for path in (base, derived):
        expected.update(path.name.encode() + path.read_bytes())
    assert code_digest(service) == expected.hexdigest()
    derived.write_text(derived.read_text() + "# changed\n")
    assert code_digest(service) != expected.hexdigest()
    assert code_digest(RegressionService) == hashlib.sha256().hexdigest()


def test_a_class_made_in_a_console_has_no_file():
    """Without a file there is a digest of nothing, and no folder to look for settings in."""
    scope: dict[str, Any] = {"__name__": "__console__"}
    exec("class Plain: pass", scope)
    assert source_file(scope["Plain"]) is None
    assert code_digest(scope["Plain"]) == hashlib.sha256().hexdigest()
    assert definition_of(scope["Plain"]).load_settings().settings.arm == ""


def test_settings_are_found_beside_the_service(tmp_path, monkeypatch):
    """The file next to the service counts, wherever the server was started."""
    (tmp_path / "service.py").write_text("class Plain: pass\n")
    (tmp_path / "observability.yaml").write_text("arm: beside\ndata_dir: data\n")
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    definition = definition_of(module_of(tmp_path / "service.py", "e2i_beside_service").Plain)
    resolved = definition.load_settings()
    assert resolved.settings.arm == "beside"
    monkeypatch.chdir(tmp_path)
    assert definition.data_dir(resolved) == tmp_path / "data"


@pytest.mark.parametrize("prefix", [None, "", "/", "v1", "/v1", "/a/b/"])
def test_endpoints_have_the_paths_that_bentoml_serves(prefix):
    """A prefix is joined as BentoML joins it, however it is written."""
    from bentoml._internal.utils.uri import join_paths

    class Plain:
        @bentoml.api
        def classify(self, x: float) -> float:
            return x

        @bentoml.api(route="/")
        def root(self, x: float) -> float:
            return x

    service = e2i_serving.service(path_prefix=prefix)(Plain)
    assert set(endpoints_of(service)) == {join_paths(prefix, "/classify"), join_paths(prefix, "/")}
