"""The relay in the foreground, as a sidecar runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from e2i_serving.relay import RelayLock
from e2i_serving.settings import keep_settings, load_settings

RELAY = (sys.executable, "-c", "from e2i_serving.cli import main; main()", "relay")


@pytest.mark.parametrize(("jsonl", "lines", "other"), [("", "stdout", "stderr"), ("-", "stderr", "stdout")])
def test_its_lines_have_the_form_that_is_set(tmp_path, journal, jsonl, lines, other):
    """A relay in the foreground logs as a worker does, and beside the records where these go to standard output."""
    settings = {"LOG_FORMAT": "json", "LOG_LEVEL": "warning", "JSONL_PATH": jsonl, "WEBHOOK_URL": "http://127.0.0.1:9"}
    with closing(journal.open_writer(tmp_path / "journal")) as writer:
        writer.append(journal.record(1))
    done = subprocess.run(
        [*RELAY, "--once", "--data-dir", str(tmp_path)],
        env={**os.environ, **{f"E2I_SERVING_{name}": value for name, value in settings.items()}},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in getattr(done, lines).splitlines()]
    assert {(line["level"], line["logger"].partition(".")[0]) for line in said} == {("warning", "e2i_serving")}
    assert any("webhook" in line["event"] for line in said)
    records = [json.loads(line) for line in getattr(done, other).splitlines()]
    assert [record["prediction_id"] for record in records] == (["p1"] if jsonl else [])


@contextmanager
def sidecar(data_dir) -> Iterator[subprocess.Popen[bytes]]:
    """A relay in the foreground, ended in the end."""
    with subprocess.Popen([*RELAY, "--data-dir", str(data_dir)], cwd=data_dir.parent) as process:
        try:
            yield process
        finally:
            process.kill()


def keep(data_dir, **settings):
    """Write settings down as a service does at its start."""
    keep_settings(load_settings(settings, environ={}), data_dir)


def test_it_waits_for_the_settings_of_a_service_that_is_yet_to_start(tmp_path, journal, eventually):
    """Started before the server, as a sidecar is, it makes nothing by defaults, and delivers by the service's."""
    data_dir = tmp_path / "data"
    with sidecar(data_dir) as process:
        eventually(lambda: RelayLock(data_dir).holder() == process.pid, what="the relay")
        keep(data_dir, jsonl_path=str(tmp_path / "lines"), audit_url=f"sqlite:///{tmp_path}/elsewhere.db")
        with closing(journal.open_writer(data_dir / "journal")) as writer:
            writer.append(journal.record(1))
            eventually((tmp_path / "lines").exists, what="the record")
        eventually((tmp_path / "elsewhere.db").exists, what="the store")
        assert not (data_dir / "audit.db").exists()
        assert process.poll() is None


def test_it_takes_up_the_settings_of_the_next_release(tmp_path, journal, eventually):
    """A server that begins with other settings has a relay that goes by them, in the same process."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    keep(data_dir, relay_batch_size=7)
    with sidecar(data_dir) as process, closing(journal.open_writer(data_dir / "journal")) as writer:
        writer.append(journal.record(1))
        eventually((data_dir / "audit.db").exists, what="the store")
        (data_dir / "settings.json").unlink()  # a worker is about to put it back
        keep(data_dir, relay_batch_size=7, jsonl_path=str(tmp_path / "lines"), labels=("brand",))
        sent = []

        def arrived():
            sent.append(f"p{len(sent) + 2}")
            writer.append(journal.record(len(sent) + 1))
            return (tmp_path / "lines").exists()

        eventually(arrived, what="a record where the new settings send it")
        assert process.poll() is None
        assert RelayLock(data_dir).holder() == process.pid
        process.send_signal(signal.SIGTERM)
        writer.close()
        assert process.wait(30) == 0


def test_it_ends_when_it_is_told_to_while_it_waits(tmp_path, eventually):
    """Nobody has started a service yet, and nobody will."""
    data_dir = tmp_path / "data"
    with sidecar(data_dir) as process:
        eventually(lambda: RelayLock(data_dir).holder() == process.pid, what="the relay")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert {path.name for path in data_dir.iterdir()} == {"relay.lock"}


def test_it_delivers_what_it_finds_without_a_service(tmp_path, journal, eventually):
    """Where nobody wrote settings down, and a journal is there, it goes by its own."""
    data_dir = tmp_path / "data"
    with closing(journal.open_writer(data_dir / "journal")) as writer:
        writer.append(journal.record(1))
    with sidecar(data_dir):
        eventually((data_dir / "audit.db").exists, what="the store")
