"""A service that calls another, and does in each kind of method what a request asks for."""

import asyncio
import logging
import threading
import time

import bentoml
from opentelemetry import trace

import e2i_serving

log = logging.getLogger("onward")
tracer = trace.get_tracer("onward")

SLOW_SECONDS = 1.8


def act(do: str) -> str:
    """Log a line in a span of the service's own, then succeed or fail as told."""
    with tracer.start_as_current_span("look up"):
        log.info("working")
    match do:
        case "invalid":
            raise bentoml.exceptions.InvalidArgument("no such patient")
        case "fail":
            raise RuntimeError("the model broke")
        case "sleep":
            time.sleep(SLOW_SECONDS)
    return do


@e2i_serving.service(workers=1, threads=16, traffic={"timeout": 10})
class Child:
    """Is called by the other."""

    @bentoml.api
    def below(self, do: str) -> str:
        """Do what is told."""
        return act(do)


@e2i_serving.service(workers=1, threads=32, traffic={"timeout": 1}, observability={"labels": ["brand"]})
class Onward:
    """Has a method of each kind."""

    child = bentoml.depends(Child)

    @bentoml.api
    def sync(self, do: str) -> str:
        """In BentoML's thread."""
        e2i_serving.annotate(labels={"brand": "alpha"})
        return act(do)

    @bentoml.api
    async def coroutine(self, do: str) -> str:
        """On the event loop."""
        if do == "sleep":
            act("")
            await asyncio.sleep(SLOW_SECONDS)
        return act(do)

    @bentoml.api
    def thread(self, do: str) -> str:
        """In a thread that the method starts."""
        raised: list[Exception] = []

        def run() -> None:
            try:
                act(do)
            except Exception as error:  # noqa: BLE001  # raised again by who waits
                raised.append(error)

        started = threading.Thread(target=run)
        started.start()
        started.join()
        if raised:
            raise raised[0]
        return do

    @bentoml.api(batchable=True, max_batch_size=2, max_latency_ms=60_000)
    def batched(self, do: list[str]) -> list[str]:
        """In a batch."""
        return [act(each) for each in do]

    @bentoml.api
    def nested(self, do: str) -> str:
        """By the other service."""
        e2i_serving.annotate(labels={"brand": "alpha"})
        return self.child.below(do=do)
