"""What this package relies on in BentoML, Starlette and Uvicorn beyond their documented interfaces.

When one of these fails with a new release, the module named in the test's docstring is the one to look at.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from functools import partial

import attrs
import bentoml
import httpx
import numpy as np
import pytest
from _bentoml_impl.server import app as server_app
from _bentoml_impl.server.serving import server_on_deployment
from _bentoml_sdk import Service
from _bentoml_sdk.io_models import IODescriptor, IORootModel
from _bentoml_sdk.method import APIMethod
from bentoml._internal.container import BentoMLContainer
from bentoml._internal.context import server_context, trace_context
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def make_service(**options):
    """A service with one API method of each kind that matters here."""

    @bentoml.service(metrics={"enabled": False}, **options)
    class Subject:
        @bentoml.api
        def total(self, x: np.ndarray) -> np.ndarray:
            return x.sum(axis=1)

        @bentoml.api
        def fail(self, how: str) -> str:
            if how == "validation":
                IODescriptor.model_validate(3)
            raise bentoml.exceptions.NotFound("nothing here")

        @bentoml.api(batchable=True, max_latency_ms=2000)
        def batched(self, x: np.ndarray) -> np.ndarray:
            return x

    Subject.inject_config()
    return Subject


class Recorder(server_app.ServiceAppFactory):
    """BentoML's factory as ``runtime/app.py`` derives from it."""


async def ask(app, path, **options):
    """One request to an app in process, its lifespan around it."""
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://s") as client:
        return await client.post(path, **options)


def test_a_service_class_of_ours_is_used_and_told_its_callers_module():
    """``runtime/bento.py``: ``service_class`` is accepted; ``to_asgi`` and ``_caller_module`` are what they were."""

    @attrs.define
    class Ours(Service):
        def __hash__(self):
            return hash(self.name)

    class Plain:
        pass

    made = bentoml.service(service_class=Ours)(Plain)
    assert type(made) is Ours
    assert "is_main" in inspect.signature(made.to_asgi).parameters
    assert isinstance(made._caller_module, str)
    assert {"apis", "models", "inner", "bento"} <= {field.name for field in attrs.fields(Service)}


def test_the_factory_names_its_middlewares_and_lets_them_be_filtered():
    """``runtime/app.py``: the three middlewares that the layer replaces are told by their class's name."""
    with_metrics = make_service()
    factory = Recorder(with_metrics, is_main=True, enable_metrics=True)
    names = [middleware.cls.__name__ for middleware in factory.middlewares]
    assert {"RunnerTrafficMetricsMiddleware", "OpenTelemetryMiddleware", "AccessLogMiddleware"} <= set(names)
    assert names[-1] == "ContextMiddleware"
    assert not BentoMLContainer.tracing.sample_rate.get()


def test_the_factorys_lifespan_makes_the_instance():
    """``runtime/app.py``: inside the lifespan the instance is there, with its service on it, and its hooks have run."""
    seen = []

    @bentoml.service(metrics={"enabled": False})
    class Subject:
        @bentoml.on_startup
        def _first(self):
            seen.append((self.bento_service.name, asyncio.get_running_loop().is_running()))

    Subject.inject_config()
    factory = Recorder(Subject, is_main=True)

    async def run():
        app = factory()
        async with app.router.lifespan_context(app):
            return type(factory._service_instance).__name__

    assert asyncio.run(run()) == "Subject"
    assert seen == [("Subject", True)]
    assert {"metrics", "readyz", "lifespan", "middlewares", "batch_infer", "api_endpoint"} <= set(dir(Recorder))
    assert list(inspect.signature(Recorder.api_endpoint).parameters) == ["self", "name", "request"]
    assert list(inspect.signature(Recorder.batch_infer).parameters) == ["self", "name", "input_args", "input_kwargs"]


