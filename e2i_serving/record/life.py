"""A worker's life: all that is the same for every prediction it serves, written once a segment."""

from __future__ import annotations

from typing import Any

import msgspec


class Deployment(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a worker runs, so that rows from many replicas can be told apart."""

    environment: str = ""
    namespace: str = ""
    pod: str = ""
    revision: str = ""
    arm: str = ""


class ModelInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """The exact model that a worker serves.

    Attributes:
        name: The model's name in the BentoML store.
        version: Its version there.
        digest: SHA-256 over the names and bytes of the model's files, in hex.
        task: What it does: ``classification``, ``regression``, ``causal``, or empty.
        framework: The BentoML module that saved it, such as ``bentoml.sklearn``.
        feature_names: Names of the feature columns, in the model's order; empty when unknown.
        classes: The classes, in the order of the probability columns; empty for other tasks.
        metadata: The metadata saved with the model.
        lineage: Where it came from, as far as its metadata says: training run, training data, feature service.
    """

    name: str = ""
    version: str = ""
    digest: str = ""
    task: str = ""
    framework: str = ""
    feature_names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    lineage: dict[str, str] = {}

    @property
    def tag(self) -> str:
        """``name:version``, as BentoML writes it."""
        return f"{self.name}:{self.version}" if self.version else self.name


class Life(msgspec.Struct, frozen=True, omit_defaults=True):
    """One life of one worker process, from start to exit or kill.

    Attributes:
        life: A UUIDv7 in text form; the directory of this life's journal is named after it.
        service: The BentoML service's name.
        started_ns: Wall clock at start, nanoseconds since the epoch.
        pid: The worker's process id.
        release: This package's version.
        bento: The bento's name; the service's name when served from source.
        bento_version: The bento's version; empty when served from source.
        code_digest: SHA-256 over the source files that define the service, in hex.
        model: The model served, if the service has exactly one.
        deployment: Where it runs.
    """

    life: str
    service: str
    started_ns: int
    pid: int
    release: str = ""
    bento: str = ""
    bento_version: str = ""
    code_digest: str = ""
    model: ModelInfo = ModelInfo()
    deployment: Deployment = Deployment()
