"""Which values a label may take: the first so many that any worker of an instance met, and no others, for good."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

FILE_NAME = "admitted"
VALUE_LENGTH = 128

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, str]).decode


def clean_value(value: str) -> str:
    """A label's value, bounded, without control characters."""
    return _CONTROL.sub("", value[:VALUE_LENGTH])


class Admissions:
    """Admits values up to a bound, alike in all workers that share a file.

    The file is a log to which a worker adds each value that is new to it, with one small write, as long as it knows
    of room; what counts is the order in the file, so that workers need no lock to agree. Once the bound is reached,
    a value that was not admitted costs a look into a dictionary.

    Called on the event loop: a new value costs a write and a read of some bytes.

    Args:
        folder: ``<data>/metrics``.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._fd = -1
        self._read_to = 0
        self._rest = b""
        self._admitted: dict[str, dict[str, int]] = {}

    def admits(self, kind: str, value: str, bound: int) -> bool:
        """Whether a value may be shown.

        Args:
            kind: What it is a value of.
            value: The value, cleaned.
            bound: How many values of this kind there may be.

        Returns:
            False for a value beyond the bound, and for a new one that can't be noted, on a full disk for instance.
        """
        known = self._admitted.get(kind)
        if known is not None:
            place = known.get(value)
            if place is not None:
                return place < bound
            if len(known) >= bound:
                return False
        try:
            return self._note(kind, value, bound)
        except OSError:
            return False

    def close(self) -> None:
        """Give back the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _note(self, kind: str, value: str, bound: int) -> bool:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._catch_up()
        known = self._admitted.setdefault(kind, {})
        if value not in known and len(known) < bound:
            os.write(self._fd, _encode((kind, value)) + b"\n")
            self._catch_up()
        # Others may have come first.
        return known.get(value, bound) < bound

    def _catch_up(self) -> None:
        while block := os.pread(self._fd, 65536, self._read_to):
            self._read_to += len(block)
            *lines, self._rest = (self._rest + block).split(b"\n")
            for line in lines:
                try:
                    kind, value = _decode(line)
                except msgspec.DecodeError:  # of a write that a full disk cut
                    continue
                known = self._admitted.setdefault(kind, {})
                known.setdefault(value, len(known))
