"""The table of settings. Each has a type, a default, bounds and its documentation, and nothing else has."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

MIB = 1024 * 1024


class Settings(BaseSettings):
    """Everything that can be set.

    Each setting is taken from the first of: an argument (``@e2i_serving.service(observability={...})``),
    the environment (``E2I_SERVING_`` and the name in capitals), ``observability.yaml``, its default.
    """

    model_config = SettingsConfigDict(
        env_prefix="E2I_SERVING_",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        validate_default=False,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # likewise
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # likewise
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed in: ``load_settings`` reads the sources itself, to say where each value came from."""
        return (init_settings,)

    data_dir: Path | None = Field(
        None,
        description="Where the journal, the metrics, the relay's ledger and the default audit store live. A local "
        "disk. Unset: `$BENTOML_HOME/e2i/<service>/<instance>`. Containers must set it.",
    )
    instance: str = Field(
        "",
        max_length=64,
        pattern=r"^[A-Za-z0-9._-]*$",
        description="Name of this instance, by which two of them on one disk keep apart. Unset: the host's name.",
    )
    environment: str = Field("", max_length=64, description="Deployment environment, such as `production`.")
    namespace: str = Field("", max_length=128, description="Deployment namespace, a Kubernetes one for instance.")
    pod: str = Field("", max_length=256, description="Name of the pod or machine. Unset: the host's name.")
    revision: str = Field("", max_length=128, description="Revision of the deployment, a commit or a release.")
    arm: str = Field("", max_length=64, description="Arm of a canary or an experiment that this deployment is.")

    audit_enabled: bool = Field(True, description="Journal every prediction and start the relay that stores it.")
    audit_url: str = Field(
        "",
        description="The audit store, as an SQLAlchemy URL. Unset: SQLite in `audit.db` in the data directory.",
    )
    audit_required: bool = Field(
        False,
        description="Answer 503 with Retry-After rather than serve a prediction that can't be journaled.",
    )
    durability: Literal["process", "power-loss"] = Field(
        "process",
        description="What an accepted prediction survives: `process`, the kill of any or all processes; "
        "`power-loss`, also the machine's, at the price of an fdatasync before each answer.",
    )
    segment_bytes: int = Field(
        16 * MIB, ge=MIB, le=1024 * MIB, description="Size to which a journal segment is preallocated, in bytes."
    )
    record_bytes: int = Field(
        4 * MIB,
        ge=4096,
        le=64 * MIB,
        description="Largest journal record, in bytes; a larger one keeps its ids, outcome and sizes, not its payload.",
    )
    allow_network_data_dir: bool = Field(
        False,
        description="Accept a data directory on a network file system, where locks and durability may not hold.",
    )
    labels: tuple[str, ...] = Field(
        (),
        max_length=16,
        description="Names of the business labels that requests may carry, such as `brand`. Adds to the service's own.",
    )

    metrics_enabled: bool = Field(True, description="Count and time predictions, and show them at `/metrics`.")
    access_log_enabled: bool = Field(True, description="Write one JSON line a request to standard output.")
    replace_middlewares: bool = Field(
        True,
        description="Let one layer do the work of BentoML's access log, metrics and (when its tracing is off) "
        "OpenTelemetry middlewares. Off: ours is added and theirs stay.",
    )
    gc_freeze: bool = Field(
        True, description="Freeze the heap after start-up, so that the garbage collector leaves loaded models alone."
    )

    relay_enabled: bool = Field(
        True, description="Workers start the relay process when none runs. Off: run `e2i-serving relay` beside them."
    )
    relay_poll_seconds: float = Field(
        0.2, ge=0.01, le=60, description="How long the relay waits for new records before it looks again, in seconds."
    )
    relay_batch_size: int = Field(
        1000, ge=1, le=100_000, description="Most journal entries the relay hands to a store in one transaction."
    )
    relay_linger_seconds: float = Field(
        5.0,
        ge=0,
        le=3600,
        description="How long a relay started by a worker stays after the last worker is gone, in seconds.",
    )
    relay_shutdown_seconds: float = Field(
        30.0, ge=0, le=3600, description="Longest the relay goes on delivering after it was told to stop, in seconds."
    )
