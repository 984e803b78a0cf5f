"""The dashboards, as the command gives them."""

from __future__ import annotations

import json
import subprocess
import sys

from typer.testing import CliRunner

from e2i_serving.cli import app


def test_dashboards_are_written(tmp_path, project_root):
    """The command writes each dashboard of the repository, and names it."""
    done = CliRunner().invoke(app, ["dashboards", "--output", str(tmp_path / "made")])
    assert done.exit_code == 0, done.output
    written = sorted((tmp_path / "made").iterdir())
    assert done.stdout.splitlines() == [str(path) for path in written]
    kept = {path.name: path.read_text() for path in (project_root / "dashboards").iterdir()}
    assert {path.name: path.read_text() for path in written} == kept
    assert [json.loads(path.read_text())["uid"] for path in written] == ["e2i-model", "e2i-overview"]


def test_dashboards_need_no_sdk(tmp_path):
    """They are files of the package: what they were made with need not be installed."""
    code = (
        "import sys; sys.modules['grafana_foundation_sdk'] = None; from e2i_serving.cli import main; "
        f"sys.argv = ['e2i-serving', 'dashboards', '--output', {str(tmp_path)!r}]; main()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_a_folder_that_can_not_be_written_to(tmp_path):
    """A file in the place of the folder is one line and exit code 2."""
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, ["dashboards", "--output", str(tmp_path / "file" / "deeper")])
    assert done.exit_code == 2
    assert "can't be written to" in done.stderr
