"""Every error the package raises on purpose.

```
E2IServingError
├── ConfigurationError      a setting, an argument or a file is wrong; raised at start-up
│   └── StartupRefused      one or more start-up checks failed
├── ServiceDefinitionError  a service class is written in a way BentoML would accept and break
├── JournalError            the journal can't be opened, or a segment can't be read
│   └── FrameError          a frame is torn or corrupt
│       └── NewerFrameError a frame was written by a newer release, whose relay must deliver it
├── StoreError              an audit store refused a write or a query
└── QueryError              a query asks for something that can't be answered
```
"""

from __future__ import annotations


class E2IServingError(Exception):
    """Base of all errors of this package."""


class ConfigurationError(E2IServingError):
    """A setting, an argument or a configuration file is wrong."""


class StartupRefused(ConfigurationError):
    """One or more start-up checks failed, so no worker may start."""


class ServiceDefinitionError(E2IServingError, TypeError):
    """A service class is written in a way that would silently misbehave when served."""


class JournalError(E2IServingError):
    """The journal can't be opened, written or read."""


class FrameError(JournalError):
    """A journal frame is torn or corrupt."""


class NewerFrameError(FrameError):
    """A journal frame was written by a newer release, whose relay must deliver it."""


class StoreError(E2IServingError):
    """An audit store refused a write or a query."""


class QueryError(E2IServingError, ValueError):
    """A query asks for something that can't be answered."""
