"""Which records are journaled, when not all of them are."""

from __future__ import annotations

from hashlib import blake2b

from e2i_serving.settings import Settings

_BITS = 64
_SUCCESS = 2
"""The hundreds of an HTTP status that says so."""


def is_success(status: int) -> bool:
    """Whether an HTTP status is 2xx."""
    return status // 100 == _SUCCESS


class Sampler:
    """Keeps a fraction of all traces, each whole: every service that samples at a rate keeps the same ones.

    Args:
        settings: The rate, and what is kept whatever the rate.
        model: The model's name.
    """

    def __init__(self, settings: Settings, model: str) -> None:
        self._rate = 1.0 if model and model in settings.sampling_always else settings.sampling_rate
        self._always = frozenset(settings.sampling_always)
        self._errors = settings.sampling_errors

    def fraction(self, endpoint: str, status: int) -> float:
        """The fraction of such requests that are kept.

        Args:
            endpoint: The API method's name.
            status: The HTTP status of the answer.
        """
        rate = self._rate
        if rate < 1.0 and (endpoint in self._always or (self._errors and not is_success(status))):
            return 1.0
        return rate

    @staticmethod
    def keeps(trace_id: str, fraction: float) -> bool:
        """Whether a trace is among the fraction that is kept; one that is, is in every larger fraction too."""
        if fraction >= 1.0:
            return True
        place = int.from_bytes(blake2b(trace_id.encode(), digest_size=_BITS // 8).digest(), "big")
        return place < fraction * 2.0**_BITS
