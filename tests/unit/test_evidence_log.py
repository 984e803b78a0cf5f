"""The signed log and its checkpoints: what they list, what a restart remembers, and what forging them takes."""

from __future__ import annotations

import json
import os
import stat
from contextlib import closing

import pytest
from evidence_trail import Trail, bodies, record

from e2i_serving.evidence.log import EvidenceLog, Removal, log_files
from e2i_serving.evidence.signing import PUBLIC_SUFFIX, open_signing_key, read_public_keys
from e2i_serving.exceptions import EvidenceError
from e2i_serving.record import Entry, Gap, Life
from e2i_serving.relay.audit_destination import AuditDestination
from e2i_serving.relay.explode import explode
from e2i_serving.runtime.verification import read_signed_history
from e2i_serving.stores.sql import SqlAuditStore


@pytest.fixture
def trail(tmp_path):
    """An empty trail."""
    return Trail(tmp_path)


def lines(trail: Trail) -> list[dict[str, object]]:
    """The log's entries as objects."""
    return [json.loads(line) for path in log_files(trail.checkpoints) for line in path.read_bytes().splitlines()]


def rewrite(trail: Trail, change) -> None:
    """Change the lines of the log's only file."""
    (path,) = log_files(trail.checkpoints)
    path.write_bytes(b"".join(line + b"\n" for line in change(path.read_bytes().splitlines())))


def test_the_key_is_made_for_its_owner_alone(trail):
    """The private key is nobody else's to read; the public one lies beside the checkpoints."""
    trail.deliver([record(1)])
    assert stat.S_IMODE(trail.key_file.stat().st_mode) == 0o600
    key = open_signing_key(trail.key_file)
    assert (trail.checkpoints / f"{key.key_id}{PUBLIC_SUFFIX}").read_bytes() == key.public_pem
    trail.key_file.chmod(0o644)
    with pytest.raises(EvidenceError, match="chmod 600"):
        open_signing_key(trail.key_file)


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_holds_no_key_is_refused(tmp_path, content):
    """What is no Ed25519 key says so, with the file's name."""
    path = tmp_path / "signing.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(EvidenceError, match=r"signing\.key"):
        open_signing_key(path)
    with pytest.raises(EvidenceError, match=r"signing\.key"):
        read_public_keys([path])


def test_a_life_is_listed_before_its_first_row(trail):
    """The log names a life first, then how far its chain has come, and last that it is closed."""
    trail.deliver(bodies(5), close=True)
    begin, checkpoint = lines(trail)
    (sequence, link) = trail.states["life-1"]
    assert (begin["kind"], begin["life"]) == ("begin", "life-1")
    assert checkpoint["chains"] == {"life-1": [sequence, link.hex(), True]}
    assert checkpoint["lives"] == 1


def test_checkpoints_come_by_records(trail):
    """So many records stored make one due, whatever the time."""
    trail.deliver([record(number) for number in range(1, 21)], batch=5, records=5)
    assert [line["kind"] for line in lines(trail)] == ["begin", *["checkpoint"] * 4]


def test_a_checkpoint_that_can_not_be_written_waits(trail, monkeypatch, caplog):
    """A full disk holds nothing up, is said once, and what was due is written later."""
    checkpointer = trail.checkpointer(records=1)
    checkpointer.begin("life-1")

    def refuse(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        checkpointer.advanced("life-1", 1, b"x" * 32, 1)
        checkpointer.tick()
        with pytest.raises(EvidenceError, match="no space left"):
            checkpointer.begin("life-2")
    assert caplog.text.count("Checkpoints wait") == 1
    checkpointer.close()
    assert [line["kind"] for line in lines(trail)][-1] == "checkpoint"
    assert not read_signed_history([trail.checkpoints], [trail.key_file]).problems


def test_a_restart_remembers_the_open_chains(trail):
    """A relay that starts anew goes on from the log: the chains still open are in its next checkpoint."""
    trail.deliver(bodies(5))
    trail.deliver([record(500)], "life-2", close=True)
    trail.deliver([record(600)], "life-3")
    last = lines(trail)[-1]
    assert set(last["chains"]) == {"life-1", "life-3"}
    assert last["lives"] == 3
    assert trail.verify().passed


def test_what_was_stored_before_a_crash_is_in_the_next_checkpoint(trail):
    """Rows whose relay died before its checkpoint are anchored by the next one."""
    trail.deliver(bodies(5))
    checkpointer = trail.checkpointer()
    checkpointer.recover([("life-1", 99, b"y" * 32, True), ("life-0", 5, b"z" * 32, False)])
    checkpointer.close()
    assert lines(trail)[-1]["chains"] == {"life-1": [99, (b"y" * 32).hex(), True]}


def test_a_torn_line_is_cut(trail):
    """What a crash left of a line was never told to anyone; the next entry takes its place."""
    trail.deliver(bodies(3))
    (path,) = log_files(trail.checkpoints)
    with path.open("ab") as file:
        file.write(b'{"number":3,"time')
    trail.deliver([record(100)])
    assert [line["number"] for line in lines(trail)] == [1, 2, 3]
    assert trail.verify().passed


def test_a_large_file_is_followed_by_another(trail, monkeypatch):
    """A new file is named after its first entry, and continues the old one."""
    monkeypatch.setattr("e2i_serving.evidence.log.FILE_BYTES", 100)
    trail.deliver(bodies(3))
    trail.deliver([record(100)])
    assert [path.name for path in log_files(trail.checkpoints)] == [f"{n:010d}.jsonl" for n in (1, 2, 3)]
    assert trail.verify().passed


def test_two_writers_share_a_log(trail):
    """A command that signs while the relay runs and the relay take turns."""
    relay, command = trail.log(), trail.log()
    for log in (relay, command, command, relay):
        log.append("begin", by="someone", life="life")
    assert not read_signed_history([trail.checkpoints], [trail.key_file]).problems


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [*lines[:1], lines[1].replace(b'"lives":1', b'"lives":2'), *lines[2:]], "signature is wrong"),
        (lambda lines: [lines[0], *lines[2:]], "does not follow"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "does not follow"),
        (lambda lines: [lines[0], b"{}", *lines[2:]], "is no entry"),
        (lambda lines: [lines[0], lines[1][:-40] + b'"}', *lines[2:]], "signature is wrong"),
    ],
    ids=["edited", "deleted", "reordered", "garbage", "cut"],
)
def test_an_altered_log_is_found(trail, change, said):
    """No line can be edited, taken out or exchanged."""
    trail.deliver(bodies(3))
    trail.deliver([record(100)])
    rewrite(trail, change)
    report = trail.verify()
    assert any(said in problem.what for problem in report.problems)
    assert report.first is not None
    assert report.first.life == ""


