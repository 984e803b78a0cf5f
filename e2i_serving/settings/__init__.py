"""Settings: one declared table, and the only reader of the environment."""

from e2i_serving.settings.declared import Settings
from e2i_serving.settings.loading import (
    CONFIG_FILE_NAME,
    Origin,
    ResolvedSettings,
    data_dir_of,
    default_data_dirs,
    environment_of,
    instance_name,
    load_settings,
)

__all__ = [
    "CONFIG_FILE_NAME",
    "Origin",
    "ResolvedSettings",
    "Settings",
    "data_dir_of",
    "default_data_dirs",
    "environment_of",
    "instance_name",
    "load_settings",
]
