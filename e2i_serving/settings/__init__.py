"""Settings: one declared table, and the only reader of the environment."""

from e2i_serving.settings.declared import RedactionRule, Settings
from e2i_serving.settings.kept import KEPT_NAME, keep_settings, kept_settings
from e2i_serving.settings.loading import (
    CONFIG_FILE_NAME,
    Origin,
    ResolvedSettings,
    data_dir_of,
    default_data_dirs,
    environment_of,
    instance_name,
    load_settings,
    readers_dir,
)
from e2i_serving.settings.standards import (
    OPIK_CLOUD,
    LogsVariables,
    MetricsVariables,
    OpikVariables,
    TracingVariables,
    logs_variables,
    metrics_variables,
    opik_variables,
    sentry_variable,
    tracing_variables,
    with_signal_variables,
)

__all__ = [
    "CONFIG_FILE_NAME",
    "KEPT_NAME",
    "OPIK_CLOUD",
    "LogsVariables",
    "MetricsVariables",
    "OpikVariables",
    "Origin",
    "RedactionRule",
    "ResolvedSettings",
    "Settings",
    "TracingVariables",
    "data_dir_of",
    "default_data_dirs",
    "environment_of",
    "instance_name",
    "keep_settings",
    "kept_settings",
    "load_settings",
    "logs_variables",
    "metrics_variables",
    "opik_variables",
    "readers_dir",
    "sentry_variable",
    "tracing_variables",
    "with_signal_variables",
]
