"""Digests, links and salts: what is hashed, and that no column is forgotten."""

from __future__ import annotations

from hashlib import sha256

import pytest
from evidence_trail import Trail, bodies, record

from e2i_serving.evidence import entry_digest, event_salt, item_salts, prediction_salt, seal
from e2i_serving.evidence.commitments import (
    ACCESSES,
    EVENTS,
    GAPS,
    ITEMS,
    OUTCOMES,
    PREDICTIONS,
    counted,
    first_link,
    pack,
)
from e2i_serving.evidence.entities import LONGEST_KEY
from e2i_serving.exceptions import RefusedError
from e2i_serving.record import Entry, FeatureProvenance, Gap, Life, ModelInfo, ViewReading
from e2i_serving.relay.explode import ENTITY_LENGTH, explode
from e2i_serving.stores import tables

LIFE = Life("life-1", "credit", 1, 1)
OF_THE_EVIDENCE = {"salt", "erased", "hash", "removal"}


@pytest.mark.parametrize("table", [PREDICTIONS, ITEMS, EVENTS, OUTCOMES, ACCESSES, GAPS], ids=lambda table: table.name)
def test_every_column_is_hashed_once(table):
    """No column of a chained table can be changed without its digest, but those the evidence itself is made of."""
    hashed = [*table.plain, *(name for group in table.groups.values() for name in group)]
    columns = set(tables.metadata.tables[table.name].columns.keys())
    assert len(hashed) == len(set(hashed))
    assert set(hashed) == columns - OF_THE_EVIDENCE


def test_entities_are_compared_as_far_as_they_have_rows():
    """Both sides agree on how long an entity may be to have a row."""
    assert LONGEST_KEY == ENTITY_LENGTH


def test_salts_tell_nothing_of_each_other():
    """Each group and item has a salt of its own, always the same one for the same record."""
    salts = [*item_salts(b"s", 3), event_salt(b"s"), prediction_salt(b"s")[:32], prediction_salt(b"s")[32:]]
    assert len(set(salts)) == len(salts)
    assert {len(salt) for salt in salts} == {32}
    assert item_salts(b"s", 1) == item_salts(b"s", 3)[:1]
    assert item_salts(b"s", 0) == []
    assert prediction_salt(b"s") != prediction_salt(b"t")


def test_a_chain_does_not_depend_on_its_batches():
    """Sealed in one batch or in many, each row has the same link."""
    entries = [Entry(LIFE, place, body) for place, body in enumerate(bodies(12), start=1)]
    at_once = explode(entries)
    last = seal(at_once, "life-1", b"")
    link, hashes = b"", []
    for entry in entries:
        batch = explode([entry])
        link = seal(batch, "life-1", link)
        hashes += [
            row["hash"] for rows in (batch.predictions, batch.events, batch.outcomes, batch.accesses) for row in rows
        ]
    chained = [*at_once.predictions, *at_once.events, *at_once.outcomes, *at_once.accesses]
    assert link == last
    assert sorted(hashes) == sorted(row["hash"] for row in chained)
    assert len(set(hashes)) == len(entries)


def test_a_link_is_made_as_documented():
    """SHA-256 over the link before, the sequence number and the digest; zeros and the life stand before the first."""
    batch = explode([Entry(LIFE, 7, record(1))])
    digest = entry_digest(batch)
    first = sha256(bytes(32) + b"life-1").digest()
    assert first_link("life-1") == first
    assert seal(batch, "life-1", b"") == sha256(first + (7).to_bytes(8, "big") + digest).digest()


def test_a_gap_is_not_what_it_stands_for():
    """A gap with the digest of a row has another link than the row, so that none can take a row's place unseen."""
    row = explode([Entry(LIFE, 1, record(1))])
    gap = explode([Entry(LIFE, 1, Gap(1, 1, 1, "dead-lettered", entry_digest(row)))])
    assert seal(row, "life-1", b"") != seal(gap, "life-1", b"")


def test_minus_zero_is_zero():
    """Databases disagree on the sign of zero, so it does not count; nothing else is taken for it."""
    assert pack([-0.0, "a"]) == pack([0.0, "a"])
    assert pack(["\u02c0", 0]) != pack(["\u02c1", 0])


def test_what_can_not_be_hashed_is_refused():
    """A number that no column takes refuses its row for good, and has no digest."""
    batch = explode([Entry(LIFE, 1, record(1))])
    batch.predictions[0]["request_bytes"] = 2**70
    with pytest.raises(RefusedError, match="life-1"):
        seal(batch, "life-1", b"")
    assert entry_digest(batch) == b""


def test_a_trail_of_everything_is_verified(tmp_path):
    """What the relay stored of every kind of entry verifies, from the first row on."""
    trail = Trail(tmp_path)
    trail.deliver(bodies(20))
    report = trail.verify()
    assert report.passed, report.problems
    assert report.rows["predictions"] == 20


def test_provenance_counts_and_its_absence_does_not():
    """Where features came from is in the digest; rows without it hash as they did before there was such a column."""
    plain = explode([Entry(LIFE, 1, record(1))])
    provenance = FeatureProvenance("feast", "churn_v1", views={"usage": ViewReading({"hit": 1}, ("hit",), (1,))})
    fetched = explode([Entry(LIFE, 1, record(1, feature_provenance=provenance))])
    lineage = explode(
        [Entry(Life("life-1", "credit", 1, 1, model=ModelInfo(lineage={"training_data": "a"})), 1, record(1))]
    )
    assert len({entry_digest(batch) for batch in (plain, fetched, lineage)}) == 3
    row = plain.predictions[0]
    assert counted([row[name] for name in PREDICTIONS.plain], 1) == [row[name] for name in PREDICTIONS.plain[:-1]]
    free = PREDICTIONS.groups["free"]
    assert counted([row[name] for name in free], 1) == [row[name] for name in free[:-1]]
    assert counted([None, None], 1) == [None]
