"""Services that do what an end-to-end test asks of them."""

import time
from collections.abc import AsyncGenerator

import bentoml
import numpy as np
import prometheus_client

import e2i_serving

OWN = prometheus_client.Counter("probe_own", "A metric of the service's own.")


class ProbeBase(e2i_serving.ClassificationService):
    """Serves the probe model; misbehaves as a request's attributes say."""

    model = "probe:latest"
    label_names = ("brand", "region")

    def features(self, request):
        """Misbehave, or give the instances."""
        OWN.inc()
        match request.attributes.get("do"):
            case "fail":
                raise RuntimeError("the model broke")
            case "raise":
                raise RuntimeError(f"no model for {request.attributes['what']}")
            case "missing":
                raise bentoml.exceptions.NotFound("no such patient")
            case "sleep":
                time.sleep(float(request.attributes["seconds"]))
        return super().features(request)

    @bentoml.api
    async def count(self, upto: int, fail_at: int = -1) -> AsyncGenerator[str, None]:
        """Count: a stream, which may break."""
        for number in range(upto):
            if number == fail_at:
                raise RuntimeError("the stream broke")
            yield f"{number}\n"


@e2i_serving.service(workers=2, threads=4, traffic={"timeout": 2, "max_concurrency": 64})
class Probe(ProbeBase):
    """The probe under our decorator, with API methods of its own beside predict."""

    @bentoml.api
    def total(self, x: np.ndarray) -> np.ndarray:
        """Sum each row: a method with BentoML's own types."""
        return x.sum(axis=1)

    @bentoml.api
    async def greet(self, name: str, times: int = 1) -> dict[str, str]:
        """Greet: an asynchronous method with plain types."""
        e2i_serving.annotate(labels={"brand": "greeting"}, politeness=times)
        return {"greeting": f"hello {name} " * times}

    @bentoml.task
    def tripled(self, x: float) -> float:
        """Triple: a task, which runs after its request was answered."""
        if x < 0:
            raise RuntimeError("below zero")
        return x * 3

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=500)
    def doubled(self, x: np.ndarray) -> np.ndarray:
        """Double: an adaptively batched method."""
        return x * 2


@e2i_serving.service(workers=1, threads=4, traffic={"max_concurrency": 2})
class Narrow(ProbeBase):
    """The probe, with room for two requests at a time."""


@bentoml.service(workers=2, traffic={"timeout": 2})
class PlainProbe(ProbeBase):
    """The probe under BentoML's own decorator."""
