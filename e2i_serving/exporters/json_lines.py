"""The exporter to a file, or to standard output: one line of JSON an entry."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from e2i_serving.exceptions import StoreError
from e2i_serving.exporters.documents import as_json, document
from e2i_serving.record import Entry

JSON_LINES: Final = "jsonl"
"""Name of the destination."""
STANDARD_OUTPUT: Final = "-"


class JsonLinesExporter:
    """Appends entries to a file, on the disk before it returns.

    The file may be renamed or removed at any time: the next batch opens it anew. A line that was written in part,
    because the machine stopped or the disk was full, is ended before the next one.

    Args:
        path: The file; ``-`` for standard output.
    """

    name = JSON_LINES

    def __init__(self, path: str) -> None:
        self._path = None if path == STANDARD_OUTPUT else Path(path).expanduser()
        self._is_open = True

    def export(self, entries: Sequence[Entry]) -> None:
        """Append entries; see ``Exporter.export``."""
        if not self._is_open:
            raise StoreError("The exporter of JSON lines was shut down.")
        lines = b"".join(as_json(document(entry)) + b"\n" for entry in entries)
        try:
            if self._path is None:
                _check_output()
                _write(1, lines)
            else:
                self._append(self._path, lines)
        except OSError as error:
            raise StoreError(f"{self._path or 'Standard output'} can't be written to: {error.strerror}.") from error

    def check(self) -> None:
        """See whether the file can be appended to, or made."""
        try:
            if self._path is None:
                _check_output()
                return
            _check_file(self._path)
        except OSError as error:
            raise StoreError(
                f"{self._path or 'Standard output'} can't be written to: {error.strerror}. Set jsonl_path to a file "
                "that the relay may write to."
            ) from error

    def force_flush(self, timeout_seconds: float) -> bool:  # noqa: ARG002  # as the Protocol has it
        """Nothing is held back."""
        return True

    def shutdown(self) -> None:
        """Take nothing more."""
        self._is_open = False

    def _append(self, path: Path, lines: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = _open(path)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                _write(fd, lines)
                return
            size = os.fstat(fd).st_size
            torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            try:
                _write(fd, b"\n" + lines if torn else lines)
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, size)
                raise
        finally:
            os.close(fd)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _check_file(path: Path) -> None:
    if path.exists():
        os.close(_open(path))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _check_output() -> None:
    # A relay that a command starts for a moment has nowhere to print to; what it has waits for the next one.
    found, nowhere = os.fstat(1), Path(os.devnull).stat()
    if stat.S_ISCHR(found.st_mode) and found.st_rdev == nowhere.st_rdev:
        raise StoreError("Standard output leads nowhere. Run `e2i-serving relay` where it is read.")
