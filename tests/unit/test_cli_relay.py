"""The relay in the foreground, as a sidecar runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing

import pytest

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
