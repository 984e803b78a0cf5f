"""What an erasure leaves no trace in, besides the store: delivered frames, dead letters and payload files."""

from __future__ import annotations

import os
import sqlite3
import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from e2i_serving.exceptions import FrameError
from e2i_serving.journal import Frame, LifeFolder, Position, list_lives
from e2i_serving.journal.frame import CHECKED_FROM, ERASED, FRAME_HEAD, SEGMENT_HEAD, FrameKind, parse
from e2i_serving.record import (
    WHOLE_REQUEST,
    AccessEvent,
    LateResult,
    OutcomeEvent,
    PredictionRecord,
    StreamEnd,
    column_values,
)
from e2i_serving.relay import Ledger
from e2i_serving.relay.cells import text_cells
from e2i_serving.relay.ledger_schema import LEDGER_NAME
from e2i_serving.relay.payloads import payload_path
from e2i_serving.runtime.catching_up import receivers
from e2i_serving.stores.engine import BUSY_SECONDS
from e2i_serving.stores.maintenance import StoreChange
from e2i_serving.typing import Cipher

SETTLED_SECONDS: Final = 3600
"""A payload file younger than this may belong to a row that is still on its way."""

_ERASABLE: Final = ("predictions", "events", "outcomes", "accesses")
_FLAGS_AT: Final = 10
_FLAGS: Final = struct.Struct("<H")
_CRC: Final = struct.Struct("<I")


class Subject:
    """Whom an erasure is about, and by what a frame is known to be about them.

    Args:
        name: The entity's name.
        value: Its value.
        prediction_ids: The predictions that the store knows to be about them.
        request_ids: The ids of these requests.
        places: Life and sequence number of rows that something was erased from, of whomever: the store does not tell
            any more whom they were about, and nor may the frames.
    """

    def __init__(
        self,
        name: str,
        value: str,
        prediction_ids: Iterable[str] = (),
        request_ids: Iterable[str] = (),
        places: Iterable[tuple[str, int]] = (),
    ) -> None:
        self.name = name
        self.value = value
        self._prediction_ids = set(prediction_ids)
        self._request_ids = set(request_ids)
        self._places = set(places)

    def is_in(self, frame: Frame, cipher: Cipher | None) -> bool:
        """Whether a frame holds something about them; one that can't be read is taken to."""
        if frame.kind != FrameKind.LIFE and (frame.life, frame.sequence) in self._places:
            return True
        try:
            body = frame.decode(cipher)
        except FrameError:
            return True
        if isinstance(body, PredictionRecord):
            if items_about(body, self.name, self.value):
                self._prediction_ids.add(body.prediction_id)  # what follows it is about them too
            return body.prediction_id in self._prediction_ids
        if isinstance(body, OutcomeEvent) and not body.prediction_id:
            return body.request_id in self._request_ids
        if isinstance(body, StreamEnd | LateResult | OutcomeEvent):
            return body.prediction_id in self._prediction_ids
        return isinstance(body, AccessEvent) and self.is_named_in(body.conditions)

    def is_named_in(self, value: Any) -> bool:
        """Whether a plain value, or one in it, names them."""
        if isinstance(value, dict):
            return any(map(self.is_named_in, (*value, *value.values())))
        if isinstance(value, list | tuple):
            return any(map(self.is_named_in, value))
        return value is not None and str(value) in (self.value, f"{self.name}={self.value}")


class RefusedRecord(NamedTuple):
    """A prediction that the store does not have, as it is a dead letter.

    Attributes:
        record: What was journaled of it.
        model: Its model's name.
    """

    record: PredictionRecord
    model: str


def items_about(record: PredictionRecord, name: str, value: str) -> set[int]:
    """The indexes of a record's items that an entity names."""
    column = record.entities.get(name)
    if column is None:
        return set()
    texts = text_cells(list(column_values(column, record.items)))
    return {index for index, text in enumerate(texts) if text == value}


def refused_records(data_dir: Path, cipher: Cipher | None) -> Iterator[RefusedRecord]:
    """The predictions among the dead letters, one in memory at a time; what can't be decoded is left out.

    Raises:
        EncryptionError: One can't be read, as its key is missing.
    """
    if not (data_dir / LEDGER_NAME).exists():
        return
    with closing(Ledger(data_dir, read_only=True)) as ledger:
        for letter in ledger.dead_letters.each():
            if letter.kind != FrameKind.RECORD or not letter.payload:
                continue
            with suppress(FrameError):
                body = letter.frame().decode(cipher)
                if isinstance(body, PredictionRecord):
                    yield RefusedRecord(body, body.model or letter.life_of().model.name)


def erased_places(data_dir: Path, change: StoreChange) -> set[tuple[str, int]]:
    """Of the lives that are journaled here, the places of rows that something was erased from."""
    return {
        (folder.life, sequence)
        for folder in list_lives(data_dir / "journal")
        for table in _ERASABLE
        for (sequence,) in change.all(
            f"SELECT sequence FROM {table} WHERE life = ? AND erased IS NOT NULL",  # noqa: S608  # constants
            (folder.life,),
        )
    }


