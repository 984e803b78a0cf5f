"""Batch scoring: a file of rows goes through the same audited path as requests, in this process and without a port."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from bentoml import Model as StoredModel
from bentoml.exceptions import BentoMLException

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.runtime.app import ObservedAppFactory
from e2i_serving.runtime.bento import ObservedService
from e2i_serving.services.tabular import Table, read_chunks, refuse_format, write_table

ENDPOINT: Final = "/predict"
_EXACT: Final = 2**53
"""From here on, several integers are the same floating-point number."""

_STATE: Final = ("size", "modified_ns")
_COMPARED: Final = {
    ("service",): "service",
    ("source",): "file",
    _STATE: "state of the file",
    ("chunk",): "chunk size",
    ("entities",): "choice of entity keys",
    ("models",): "model",
}
"""What makes a run another one, and how it is called."""

_encoder: Final = msgspec.json.Encoder(enc_hook=str)


class _Manifest(msgspec.Struct, frozen=True):
    """What a run scores, so that only the same run is gone on with."""

    run: str
    service: str
    source: str
    size: int
    modified_ns: int
    chunk: int
    entities: tuple[str, ...]
    models: tuple[str, ...]

    def other(self, wanted: _Manifest) -> str:
        """In what another run would differ, in words; empty when it would score the same."""
        for names, what in _COMPARED.items():
            before, now = ([getattr(each, name) for name in names] for each in (self, wanted))
            if before != now:
                said = "" if names == _STATE else f" ({_words(before)}, and not {_words(now)})"
                return f"another {what}{said}"
        return ""


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of a run.

    Attributes:
        run: Its id, which stands in the ``attributes`` of its records, under ``scoring``.
        rows: How many rows were scored in all.
        resumed: How many of them an earlier, interrupted run had scored.
    """

    run: str
    rows: int
    resumed: int


def score(
    service: Any,
    source: Path,
    target: Path,
    *,
    entities: Sequence[str] = (),
    chunk: int = 500,
    progress: Callable[[int], None] | None = None,
) -> Scored:
    """Score the rows of a file, and write the answers to another.

    Each chunk is one request on record. Chunks that were answered are kept beside the output until all are, so that a
    run that was interrupted goes on where it was; the chunk it was in may be on record twice. It does not go on with
    another model, nor with a file that was changed.

    Args:
        service: A service made by ``@e2i_serving.service``.
        source: The rows: features by name, and entity keys.
        target: Where the answers go, one a row, in the same order.
        entities: Which columns are entity keys.
        chunk: Rows a request.
        progress: Called after each chunk with its number of rows.

    Raises:
        ConfigurationError: The service, a file or a row is wrong, or another run was interrupted here.
    """
    if not isinstance(service, ObservedService):
        raise ConfigurationError("Only services made by @e2i_serving.service can score.")
    for path in (source, target):
        refuse_format(path)
    if not source.is_file():
        raise ConfigurationError(f"There is no file {source}.")
    about = source.stat()
    wanted = _Manifest(
        uuid.uuid4().hex,
        service.name,
        str(source.absolute()),
        about.st_size,
        about.st_mtime_ns,
        chunk,
        tuple(entities),
        _models_of(service),
    )
    parts = target.with_name(f"{target.name}.parts")
    manifest = _begin(parts, wanted)
    rows, resumed = asyncio.run(_score(service, source, parts, manifest, progress))
    write_table(target, _joined(parts))
    shutil.rmtree(parts)
    return Scored(manifest.run, rows, resumed)


def _models_of(service: ObservedService) -> tuple[str, ...]:
    try:
        found = [model.resolve() for model in service.models]
    except BentoMLException as error:
        raise ConfigurationError(str(error)) from error
    # Others than BentoML's store say where they put the model, its revision included.
    return tuple(sorted(str(each.tag if isinstance(each, StoredModel) else each) for each in found))


def _words(values: Sequence[Any]) -> str:
    (value,) = values
    return ", ".join(value) or "none" if isinstance(value, tuple) else str(value)


