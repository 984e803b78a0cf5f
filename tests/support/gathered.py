"""What a request to a service's steps is answered, and what is gathered about it, without a server."""

from __future__ import annotations

import json
from typing import Any

from e2i_serving.propagation import ContextExtractor
from e2i_serving.record import Entry, Life, ModelInfo, column_values
from e2i_serving.relay.explode import explode
from e2i_serving.runtime.observation import Endpoint, Observation, observation
from e2i_serving.services import PredictionService
from e2i_serving.services.requests import decode
from e2i_serving.services.responses import encode


class Seen:
    """What one request was answered and what was gathered about it."""

    def __init__(self, service: PredictionService, **body: Any) -> None:
        context = ContextExtractor().extract([])
        self.gathered = Observation(Endpoint("predict", "/predict"), context, "POST")
        token = observation.set(self.gathered)
        try:
            decoder = type(service).predict.input_spec.body_decoder
            answer = type(service).predict.func(service, decode(json.dumps(body).encode(), decoder))
        finally:
            observation.reset(token)
        self.answer = json.loads(encode(answer))
        self.gathered.status = 200

    @property
    def outputs(self) -> dict[str, list[Any]]:
        """The outputs on record, one value an item."""
        return {name: column_values(column, self.gathered.items) for name, column in self.gathered.outputs.items()}

    @property
    def inputs(self) -> dict[str, list[Any]]:
        """The inputs on record, one value an item."""
        return {name: column_values(column, self.gathered.items) for name, column in self.gathered.inputs.items()}

    def rows(self, model: ModelInfo) -> Any:
        """What a store would keep of it."""
        record = self.gathered.record(model)
        return explode([Entry(Life("life-1", "credit", 1, 1, model=model), 1, record)])


def started(cls: type[PredictionService]) -> Any:
    """An instance with its model loaded."""
    service = cls()
    service.e2i_load()
    return service
