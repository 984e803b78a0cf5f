"""The demo's client: what it asks, and what it is answered."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import httpx
from servers import Demo, Server

SUBJECTS = {"breast_cancer": "patient", "diabetes": "patient", "uplift": "customer"}
CONNECTIONS = 4


@dataclass(frozen=True)
class Request:
    """A request to send.

    Attributes:
        model: Which example is asked.
        body: The body, as it is sent.
        rows: How many predictions it asks for.
        status: The status that is due.
        request_id: What it sends as its X-Request-ID.
    """

    model: str
    body: bytes
    rows: int
    status: int
    request_id: str


@dataclass(frozen=True)
class Answer:
    """What became of a request: its status, the id it stands on record under, and the seconds it took."""

    request: Request
    status: int
    prediction_id: str
    seconds: float


def plan(model: str, held_out: Path, size: int) -> list[Request]:
    """Requests for a model: mostly one row, some several, and among them the mistakes that callers make."""
    chance = random.Random(model)
    known = json.loads(held_out.read_text(encoding="utf-8"))["instances"]
    requests: list[Request] = []
    for number in range(size):
        rows = [list(row) for row in chance.sample(known, chance.randint(2, 8) if number % 5 == 1 else 1)]
        mistake = {9: "width", 19: "string", 29: "json"}.get(number % 30)
        if mistake == "width":
            rows[0].pop()
        elif mistake == "string":
            rows[0][0] = "n/a"
        subject = SUBJECTS[model]
        labels = {
            "brand": chance.choice(["alpha", "beta"]),
            "region": chance.choice(["north", "south", "west"]),
            "segment": chance.choice(["new", "loyal"]),
        }
        entities = [{subject: f"{subject}-{chance.randint(1, 40):03d}"} for _ in rows]
        body = json.dumps({"instances": rows, "entities": entities, "labels": labels})
        if mistake == "json":
            body = body[:-20]
        status = httpx.codes.BAD_REQUEST if mistake else httpx.codes.OK
        requests.append(Request(model, body.encode(), len(rows), status, f"demo-{model}-{number:04d}"))
    return requests


def send(server: Server, requests: Sequence[Request], answered: Callable[[], object]) -> list[Answer]:
    """Send requests one after the other over one connection."""
    answers: list[Answer] = []
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for request in requests:
            headers = {
                "content-type": "application/json",
                "x-request-id": request.request_id,
                "traceparent": f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-01",
            }
            began = time.perf_counter()
            response = client.post("/predict", content=request.body, headers=headers)
            seconds = time.perf_counter() - began
            answers.append(Answer(request, response.status_code, response.headers.get("x-prediction-id", ""), seconds))
            answered()
    return answers


def send_all(demo: Demo, total: int, show: Callable[[str], None]) -> list[Answer]:
    """Send a share of the requests to every server, over several connections each, all at once."""
    numbers = count(1)
    servers = demo.servers
    with ThreadPoolExecutor(len(servers) * CONNECTIONS) as pool:
        futures = []
        for at, server in enumerate(servers):
            size = total // len(servers) + (at < total % len(servers))
            share = plan(server.name, demo.held_out(server.name), size)
            futures += [
                pool.submit(send, server, share[first::CONNECTIONS], lambda: show(f"{next(numbers)} of {total}"))
                for first in range(CONNECTIONS)
            ]
        return [answer for future in futures for answer in future.result()]
