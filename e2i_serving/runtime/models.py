"""Which model exactly a service serves."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from bentoml import Model as StoredModel
from bentoml.exceptions import BentoMLException, NotFound
from bentoml.models import BentoModel

from e2i_serving.record import ModelInfo
from e2i_serving.runtime.plain import plain

ATTRIBUTE = "__e2i_serving_model__"
"""Attribute of a service instance that holds the info of the model it loaded itself."""

LINEAGE = ("mlflow_run_id", "training_data", "feature_service")
"""Keys of a model's metadata that say where it came from."""

_READ_BYTES = 1024 * 1024


class ServedModel(BentoModel):
    """A reference to a model of the BentoML store that says what to do when it is not there."""

    def resolve(self, *args: Any, **options: Any) -> Any:
        """The stored model.

        Raises:
            bentoml.exceptions.NotFound: It is not in the store.
        """
        try:
            return super().resolve(*args, **options)
        except BentoMLException as error:
            raise NotFound(missing_model(self.tag)) from error


def missing_model(tag: object) -> str:
    """What to say of a model that is not in the store."""
    return (
        f"The model {tag} is not in the BentoML store. "
        "Train and save it, or correct the tag; `bentoml models list` shows what is there."
    )


def model_info_of(instance: Any, service: Any) -> ModelInfo:
    """The model of a service: what the instance says it loaded, else the only one the service declares."""
    known = getattr(instance, ATTRIBUTE, None)
    if isinstance(known, ModelInfo):
        return known
    if len(service.models) == 1:
        stored = service.models[0].resolve()
        if isinstance(stored, StoredModel):
            return describe_model(stored)
    return ModelInfo()


def describe_model(
    stored: StoredModel,
    *,
    task: str = "",
    feature_names: tuple[str, ...] = (),
    classes: tuple[str, ...] = (),
) -> ModelInfo:
    """What identifies a model in the BentoML store.

    Args:
        stored: The model.
        task: What it does.
        feature_names: Names of its features, in order.
        classes: Its classes, in the order of the probability columns.
    """
    metadata: dict[str, Any] = plain(dict(stored.info.metadata))
    return ModelInfo(
        name=stored.tag.name,
        version=stored.tag.version or "",
        digest=files_digest(Path(stored.path)),
        task=task,
        framework=stored.info.module,
        feature_names=feature_names,
        classes=classes,
        metadata=metadata,
        lineage={name: str(metadata[name]) for name in LINEAGE if metadata.get(name)},
    )


def files_digest(folder: Path) -> str:
    """SHA-256, in hex, over the relative names and the bytes of all files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + b"\0")
        digest.update(path.stat().st_size.to_bytes(8, "little"))
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    return digest.hexdigest()
