"""Every error the package raises on purpose.

```
E2IServingError
├── ConfigurationError      a setting, an argument or a file is wrong; raised at start-up
│   └── StartupRefused      one or more start-up checks failed
├── ServiceDefinitionError  a service class is written in a way BentoML would accept and break
├── JournalError            the journal can't be opened, or a segment can't be read
│   ├── FrameError          a frame is torn or corrupt
│   │   └── NewerFrameError a frame was written by a newer release, whose relay must deliver it
│   └── JournalFull         the journal takes all the disk it may
│       └── FailureQuotaFull  the records of requests that failed take all of it that they may
├── StoreError              an audit store refused a write or a query
│   └── RefusedError        it refused for good: handed over again, it would refuse again
├── FeatureError            features can't be had: of an unknown entity, too old, too late, or from a store that is down
├── EncryptionError         what is encrypted can't be read: its key is missing, or it was altered
├── EvidenceError           a signing key or a checkpoint can't be read or written
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


class JournalFull(JournalError):
    """The journal takes all the disk it may."""


class FailureQuotaFull(JournalFull):
    """The records of requests that failed take all the disk that they may."""


class StoreError(E2IServingError):
    """An audit store refused a write or a query, or a destination could not take what it was handed.

    Args:
        message: What was wrong.
        retry_after: Seconds for which the destination asked to be left alone; 0 when it said nothing.
    """

    def __init__(self, message: str = "", *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RefusedError(StoreError):
    """A destination refused what it was handed for good: it would refuse it again."""


class FeatureError(E2IServingError):
    """Features can't be had.

    Args:
        message: What is wrong; may be shown to a caller.
        kind: Its normalised type: ``missing``, ``null`` or ``stale`` for what a policy refuses, else ``timeout``,
            ``overloaded``, ``invalid`` (the entities or the request's data don't fit) or ``unavailable``.
        features: The features that are needed and can't be had, each as ``view:feature``.
    """

    def __init__(self, message: str, kind: str, features: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.kind = kind
        self.features = features


class EncryptionError(E2IServingError):
    """What is encrypted can't be read: its key is missing, or it was altered."""


class EvidenceError(E2IServingError):
    """A signing key or a checkpoint can't be read or written."""


class QueryError(E2IServingError, ValueError):
    """A query asks for something that can't be answered."""
