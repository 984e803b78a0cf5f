r"""Payload files: inputs and outputs too large for the audit store, each in a file named by its digest.

A file is ``<data>/payloads/<first 2 hex digits>/<digest>``: the magic ``E2IPAY\x01``, the key's number as a
little-endian u32 (0 when it is plain), then a ``Payload`` as MessagePack, encrypted when there is a key. The digest is
SHA-256 over the plain MessagePack, in hex.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from e2i_serving.exceptions import StoreError
from e2i_serving.record import Column, Entry, Matrix, PredictionRecord
from e2i_serving.record.rows import ITEM_OUTPUT_COLUMNS
from e2i_serving.relay.spreading import spread_columns
from e2i_serving.typing import Cipher

PAYLOAD_MAGIC: Final = b"E2IPAY\x01"
PAYLOAD_CONTEXT: Final = "payload"
"""The context that payload files are encrypted for."""
CUT: Final = "payload-cut"
"""Stands among the redactions of a record whose payload was left out."""

_KEY_ID: Final = struct.Struct("<I")
_HEAD_SIZE: Final = len(PAYLOAD_MAGIC) + _KEY_ID.size
_TYPED: Final = frozenset(ITEM_OUTPUT_COLUMNS)


class Payload(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands in a payload file.

    Attributes:
        items: How many items the columns describe.
        inputs: As in the record.
        outputs: Those of the record's that have no column of their own.
        attributes: As in the record.
    """

    items: int = 0
    inputs: dict[str, Column] = {}
    outputs: dict[str, Column] = {}
    attributes: dict[str, Any] = {}

    def rows(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The inputs and outputs of each item, by name, as an item's row would have held them."""
        inputs = spread_columns(self.inputs, self.items, "", (), [], "inputs")
        outputs = spread_columns(self.outputs, self.items, "", (), [], "outputs")
        features = inputs.get("features")
        if features and len(inputs) == 1 and isinstance(self.inputs["features"], Matrix) and type(features[0]) is dict:
            by_item: list[dict[str, Any]] = features
        else:
            by_item = [{name: values[index] for name, values in inputs.items()} for index in range(self.items)]
        return [(each, {name: values[index] for name, values in outputs.items()}) for index, each in enumerate(by_item)]


_decoder: Final = msgspec.msgpack.Decoder(Payload)


class LargePayloads:
    """Takes the payload out of records that are too large for an audit store.

    Args:
        data_dir: The instance's data directory.
        limit: Most bytes of a record that keeps its payload.
        mode: ``file`` or ``cut``: what becomes of a larger one's.
        cipher: Encrypts the files.
    """

    def __init__(self, data_dir: Path, limit: int, mode: Literal["file", "cut"], cipher: Cipher | None = None) -> None:
        self._data_dir = data_dir
        self._limit = limit
        self._mode = mode
        self._cipher = cipher

    def take_out(self, entry: Entry, *, keep: bool = True) -> tuple[Entry, str]:
        """Take the payload out of an entry that is too large.

        Args:
            entry: The entry.
            keep: Whether to write the file; false to know only what would be written.

        Returns:
            The entry, without its payload if it was too large, and the digest of its file, empty if there is none.

        Raises:
            OSError: The file can't be written.
        """
        record = entry.body
        if entry.size <= self._limit or not isinstance(record, PredictionRecord):
            return entry, ""
        typed = {name: column for name, column in record.outputs.items() if name in _TYPED}
        changes: dict[str, Any] = {"inputs": {}, "outputs": typed, "attributes": {}}
        digest = ""
        if self._mode == "file":
            data = msgspec.msgpack.encode(payload_of(entry, record))
            digest = write_payload(self._data_dir, data, self._cipher) if keep else _digest(data)
        else:
            changes["redactions"] = (*record.redactions, CUT)
        return msgspec.structs.replace(entry, body=msgspec.structs.replace(record, **changes)), digest


def payload_of(entry: Entry, record: PredictionRecord) -> Payload:
    """What a record's payload file holds; columns take the names that the life's model gives them."""
    served = entry.life.model
    is_served = (record.model or served.name, record.model_version or served.version) == (served.name, served.version)
    features, classes = (served.feature_names, served.classes) if is_served else ((), ())
    outputs = {name: column for name, column in record.outputs.items() if name not in _TYPED}
    return Payload(
        items=record.items,
        inputs=_named(record.inputs, "features", features),
        outputs=_named(outputs, "probabilities", classes),
        attributes=record.attributes,
    )


def write_payload(data_dir: Path, data: bytes, cipher: Cipher | None) -> str:
    """Write a payload file, so that it survives a power loss; one that is there already is left.

    Args:
        data_dir: The instance's data directory.
        data: A ``Payload`` as MessagePack.
        cipher: Encrypts the file.

    Returns:
        The digest.

    Raises:
        OSError: It can't be written.
    """
    digest = _digest(data)
    path = payload_path(data_dir, digest)
    if path.exists():
        os.utime(path)  # what was settled long ago and is referred to by no row may be removed
        return digest
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _replace(path, seal_payload(data, cipher))
    return digest


def seal_payload(data: bytes, cipher: Cipher | None) -> bytes:
    """A payload file's content: its head, and the data, encrypted if there is a cipher."""
    if cipher is None:
        return PAYLOAD_MAGIC + _KEY_ID.pack(0) + data
    return PAYLOAD_MAGIC + _KEY_ID.pack(cipher.key_id) + cipher.encrypt(PAYLOAD_CONTEXT, data)


def open_payload(content: bytes, cipher: Cipher | None) -> bytes:
    """The data in a payload file.

    Raises:
        StoreError: It is no payload file, or is encrypted and there is no cipher.
        EncryptionError: Its key is missing, or it was altered.
    """
    if len(content) < _HEAD_SIZE or not content.startswith(PAYLOAD_MAGIC):
        raise StoreError("It does not begin as a payload file does.")
    (key_id,) = _KEY_ID.unpack_from(content, len(PAYLOAD_MAGIC))
    data = content[_HEAD_SIZE:]
    if not key_id:
        return data
    if cipher is None:
        raise StoreError(f"It is encrypted with key {key_id}. Set encryption_key_file to the file that has it.")
    return cipher.decrypt(key_id, PAYLOAD_CONTEXT, data)


def read_payload(data_dir: Path, digest: str, cipher: Cipher | None = None) -> Payload | None:
    """Read a payload file; ``None`` when it is not there.

    Args:
        data_dir: The instance's data directory.
        digest: As the prediction's row has it.
        cipher: Decrypts it.

    Raises:
        StoreError: It can't be read, or is not what its name says.
        EncryptionError: Its key is missing, or it was altered.
    """
    path = payload_path(data_dir, digest)
    try:
        data = open_payload(path.read_bytes(), cipher)
    except FileNotFoundError:
        return None
    except (OSError, StoreError) as error:
        raise StoreError(f"The payload file {path} can't be read: {error}") from error
    if _digest(data) != digest:
        raise StoreError(f"The payload file {path} is not what its name says: it was altered.")
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise StoreError(f"The payload file {path} can't be decoded: {error}") from error


def payload_path(data_dir: Path, digest: str) -> Path:
    """Where the payload of a digest is kept."""
    return data_dir / "payloads" / digest[:2] / digest


def _named(columns: dict[str, Column], name: str, names: tuple[str, ...]) -> dict[str, Column]:
    column = columns.get(name)
    if not isinstance(column, Matrix) or column.names or not names:
        return columns
    return {**columns, name: msgspec.structs.replace(column, names=names)}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    hidden = path.with_name(f".{path.name}")
    fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with open(fd, "wb") as file:  # noqa: PTH123  # of a descriptor, made with its permissions
            file.write(content)
            file.flush()
            os.fsync(fd)
        hidden.rename(path)
    except OSError:
        hidden.unlink(missing_ok=True)
        raise
    for folder in (path.parent, path.parent.parent):
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