def erase_frames(data_dir: Path, subject: Subject, cipher: Cipher | None) -> int:
    """Overwrite the delivered frames that are about a subject and still stand in journal segments.

    Returns:
        How many were overwritten.

    Raises:
        EncryptionError: One can't be read, as its key is missing.
        OSError: A segment can't be written.
    """
    done = 0
    with closing(Ledger(data_dir, read_only=True)) as ledger:
        destinations = receivers(ledger)
        for folder in list_lives(data_dir / "journal"):
            behind = min(ledger.position(destination, folder.life) for destination in destinations)
            done += sum(_erase_in(folder, number, behind, subject, cipher) for number in _segments(folder, behind))
    return done


def erase_dead_letters(data_dir: Path, subject: Subject, cipher: Cipher | None) -> int:
    """Empty the dead letters that are about a subject; they stay in the books.

    Returns:
        How many were emptied.

    Raises:
        EncryptionError: One can't be read, as its key is missing.
    """
    if not (data_dir / LEDGER_NAME).exists():
        return 0
    with closing(Ledger(data_dir)) as ledger:
        letters = [
            letter.without_payload()
            for letter in ledger.dead_letters.each()
            if letter.payload and subject.is_in(letter.frame(), cipher)
        ]
        # Records last: if this is broken off, they still tell which of the others are about the subject.
        for letter in sorted(letters, key=lambda letter: letter.kind == FrameKind.RECORD):
            ledger.dead_letters.replace_payload(letter, b"", 0)
    _truncate_log(data_dir / LEDGER_NAME)
    return len(letters)


def settle_payloads(data_dir: Path, digests: Iterable[str]) -> None:
    """Let payload files go once no row refers to them: before a transaction ends that takes such rows away.

    They look as though they had been there for long, so that whoever comes next removes them if this is broken off,
    unless the relay writes one anew. So do the files that somebody began beside them and did not end.
    """
    for digest in digests:
        path = payload_path(data_dir, digest)
        for each in (path, *path.parent.glob(f".{digest}*")):
            with suppress(FileNotFoundError):
                os.utime(each, (0, 0))


def unreferred_payloads(data_dir: Path, change: StoreChange) -> list[Path]:
    """The payload files that no row refers to, and that have been there for a while.

    Args:
        data_dir: The data directory.
        change: Reads the store.
    """
    settled = [path for path in (data_dir / "payloads").glob("??/*") if _is_settled(path)]
    rows = change.rows("predictions", ("payload_digest",), "payload_digest", [path.name for path in settled])
    referred = {digest for (digest,) in rows}
    # No row refers to a file with a dot before its name: somebody was killed who wrote it.
    return [path for path in settled if path.name not in referred]


def remove_files(paths: Sequence[Path]) -> int:
    """Remove files; returns how many there were."""
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def named_outcome(row_index: int, indexes: set[int]) -> bool:
    """Whether an outcome of a prediction is about one of some items."""
    return row_index == WHOLE_REQUEST or row_index in indexes


def _segments(folder: LifeFolder, behind: Position) -> list[int]:
    try:
        return [number for number in folder.segments() if number <= behind.segment]
    except FileNotFoundError:
        return []


def _erase_in(folder: LifeFolder, number: int, behind: Position, subject: Subject, cipher: Cipher | None) -> int:
    done = 0
    try:
        fd = os.open(folder.segment(number), os.O_RDWR)
    except FileNotFoundError:
        return 0  # the relay was done with it
    try:
        size = os.fstat(fd).st_size if number < behind.segment else behind.offset
        data = os.pread(fd, size, 0)
        for offset, frame, end in _frames(data, folder.life):
            if subject.is_in(frame, cipher):
                os.pwrite(fd, _erased(data[offset:end]), offset)
                done += 1
        if done:
            os.fsync(fd)
    finally:
        os.close(fd)
    return done


def _frames(data: bytes, life: str) -> Iterator[tuple[int, Frame, int]]:
    offset = SEGMENT_HEAD.size
    while True:
        try:
            parsed = parse(data, offset, life)
        except FrameError:
            (length,) = _CRC.unpack_from(data, offset)
            offset += FRAME_HEAD.size + length
            continue
        if parsed is None:
            return
        frame, end = parsed
        flags = _FLAGS.unpack_from(data, offset + _FLAGS_AT)[0]
        if not flags & ERASED:
            yield offset, frame, end
        offset = end


def _erased(frame: bytes) -> bytes:
    """The same frame, flagged as erased, with zeros for its payload."""
    emptied = bytearray(frame)
    emptied[FRAME_HEAD.size :] = bytes(len(frame) - FRAME_HEAD.size)
    flags = _FLAGS.unpack_from(frame, _FLAGS_AT)[0]
    _FLAGS.pack_into(emptied, _FLAGS_AT, flags | ERASED)
    _CRC.pack_into(emptied, 4, zlib.crc32(memoryview(emptied)[CHECKED_FROM:]))
    return bytes(emptied)


def _truncate_log(database: Path) -> None:
    """Let nothing of what was replaced stay in a database's write-ahead log."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=BUSY_SECONDS)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _is_settled(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > SETTLED_SECONDS
    except FileNotFoundError:
        return False
