"""Wraps API methods, so that what goes in, what comes out and what is raised is seen in each request's own context.

BentoML decodes and encodes through the method's input and output specs; subclasses of these are the only
hooks that run in the context of the very request, adaptive batching included. Contract tests hold this.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, cast

import attrs
from _bentoml_sdk.io_models import IORootModel
from _bentoml_sdk.method import APIMethod
from opentelemetry import context as otel_context
from opentelemetry.context import Context

from e2i_serving.context import current as current_context
from e2i_serving.record import Values
from e2i_serving.runtime import unlayered
from e2i_serving.runtime.observation import Observation, observation
from e2i_serving.runtime.plain import columns, plain

MARK = "__e2i_serving_instrumented__"
LOCAL_CALLS = "__e2i_serving_local_calls__"
UNAUDITED = "__e2i_serving_unaudited__"
"""Mark of an API function that predicts nothing, so that its requests are counted and not recorded."""


def instrument(inner: type) -> None:
    """Instrument the API methods of a service class in place: of each its function and its specs, each once.

    Args:
        inner: The class that BentoML's service wraps.
    """
    for name in dir(inner):
        method = getattr(inner, name, None)  # an abstract base lists what it lacks while a class is made
        if not isinstance(method, APIMethod) or getattr(method.func, UNAUDITED, False):
            continue
        if not all(hasattr(part, MARK) for part in (method.func, method.input_spec, method.output_spec)):
            setattr(inner, name, _instrumented(method))


def _instrumented(method: APIMethod[..., Any]) -> APIMethod[..., Any]:
    # A subclass may have another spec in the place of one that was instrumented already.
    options = {field.name: getattr(method, field.name) for field in attrs.fields(APIMethod) if field.init}
    if not hasattr(method.func, MARK):
        # A batch runs in the context of whichever request came first, so only the specs may speak for a batched method.
        options["func"] = _unattributed(method.func) if method.batchable else _timed(method.func)
        setattr(options["func"], MARK, True)
    if not hasattr(method.input_spec, MARK):
        options["input_spec"] = _observed_input(method.input_spec, method.name)
    if not hasattr(method.output_spec, MARK):
        options["output_spec"] = _observed_output(method.output_spec)
    return ObservedMethod(**options)


class ObservedMethod(APIMethod[..., Any]):
    """BentoML's API method, which makes its local call once an instance instead of once a request.

    Inspecting the signature again for every request is a twentieth of what a small prediction costs.
    """

    def _local_call(self, instance: Any) -> Callable[..., Any]:
        made: dict[str, Callable[..., Any]] = vars(instance).setdefault(LOCAL_CALLS, {})
        call = made.get(self.name)
        if call is None:
            call = made[self.name] = super()._local_call(instance)
        return call


def _observed_input(spec: Any, name: str) -> Any:
    async def from_http_request(cls: Any, request: Any, serde: Any) -> Any:
        current = observation.get()
        if current is None or current.over:
            current = unlayered.begin(name, request)
        if current is None:
            return await super(observed, cls).from_http_request(request, serde)
        started = time.perf_counter()
        try:
            decoded = await super(observed, cls).from_http_request(request, serde)
        except BaseException as error:
            current.fail(error)
            raise
        if not getattr(cls, "captures_items", False):
            try:
                _capture_inputs(current, decoded)
            except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
                current.faults.append(("input capture", error))
        now = time.perf_counter()
        current.phases["decode"] = now - started
        current.decoded_at = now
        return decoded

    observed = _subclass(spec, "from_http_request", from_http_request)
    return observed


def _observed_output(spec: Any) -> Any:
    async def to_http_response(cls: Any, obj: Any, serde: Any) -> Any:
        current = observation.get()
        if current is None:
            return await super(observed, cls).to_http_response(obj, serde)
        started = time.perf_counter()
        is_captured = current.outputs or getattr(obj, "captures_items", False)
        if not (is_captured or inspect.isgenerator(obj) or inspect.isasyncgen(obj)):
            try:
                _capture_outputs(current, obj)
            except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
                current.faults.append(("output capture", error))
        try:
            response = await super(observed, cls).to_http_response(obj, serde)
        except BaseException as error:
            current.fail(error)
            raise
        current.phases["encode"] = time.perf_counter() - started
        if current.ender is not None:
            await current.ender.answered(current, response)
        return response

    observed = _subclass(spec, "to_http_response", to_http_response)
    return observed


def _subclass(spec: Any, hook: str, function: Callable[..., Any]) -> Any:
    """A subclass of a spec under the same name, so that schemas and documentation stay as they are."""
    known: list[str] = []

    def mime_type(cls: Any) -> str:
        # BentoML derives it from the whole JSON schema, for every answer: a fifth of what a small prediction costs.
        if not known:
            known.append(super(made, cls).mime_type())
        return known[0]

    body = {
        hook: classmethod(function),
        "mime_type": classmethod(mime_type),
        "__module__": spec.__module__,
        "__doc__": spec.__doc__,
        MARK: True,
    }
    made = type(spec)(spec.__name__, (spec,), body)
    return made


def _capture_inputs(current: Observation, decoded: Any) -> None:
    if isinstance(decoded, IORootModel):
        values = {"input": decoded.root}
    else:
        values = {name: getattr(decoded, name) for name in type(decoded).model_fields}
    found = columns(values)
    if found is None:
        current.inputs, current.items = {name: Values([plain(value)]) for name, value in values.items()}, 1
    else:
        current.inputs, current.items = found


def _capture_outputs(current: Observation, obj: Any) -> None:
    value = obj.root if isinstance(obj, IORootModel) else obj
    found = columns({"prediction": value}) if current.items else None
    if found is not None and found[1] == current.items:
        current.outputs = found[0]
        return
    if current.items != 1:
        # The answer is not one result an item: the request is one item, whole.
        current.inputs = {name: Values([_whole(column)]) for name, column in current.inputs.items()}
        current.items = 1
    current.outputs = {"prediction": Values([plain(value)])}


def _whole(column: Any) -> Any:
    return column.values if isinstance(column, Values) else plain(column.array())


def _unattributed(func: Callable[..., Any]) -> Callable[..., Any]:
    """Let a batch belong to no request: it runs in the context of whichever came first, and is for others too."""

    def leave() -> None:
        # In the thread's own copy of the context, or the task's, which nothing else uses.
        observation.set(None)
        current_context.set(None)
        otel_context.attach(Context())

    if inspect.iscoroutinefunction(func):

        @functools.wraps(func)
        async def batch_coroutine(*args: Any, **kwargs: Any) -> Any:
            leave()
            return await func(*args, **kwargs)

        return batch_coroutine

    @functools.wraps(func)
    def batch(*args: Any, **kwargs: Any) -> Any:
        leave()
        return func(*args, **kwargs)

    return batch


def _timed(func: Callable[..., Any]) -> Callable[..., Any]:
    """Time a function of any of the four kinds as the phase ``predict``, and keep what it raises."""
    if inspect.isasyncgenfunction(func):
        return _timed_async_generator(func)
    if inspect.isgeneratorfunction(func):
        return _timed_generator(func)
    if inspect.iscoroutinefunction(func):
        return _timed_coroutine(func)

    @functools.wraps(func)
    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        current = observation.get()
        started = current.enter() if current is not None else None
        if current is None or started is None:
            return func(self, *args, **kwargs)
        try:
            result = func(self, *args, **kwargs)
        except BaseException as error:
            _finish(current, started)
            current.fail(error)
            current.finish(None, error)
            raise
        _finish(current, started)
        current.finish(result, None)
        if current.ender is not None:
            current.ender.returned(current, result)
        return result

    return timed


def _timed_coroutine(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    async def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        current = observation.get()
        started = current.enter() if current is not None else None
        if current is None or started is None:
            return await func(self, *args, **kwargs)
        try:
            result = await func(self, *args, **kwargs)
        except BaseException as error:
            _finish(current, started)
            current.fail(error)
            raise
        _finish(current, started)
        if current.ender is not None:
            current.ender.returned(current, result)
        return result

    return timed


def _timed_generator(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def timed(self: Any, *args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        current = observation.get()
        try:
            returned = yield from func(self, *args, **kwargs)
        except GeneratorExit:
            _stream_over(current, asyncio.CancelledError())
            raise
        except BaseException as error:
            if current is not None:
                current.fail(error)
            raise
        _stream_over(current, None)
        return returned

    return timed


def _timed_async_generator(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    async def timed(self: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        current = observation.get()
        try:
            async for item in func(self, *args, **kwargs):
                yield item
        except GeneratorExit:
            _stream_over(current, asyncio.CancelledError())
            raise
        except BaseException as error:
            if current is not None:
                current.fail(error)
            raise
        _stream_over(current, None)

    return cast("Callable[..., Any]", timed)


def _stream_over(current: Observation | None, ending: BaseException | None) -> None:
    # A layer sees the stream's last byte itself.
    if current is not None and current.ender is not None:
        current.ender.ended(current, ending)


def _finish(current: Observation, started: float) -> None:
    # A base service times its phases itself; what is left of the function is then not a phase of its own.
    if "predict" not in current.phases:
        current.phases["predict"] = time.perf_counter() - started
