"""The log of signed entries, kept apart from the store: JSON lines that are only ever appended.

Each line is one entry, and ends with its signature: an Ed25519 signature over the line without
``,"signature":"..."``. It names the SHA-256 of the line before, so that no line can be taken out or exchanged. A file
is named after the number of its first entry; a new one is begun when the last has grown large.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from e2i_serving.evidence.signing import PUBLIC_SUFFIX, SigningKey
from e2i_serving.exceptions import EvidenceError

SUFFIX: Final = ".jsonl"
FILE_BYTES: Final = 16 * 1024 * 1024
"""Size at which a new file is begun."""

_LOCK_NAME: Final = "lock"
_SIGNATURE: Final = b',"signature":"'


class Chain(msgspec.Struct, frozen=True, array_like=True):
    """How far a life's chain has come.

    Attributes:
        sequence: Sequence number of its last row.
        link: The link there, in hex.
        closed: Whether nothing follows.
    """

    sequence: int
    link: str
    closed: bool = False


class Removal(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What was taken out of the trail on purpose.

    Attributes:
        id: Its id, which rows name.
        action: ``purge`` or ``erase``.
        what: What it was about, in words; never whom.
        rows: How many rows of each table.
        gaps: For a purge: SHA-256 over the gaps that it left and the links on both sides, in hex.
        keys: For an erasure: what stands for each group of columns that was emptied.
    """

    id: str
    action: str
    what: str
    rows: dict[str, int] = {}
    gaps: str = ""
    keys: tuple[str, ...] = ()


class HoldNote(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A hold that was set or released.

    Attributes:
        id: The hold's id.
        action: ``hold`` or ``release``.
        digest: SHA-256 over what it covers, in hex.
    """

    id: str
    action: str
    digest: str


class LogEntry(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One entry of the log.

    Attributes:
        number: From 1, without a hole.
        time_ns: Wall clock, nanoseconds since the epoch.
        previous: SHA-256 of the line before, in hex; empty for the first.
        kind: ``begin``, ``checkpoint``, ``removal`` or ``hold``.
        key: Id of the key that signs it.
        by: The instance, or the person, that wrote it.
        life: For ``begin``: the life whose first row is about to be stored.
        chains: For ``checkpoint``: the open chains, and those that closed since the last one, by life.
        lives: For ``checkpoint``: how many chains this instance has ever known.
        root: For ``checkpoint``: a digest over all chains this instance has ever known.
        ended: For ``checkpoint``: a digest over those of them that are closed, in the order of their end.
        removal: For ``removal``: what was removed.
        hold: For ``hold``: the hold.
    """

    number: int
    time_ns: int
    previous: str
    kind: str
    key: str
    by: str = ""
    life: str = ""
    chains: dict[str, Chain] = {}
    lives: int = 0
    root: str = ""
    ended: str = ""
    removal: Removal | None = None
    hold: HoldNote | None = None


class Line(NamedTuple):
    """A line of the log as it was read.

    Attributes:
        file: The file it stands in.
        place: Its number in the file, from 1.
        content: The line without its end.
        entry: What it says; ``None`` when it can't be decoded.
        signed: The bytes that are signed.
        signature: Its signature, in hex.
    """

    file: Path
    place: int
    content: bytes
    entry: LogEntry | None
    signed: bytes
    signature: str

    @property
    def digest(self) -> str:
        """What the next line names."""
        return sha256(self.content).hexdigest()


_decoder: Final = msgspec.json.Decoder(LogEntry)


class EvidenceLog:
    """Appends signed entries. Several processes may share a folder.

    Args:
        folder: Where the log is kept; made with the first entry.
        key: Signs the entries; its public half is kept in the folder.
    """

    def __init__(self, folder: Path, key: SigningKey) -> None:
        self.folder = folder
        self._key = key
        self._seen: tuple[Path, int] | None = None
        self._number = 0
        self._previous = ""
        self._prepared = False

    def append(self, kind: str, *, by: str, **content: Any) -> LogEntry:
        """Append an entry; when this returns, it is on the disk.

        Args:
            kind: As in ``LogEntry``.
            by: Who writes it.
            content: The fields of that kind.

        Raises:
            EvidenceError: It can't be written.
        """
        try:
            self._prepare()
            with self._locked():
                return self._append(kind, by, content)
        except OSError as error:
            raise EvidenceError(
                f"Nothing can be written to the checkpoints in {self.folder}: {error}. Make it writable, or set "
                "checkpoint_dir to another."
            ) from error

    def _append(self, kind: str, by: str, content: dict[str, Any]) -> LogEntry:
        path, size = self._catch_up()
        entry = LogEntry(
            number=self._number + 1,
            time_ns=time.time_ns(),
            previous=self._previous,
            kind=kind,
            key=self._key.key_id,
            by=by,
            **content,
        )
        signed = msgspec.json.encode(entry)
        line = b"".join((signed[:-1], _SIGNATURE, self._key.sign(signed).encode(), b'"}'))
        is_new = path is None or size >= FILE_BYTES
        if path is None or is_new:
            path, size = self.folder / f"{entry.number:010d}{SUFFIX}", 0
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.ftruncate(fd, size)  # what a full disk or a crash took of a line was never told to anyone
            data = line + b"\n"
            if os.pwrite(fd, data, size) != len(data):
                raise OSError("the disk took only part of an entry")
            os.fsync(fd)
        finally:
            os.close(fd)
        if is_new:
            _sync_folder(self.folder)
        self._seen = (path, size + len(data))
        self._number, self._previous = entry.number, sha256(line).hexdigest()
        return entry

    def _catch_up(self) -> tuple[Path | None, int]:
        """The last file and how much of it is whole lines; what others appended since is taken note of."""
        files = log_files(self.folder)
        if not files:
            return None, 0
        path = files[-1]
        if self._seen == (path, path.stat().st_size):
            return self._seen
        size = 0
        for line in read_lines(path):
            if line.entry is None:
                raise EvidenceError(f"Line {line.place} of {path} is no entry. Nothing is appended to a damaged log.")
            size += len(line.content) + 1
            self._number, self._previous = line.entry.number, line.digest
        if not size and len(files) > 1:
            path.unlink()  # it holds no whole line: the crash of whoever began it
            return self._catch_up()
        return path, size

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self.folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _prepare(self) -> None:
        if self._prepared and self.folder.is_dir():
            return
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        public = self.folder / f"{self._key.key_id}{PUBLIC_SUFFIX}"
        if not public.exists():
            beside = public.with_name(f".{public.name}.{os.getpid()}")
            beside.write_bytes(self._key.public_pem)
            beside.replace(public)
        self._prepared = True


def log_files(folder: Path) -> list[Path]:
    """The files of a log, the oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def read_lines(path: Path) -> Iterator[Line]:
    """The whole lines of a log's file; what stands behind the last line's end was never told to anyone.

    Raises:
        OSError: It can't be read.
    """
    with path.open("rb") as file:
        for place, content in enumerate(file, start=1):
            if content.endswith(b"\n"):
                yield _parse(path, place, content[:-1])


def _parse(path: Path, place: int, content: bytes) -> Line:
    before, found, after = content.rpartition(_SIGNATURE)
    signed = before + b"}"
    entry: LogEntry | None = None
    if found and after.endswith(b'"}'):
        try:
            entry = _decoder.decode(signed)
        except (msgspec.DecodeError, ValueError):
            entry = None
    return Line(path, place, content, entry, signed, after.removesuffix(b'"}').decode("ascii", "replace"))


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
