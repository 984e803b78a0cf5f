"""The table of settings. Each has a type, a default, bounds and its documentation, and nothing else has."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

MIB = 1024 * 1024


class RedactionRule(BaseModel):
    """One thing that is taken out of records.

    Attributes:
        path: What it applies to, such as ``inputs.age``, ``attributes.patient.name`` or ``labels.*``.
        action: ``drop`` it, ``mask`` it with ``***``, ``hash`` it with the key, or ``round`` it.
        digits: Decimals that ``round`` keeps; negative for tens, hundreds, ...
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1, max_length=256)
    action: Literal["drop", "mask", "hash", "round"]
    digits: int = Field(0, ge=-12, le=12)


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
    segment_seconds: float = Field(
        3600, ge=1, le=7 * 86400, description="Longest a journal segment is written to before the next one, in seconds."
    )
    journal_bytes: int = Field(
        2048 * MIB,
        ge=4 * MIB,
        description="Most disk that an instance's undelivered records may take, in bytes; what happens then, "
        "`overflow` says.",
    )
    overflow: Literal["drop-oldest", "drop-newest", "refuse"] = Field(
        "drop-newest",
        description="What gives way when the journal is full: `drop-newest`, new records, counted as unjournaled; "
        "`drop-oldest`, the oldest undelivered ones, each run of them marked in the trail; `refuse`, the predictions, "
        "answered 503.",
    )
    dead_letter_bytes: int = Field(
        256 * MIB,
        ge=MIB,
        description="Most disk that the relay's ledger takes with what destinations refused for good, in bytes; what "
        "is refused beyond it is counted as dropped, and its payload is not kept.",
    )
    failure_bytes: int = Field(
        128 * MIB,
        ge=MIB,
        description="Most bytes of undelivered records of answers that are not 2xx that a worker keeps, so that "
        "refused requests can't crowd out predictions.",
    )
    payload_bytes: int = Field(
        MIB,
        ge=1024,
        le=64 * MIB,
        description="Largest record whose inputs and outputs go into the audit store, in bytes; those of a larger one "
        "go where `large_payloads` says.",
    )
    large_payloads: Literal["cut", "file"] = Field(
        "file",
        description="What becomes of a payload above `payload_bytes`: `file`, a file named by its digest in `payloads` "
        "in the data directory; `cut`, nothing but its size is kept.",
    )
    sampling_rate: float = Field(
        1.0, ge=0, le=1, description="Fraction of requests that are journaled; all of a trace's, or none."
    )
    sampling_always: tuple[str, ...] = Field(
        (), max_length=64, description="Names of models and endpoints whose requests are journaled whatever the rate."
    )
    sampling_errors: bool = Field(
        True, description="Journal every request that was not answered 2xx, whatever the rate."
    )
    redaction_rules: tuple[RedactionRule, ...] = Field(
        (),
        max_length=256,
        description="What is taken out of records before they are kept: a list of `path`, `action` (`drop`, `mask`, "
        "`hash`, `round`) and, for `round`, `digits`.",
    )
    redaction_allow: tuple[str, ...] = Field(
        (),
        max_length=1024,
        description="Paths of inputs, outputs, entities, attributes and labels that are kept; when any are given, the "
        "others are dropped.",
    )
    redaction_patterns: tuple[str, ...] = Field(
        (),
        max_length=64,
        description="What is masked in free text: `email`, `phone`, `iban`, `credit-card`, `ipv4`, or regular "
        "expressions.",
    )
    redaction_key: SecretStr = Field(
        SecretStr(""), description="Secret of the keyed hash that `hash` rules write, at least 16 characters."
    )
    redaction_destinations: dict[str, tuple[RedactionRule, ...]] = Field(
        {}, description="Further rules by destination, such as `audit-store`."
    )
    encryption_key_file: Path | None = Field(
        None,
        description="File of keys with which journal segments, dead letters and payload files are encrypted; one a "
        "line, `<number> <base64 of 32 bytes>`, the first one writes. Unset: they are not encrypted.",
    )
    signing_key_file: Path | None = Field(
        None,
        description="File of the Ed25519 key (PEM) that signs checkpoints. Unset: `signing.key` in the data directory, "
        "made when it is not there.",
    )
    checkpoint_dir: Path | None = Field(
        None,
        description="Where signed checkpoints are written, best a disk that the store's administrators can't write to. "
        "Unset: `checkpoints` in the data directory.",
    )
    checkpoint_seconds: float = Field(
        60, ge=1, le=86400, description="Longest time between checkpoints while records are stored, in seconds."
    )
    checkpoint_records: int = Field(10_000, ge=1, description="Most records stored between checkpoints.")
    retention_class: str = Field(
        "standard", max_length=64, pattern=r"^[a-z0-9._-]+$", description="Retention class of answers that are 2xx."
    )
    failure_retention_class: str = Field(
        "failure", max_length=64, pattern=r"^[a-z0-9._-]+$", description="Retention class of all other answers."
    )
    retention: dict[str, str] = Field(
        {}, description="How long `audit purge` keeps each retention class, such as `{standard: 400d, failure: 90d}`."
    )
    record_accesses: bool = Field(
        True, description="Record who asked the trail what, from the command line and from Python."
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
    label_values: int = Field(
        100,
        ge=1,
        le=1000,
        description="Most values of a business label that metrics show, unless the service lists them; what is over "
        "counts as `__other__`, and stands in the audit record in full.",
    )
    label_series: int = Field(
        150, ge=1, le=10_000, description="Most combinations of business labels' values that metrics show; likewise."
    )

    metrics_enabled: bool = Field(True, description="Count and time predictions, and show them at `/metrics`.")
    access_log_enabled: bool = Field(True, description="Write one line a request to standard output.")
    access_log_sample_rate: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Fraction of answers that are 2xx or 3xx with a line in the access log, all of a trace's or none; "
        "the others always have one.",
    )
    log_format: Literal["auto", "json", "console", "off"] = Field(
        "auto",
        description="Form of a worker's and the relay's log lines: `json`, one object a line; `console`, for people; "
        "`auto`, `console` on a terminal, else `json`; `off`, as BentoML sets logging up.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level of log lines, where `log_format` is not `off`."
    )
    slow_request_seconds: float = Field(
        0, ge=0, description="Log a warning with the phases of each prediction that takes at least so long; 0: none."
    )
    log_exporter: Literal["none", "otlp-http"] = Field(
        "none",
        description="Where log lines are sent, besides being written; endpoint and headers by OpenTelemetry's own "
        "`OTEL_*` variables. Unset: what `OTEL_LOGS_EXPORTER` says. Needs the extra `otlp`.",
    )
    metrics_exporter: Literal["none", "otlp-grpc", "otlp-http"] = Field(
        "none",
        description="Where the relay sends metrics, besides what `/metrics` shows; endpoint, headers and interval by "
        "OpenTelemetry's own `OTEL_*` variables. Unset: what `OTEL_METRICS_EXPORTER` says. Needs the extra `otlp`.",
    )
    trace_exporter: Literal["none", "otlp-grpc", "otlp-http", "console"] = Field(
        "none",
        description="Where spans go; endpoint and headers by OpenTelemetry's own `OTEL_EXPORTER_OTLP_*` variables. "
        "Unset: what `OTEL_TRACES_EXPORTER` says. OTLP needs the extra `otlp`.",
    )
    trace_sample_rate: float = Field(
        0,
        ge=0,
        le=1,
        description="Fraction of traces that begin here and are sampled; in a caller's trace, the caller's choice "
        "holds. Unset: what `OTEL_TRACES_SAMPLER` says.",
    )
    instrument: tuple[Literal["httpx", "requests", "threads"], ...] = Field(
        (),
        max_length=3,
        description="What carries the ids onward by itself: calls by `httpx` and `requests`, and `threads` that the "
        "service starts. The calls' headers tell the ids and labels to whoever is called. Needs the extra `otlp`.",
    )
    sentry_dsn: SecretStr = Field(
        SecretStr(""),
        description="Where Sentry, or a server that speaks its protocol, takes errors; needs the extra `sentry`. "
        "Unset: what `SENTRY_DSN` says.",
    )
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

    opik_enabled: bool = Field(False, description="Send a trace of each prediction, and its outcomes, to Opik.")
    opik_url: str = Field(
        "",
        description="Where Opik's API is, such as `http://localhost:5173/api`. Unset: what `OPIK_URL_OVERRIDE` says, "
        "or Opik Cloud.",
    )
    opik_api_key: SecretStr = Field(SecretStr(""), description="Opik's API key. Unset: what `OPIK_API_KEY` says.")
    opik_workspace: str = Field(
        "", max_length=150, description="Opik's workspace. Unset: what `OPIK_WORKSPACE` says, or `default`."
    )
    opik_project: str = Field(
        "",
        max_length=150,
        description="Opik's project. Unset: what `OPIK_PROJECT_NAME` says, or the service's name.",
    )
    opik_trace_per: Literal["request", "item"] = Field(
        "request", description="What a trace in Opik is: a whole `request`, or each `item` of it."
    )
    opik_spans: bool = Field(
        False, description="Send a span for each phase as well; it about doubles what is sent and kept there."
    )
    opik_sampling_rate: float = Field(
        1.0, ge=0, le=1, description="Fraction of the journaled predictions that Opik gets, with their outcomes."
    )
    opik_sampling_errors: bool = Field(
        True, description="Send every prediction that did not end `ok` to Opik, whatever the rate."
    )
    opik_thread: str = Field(
        "",
        max_length=256,
        description="Name of the entity or the label whose value is the thread of a trace. Unset: traces have none.",
    )
    opik_payload_bytes: int = Field(
        MIB,
        ge=1024,
        le=16 * MIB,
        description="Largest record whose inputs and outputs Opik gets, in bytes; a larger one's trace says where they "
        "are instead.",
    )
    opik_timeout_seconds: float = Field(
        10.0, ge=0.1, le=300, description="Longest that a request to Opik may take, in seconds."
    )
    jsonl_path: str = Field(
        "",
        description="File to which every prediction and event is appended as a line of JSON; `-` is the relay's "
        "standard output. Unset: none.",
    )
    webhook_url: str = Field(
        "", description="Where every prediction and event is posted to, as a batch of CloudEvents. Unset: nowhere."
    )
    webhook_secret: SecretStr = Field(
        SecretStr(""),
        description="Secret that signs what the webhook posts (HMAC with SHA-256), at least 16 characters, or `whsec_` "
        "and at least 16 bytes in base64; a webhook needs one.",
    )
    webhook_timeout_seconds: float = Field(
        10.0, ge=0.1, le=300, description="Longest that a post of the webhook may take, in seconds."
    )
    otlp_logs_enabled: bool = Field(
        False,
        description="Send every prediction and event as a log record by OTLP over HTTP; headers by OpenTelemetry's own "
        "`OTEL_EXPORTER_OTLP_*` variables. Needs the extra `otlp`.",
    )
    otlp_logs_endpoint: str = Field(
        "",
        description="Where OTLP log records go, the whole URL. Unset: what `OTEL_EXPORTER_OTLP_LOGS_ENDPOINT` or "
        "`OTEL_EXPORTER_OTLP_ENDPOINT` says, or `http://localhost:4318/v1/logs`.",
    )
    otlp_logs_timeout_seconds: float = Field(
        10.0, ge=0.1, le=300, description="Longest that an export of log records may take, in seconds."
    )
