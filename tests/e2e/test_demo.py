"""The demo, as `make demo` runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from e2i_serving import AuditTrail

REQUESTS = 60


def test_demo_runs_and_its_trail_tells_what_the_client_saw(project_root: Path, tmp_path: Path) -> None:
    """The demo trains, builds, serves, asks and checks, and stops all that it started."""
    done = subprocess.run(
        [sys.executable, "examples/demo", "--requests", str(REQUESTS), "--directory", str(tmp_path / "demo")],
        cwd=project_root,
        env={**os.environ, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    shown = done.stdout
    assert done.returncode == 0, shown
    assert f"All {REQUESTS} requests stand in the audit trail exactly as they were answered." in shown
    for line in (
        "$ e2i-serving audit query --outcome invalid --limit 3",
        "$ e2i-serving audit show demo-uplift-0000",
        'e2i_predictions_total{model="uplift"',
        "effect-above-threshold",
        "audit-store",
        "What to type next",
    ):
        assert line in shown
    with AuditTrail.open(tmp_path / "demo" / "data") as trail:
        assert trail.count() == REQUESTS
        assert {row["model"] for row in trail.query(items=False)} == {"breast_cancer", "diabetes", "uplift"}
        effects = [item["effect"] for row in trail.query(model="uplift", outcome="ok") for item in row["item_rows"]]
        intervals = [item["upper"] for row in trail.query(model="diabetes", outcome="ok") for item in row["item_rows"]]
    assert effects
    assert None not in effects
    assert intervals
    assert None not in intervals


def test_demo_refuses_to_send_nothing(project_root: Path) -> None:
    """Fewer requests than models is a mistake, said before anything is started."""
    done = subprocess.run(
        [sys.executable, "examples/demo", "--requests", "0"],
        cwd=project_root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "--requests must be at least 3" in done.stderr
