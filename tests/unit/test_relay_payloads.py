"""Payload files: what is too large for the audit store stands beside it, and reads back as it was."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

import numpy as np
import pytest

from e2i_serving.exceptions import EncryptionError, StoreError
from e2i_serving.record import Column, Entry, Life, Matrix, ModelInfo, Outcome, PredictionRecord, StreamEnd, Values
from e2i_serving.relay import LargePayloads, read_payload
from e2i_serving.relay.audit_destination import AuditDestination
from e2i_serving.relay.explode import explode
from e2i_serving.relay.payloads import CUT, PAYLOAD_MAGIC, payload_path
from e2i_serving.testing.stores import InMemoryAuditStore

LIFE = Life("life-1", "credit", 1, 1, model=ModelInfo("scorer", "v1", feature_names=("age", "income")))
FEATURES = Matrix.of(np.array([[30.0, 1.0], [40.0, 2.0]]))


def entry(inputs: dict[str, Column] | None = None, size: int = 5000) -> Entry:
    """A record of two items that takes so many bytes in the journal."""
    record = PredictionRecord(
        *("p1", 5, 0.5, Outcome.OK, 200),
        items=2,
        entities={"customer": Values(["a", "b"])},
        inputs={"features": FEATURES} if inputs is None else inputs,
        outputs={"score": Matrix.of(np.array([0.25, 0.75])), "reasons": Values([["x"], ["y"]])},
        attributes={"note": "n"},
    )
    return Entry(LIFE, 1, record, size)


class Reversing:
    """A cipher that is easily told."""

    key_id = 7

    def encrypt(self, context: str, data: Any) -> bytes:
        return context.encode() + bytes(data)[::-1]

    def decrypt(self, key_id: int, context: str, data: bytes) -> bytes:
        if key_id != self.key_id:
            raise EncryptionError(f"Key {key_id} is not known.")
        return data.removeprefix(context.encode())[::-1]


def test_a_small_record_is_left_alone(tmp_path):
    """Up to the bound, and for what is no record, nothing changes."""
    payloads = LargePayloads(tmp_path, 5000, "file")
    small, end = entry(), Entry(LIFE, 2, StreamEnd("p1", 1.0, Outcome.OK), 9999)
    assert payloads.take_out(small) == (small, "")
    assert payloads.take_out(end) == (end, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cipher", [None, Reversing()])
def test_a_large_payload_goes_to_a_file_named_by_its_digest(tmp_path, cipher):
    """Entities and outputs of their own column stay in the rows; the rest reads back by item."""
    whole = explode([entry()])
    taken, digest = LargePayloads(tmp_path, 4999, "file", cipher).take_out(entry())
    rows = explode([taken])
    assert [row["score"] for row in rows.items] == [0.25, 0.75]
    assert [row["inputs"] for row in rows.items] == [row["outputs"] for row in rows.items] == [None, None]
    assert rows.entities == whole.entities
    assert rows.predictions[0]["attributes"] is None
    payload = read_payload(tmp_path, digest, cipher)
    assert payload is not None
    assert payload.attributes == {"note": "n"}
    assert payload.rows() == [(json.loads(row["inputs"]), json.loads(row["outputs"])) for row in whole.items]
    path = payload_path(tmp_path, digest)
    assert path == tmp_path / "payloads" / digest[:2] / digest
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(PAYLOAD_MAGIC + (7 if cipher else 0).to_bytes(4, "little"))
    assert [each.name for each in path.parent.iterdir()] == [digest]


def test_several_inputs_stand_under_their_names(tmp_path):
    """As they would in the rows."""
    inputs: dict[str, Column] = {"features": FEATURES, "text": Values(["s", "t"])}
    whole = explode([entry(inputs)])
    _, digest = LargePayloads(tmp_path, 1, "file").take_out(entry(inputs))
    payload = read_payload(tmp_path, digest)
    assert payload is not None
    assert [each for each, _ in payload.rows()] == [json.loads(row["inputs"]) for row in whole.items]


def test_the_same_payload_is_one_file(tmp_path):
    """A batch that is handed over again writes nothing anew."""
    payloads = LargePayloads(tmp_path, 1, "file")
    _, digest = payloads.take_out(entry())
    before = payload_path(tmp_path, digest).stat()
    assert payloads.take_out(entry())[1] == digest
    assert payload_path(tmp_path, digest).stat().st_ino == before.st_ino
    assert LargePayloads(tmp_path / "elsewhere", 1, "file").take_out(entry(), keep=False)[1] == digest
    assert not (tmp_path / "elsewhere").exists()


def test_a_payload_that_is_cut_says_so(tmp_path):
    """Nothing of it is kept, and the record names what was done."""
    taken, digest = LargePayloads(tmp_path, 1, "cut").take_out(entry())
    (row,) = explode([taken]).predictions
    assert digest == ""
    assert json.loads(row["redactions"]) == [CUT]
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_payload_file_is_refused(tmp_path):
    """An altered file, another's and one without its key say what is wrong; none is none."""
    _, digest = LargePayloads(tmp_path, 1, "file").take_out(entry())
    path = payload_path(tmp_path, digest)
    content = path.read_bytes()
    assert read_payload(tmp_path, "ab" * 32) is None
    for spoiled, why in (
        (content[:-1] + b"x", "altered"),
        (b"something else", "does not begin"),
        (PAYLOAD_MAGIC + b"\7\0\0\0" + content, "encryption_key_file"),
    ):
        path.write_bytes(spoiled)
        with pytest.raises(StoreError, match=why):
            read_payload(tmp_path, digest)


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    """What can't be written raises, so that the record is tried again."""

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="space"):
            LargePayloads(tmp_path, 1, "file").take_out(entry())
    assert [path for path in (tmp_path / "payloads").rglob("*") if path.is_file()] == []


def test_the_audit_destination_writes_the_file_before_the_row(tmp_path):
    """The row names a file that is there, and the digest of a refused one is that of the row it would have been."""
    store = InMemoryAuditStore()
    destination = AuditDestination(store, payloads=LargePayloads(tmp_path, 1, "file"))
    digest = destination.digest(entry())
    assert not (tmp_path / "payloads").exists()
    destination.deliver([entry()], b"")
    (row,) = store._predictions.values()
    assert read_payload(tmp_path, row["payload_digest"]) is not None
    assert digest == destination.digest(entry())