def test_specs_run_in_each_requests_own_context_under_batching():
    """``runtime/instrument.py``: decode and encode hooks see the very request they are for, batched or not."""
    current = contextvars.ContextVar("current")
    seen = []
    service = make_service()
    method = service.apis["batched"]

    def hooked(spec, name):
        async def hook(cls, *args):
            seen.append((name, current.get()))
            return await getattr(super(made, cls), name)(*args)

        made = type(spec)(spec.__name__, (spec,), {name: classmethod(hook), "__module__": spec.__module__})
        return made

    service.apis["batched"] = attrs.evolve(
        method,
        input_spec=hooked(method.input_spec, "from_http_request"),
        output_spec=hooked(method.output_spec, "to_http_response"),
    )
    assert service.apis["batched"].route == "/batched"

    async def run():
        app = Recorder(service, is_main=True)()

        async def outermost(scope, receive, send):
            for name, value in scope["headers"]:
                if name == b"x-request-id":
                    current.set(value)
            await app(scope, receive, send)

        transport = httpx.ASGITransport(outermost)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://s") as it:
            ask_one = [
                it.post("/batched", json={"x": [[number]]}, headers={"x-request-id": str(number)})
                for number in range(6)
            ]
            return [answer.json() for answer in await asyncio.gather(*ask_one)]

    assert asyncio.run(run()) == [[[number]] for number in range(6)]
    for number in range(6):
        assert seen.count(("from_http_request", str(number).encode())) == 1
        assert seen.count(("to_http_response", str(number).encode())) == 1


@pytest.mark.parametrize(("how", "status"), [("validation", 400), ("missing", 404)])
def test_errors_are_answered_as_described(how, status):
    """``services/errors.py``: a ValidationError is 400 with error and detail; an exception's code is its status."""
    answer = asyncio.run(ask(Recorder(make_service(), is_main=True)(), "/fail", json={"how": how}))
    assert answer.status_code == status
    if how == "validation":
        assert set(answer.json()) == {"error", "detail"}


def test_a_root_input_is_handed_over_as_decoded():
    """``services/requests.py``: what a root input's spec returns is the method's only argument, whatever its type."""
    assert "__root_input__" in inspect.getsource(server_app.ServiceAppFactory.api_endpoint)
    assert issubclass(IORootModel, IODescriptor)
    for hook in ("from_http_request", "to_http_response"):
        assert inspect.iscoroutinefunction(getattr(IODescriptor, hook))


def test_the_request_id_of_the_answer_is_taken_from_the_trace_context():
    """``runtime/layer.py``: what is set as ``trace_context.request_id`` comes back in X-BentoML-Request-ID."""
    app = Recorder(make_service(), is_main=True)()

    async def outermost(scope, receive, send):
        trace_context.request_id = 0xABC
        await app(scope, receive, send)

    async def run():
        transport = httpx.ASGITransport(outermost)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://s") as it:
            return await it.post("/total", json={"x": [[1, 2]]})

    # Under BentoML's own tracing middleware the id is its span's; without it, ours.
    app.user_middleware = [each for each in app.user_middleware if each.cls.__name__ != "OpenTelemetryMiddleware"]
    assert asyncio.run(run()).headers["x-bentoml-request-id"].endswith("abc")


def test_a_deployment_hook_is_found_under_any_name():
    """``runtime/checks.py``: the supervisor calls a marked static attribute and lets SystemExit pass."""
    called = []

    class Subject:
        pass

    def stop(inner):
        called.append(inner)
        raise SystemExit(1)

    hook = bentoml.on_deployment(staticmethod(partial(stop, Subject)))
    setattr(Subject, "__e2i_test_check__", hook)  # noqa: B010  # no class-private name
    with pytest.raises(SystemExit):
        server_on_deployment(bentoml.service(Subject))
    assert called == [Subject]


def test_a_method_knows_whether_it_streams_and_its_full_route():
    """``runtime/bento.py``: endpoints are told by the service's table of API methods."""
    service = make_service()
    assert set(service.apis) == {"total", "fail", "batched"}
    method = service.apis["total"]
    assert isinstance(method, APIMethod)
    assert (method.route, method.is_stream, method.batchable, method.name) == ("/total", False, False, "total")


def test_a_bentos_version_is_told_apart_from_source():
    """``runtime/bento.py``: served from source, the version reads ``not available``."""
    assert server_context.bento_version == "not available"


def test_uvicorn_notes_that_the_client_is_gone():
    """``runtime/layer.py``: ``receive`` is a method of an object that has ``disconnected``."""
    assert inspect.isfunction(RequestResponseCycle.receive)
    assert "disconnected" in inspect.getsource(RequestResponseCycle.__init__)