def test_entries_of_another_key_do_not_count(trail, tmp_path):
    """Who has not the key can write entries, yet not one that counts."""
    trail.deliver(bodies(3))
    other = tmp_path / "other.key"
    open_signing_key(other)
    report = trail.verify(other)
    assert any("which is not among those given" in problem.what for problem in report.problems)
    assert not report.keys


def test_keys_change(trail, tmp_path):
    """Entries signed with an older key count as long as its public half is there, and the report says which did."""
    trail.deliver(bodies(3))
    old = open_signing_key(trail.key_file).key_id
    trail.key_file.unlink()
    trail.deliver([record(100)])
    new = open_signing_key(trail.key_file).key_id
    report = trail.verify()
    assert report.passed, report.problems
    assert dict(report.keys) == {old: 2, new: 1}


def test_a_forged_removal_is_found(trail, tmp_path):
    """An entry that says a row was purged counts only with the right signature."""
    trail.deliver(bodies(3))
    forger = EvidenceLog(trail.checkpoints, open_signing_key(tmp_path / "forger.key"))
    forger.append("removal", by="mallory", removal=Removal(id="r1", action="purge", what="all", gaps="x"))
    (trail.checkpoints / f"{open_signing_key(tmp_path / 'forger.key').key_id}{PUBLIC_SUFFIX}").unlink()
    report = trail.verify()
    assert any("which is not among those given" in problem.what for problem in report.problems)


def test_rows_of_a_release_without_chains_are_reported(trail):
    """Rows that were stored before chains are counted, and those that follow in the same life are verified."""
    old = Life("life-1", "credit", 1, 1)
    batch = explode([Entry(old, number, record(number)) for number in (1, 2, 3)])
    store = SqlAuditStore(trail.url)
    store.write(batch)
    store.close()
    trail.states["life-1"] = (3, b"")
    trail.deliver([record(4), record(5)])
    report = trail.verify()
    assert report.passed, report.problems
    assert report.unchained == 3


def test_rows_behind_the_last_checkpoint_are_counted(trail, monkeypatch):
    """Rows that no checkpoint lists yet are in order, and reported as not anchored."""
    trail.deliver(bodies(3))
    monkeypatch.setattr("e2i_serving.evidence.checkpoints.Checkpointer.close", lambda _self: None)
    trail.deliver([record(50), record(51)])
    report = trail.verify()
    assert report.passed, report.problems
    assert report.unanchored == 2


def test_a_dead_letter_stored_later_stands_beside_its_gap(trail):
    """A row that was refused first is verified against the digest that its gap kept."""
    life = Life("life-1", "credit", 1, 1)
    trail.deliver([record(1)])
    entry = Entry(life, 2, record(2))
    with closing(AuditDestination(SqlAuditStore(trail.url))) as destination:
        digest = destination.digest(entry)
    trail.deliver([Gap(2, 2, 1, "dead-lettered", digest)])
    _, state = trail.states["life-1"]
    trail.deliver([Gap(3, 3, 1, "dead-lettered"), record(4)])
    with closing(AuditDestination(SqlAuditStore(trail.url))) as destination:
        destination.redeliver(entry, state, digest)
        destination.redeliver(Entry(life, 3, record(3)), state, b"of another form")
    report = trail.verify()
    assert report.passed, report.problems
    assert (report.gaps["dead-lettered"], report.unproved, report.rows["predictions"]) == (2, 1, 4)