def _begin(parts: Path, wanted: _Manifest) -> _Manifest:
    file = parts / "manifest.json"
    if file.exists():
        known = msgspec.json.decode(file.read_bytes(), type=_Manifest)
        if other := known.other(wanted):
            raise ConfigurationError(
                f"{parts} holds an interrupted run with {other}. Finish that one as it began, or delete {parts} and "
                "score anew."
            )
        return known
    parts.mkdir(parents=True, exist_ok=True)
    draft = parts / ".manifest.json"
    draft.write_bytes(msgspec.json.encode(wanted))
    draft.replace(file)
    return wanted


async def _score(
    service: Any, source: Path, parts: Path, manifest: _Manifest, progress: Callable[[int], None] | None
) -> tuple[int, int]:
    scored = resumed = 0
    service.inject_config()
    app = ObservedAppFactory(service, is_main=True)()
    async with AsyncExitStack() as exits:
        await exits.enter_async_context(app.router.lifespan_context(app))
        client = await exits.enter_async_context(
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service", timeout=None)  # noqa: S113  # a chunk takes as long as it takes
        )
        for number, rows in enumerate(read_chunks(source, manifest.chunk, manifest.entities)):
            part = parts / f"{number:08}.jsonl"
            if part.exists():
                resumed += len(rows)
            else:
                answer = await _answered(client, rows, number, manifest, parts)
                await asyncio.to_thread(write_table, part, _spread(answer, len(rows)))
            scored += len(rows)
            if progress is not None:
                progress(len(rows))
    return scored, resumed


async def _answered(
    client: httpx.AsyncClient, rows: Table, number: int, manifest: _Manifest, parts: Path
) -> dict[str, Any]:
    keys = manifest.entities
    if absent := [key for key in keys if key not in rows[0]]:
        raise ConfigurationError(f"{manifest.source} has no column {absent[0]!r} of an entity.")
    first = number * manifest.chunk
    said = f"Rows {first} to {first + len(rows) - 1}"
    body: dict[str, Any] = {
        "instances": [{name: value for name, value in row.items() if name not in keys} for row in rows],
        "attributes": {"scoring": {"run": manifest.run, "chunk": number}},
    }
    if keys:
        body["entities"] = [{key: _key(key, row[key], said) for key in keys} for row in rows]
    headers = {"content-type": "application/json", "x-request-id": f"{manifest.run}-{number}"}
    reply = await client.post(ENDPOINT, content=_encoder.encode(body), headers=headers)
    if reply.status_code != httpx.codes.OK:
        raise ConfigurationError(
            f"{said} were answered {reply.status_code}: {reply.text[:500]} "
            "If the service is at fault, mend it and run this again: it goes on with these rows. If they are, correct "
            f"the file, delete {parts} and run it again: it begins anew."
        )
    answer: dict[str, Any] = reply.json()
    return answer


def _key(name: str, value: Any, said: str) -> Any:
    if not isinstance(value, float) or not value.is_integer():
        return value
    if abs(value) >= _EXACT:
        raise ConfigurationError(
            f"{said}: the column {name!r} holds {value:.0f} as a floating-point number, which may have been another id "
            "before it was rounded. Make the column one of integers or of text."
        )
    return int(value)


def _spread(answer: dict[str, Any], items: int) -> Iterator[dict[str, Any]]:
    """An answer as one row an item: what has a value an item, beside the ids."""
    each = {
        name: value
        for name, value in answer.items()
        if isinstance(value, list) and len(value) == items and name != "classes"
    }
    ids = {name: answer.get(name) for name in ("prediction_id", "model_name", "model_version")}
    for at in range(items):
        yield {**ids, "item_index": at, **{name: values[at] for name, values in each.items()}}


def _joined(parts: Path) -> Iterator[dict[str, Any]]:
    for part in sorted(parts.glob("*.jsonl")):
        for chunk in read_chunks(part, 10_000):
            yield from chunk
