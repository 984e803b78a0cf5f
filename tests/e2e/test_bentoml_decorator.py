"""A base under BentoML's own decorator, and a bento that was built."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

ROW = [0.5, 1.0, -0.5, 0.25]
SERVICES = Path(__file__).parent / "services"


def test_a_base_under_bentomls_decorator_is_audited_and_measured(serve, eventually):
    """Predictions and failures are on record and counted; one line says what can't be seen."""
    with serve("probe:PlainProbe") as server:
        answer = server.predict({"X-Request-ID": "plain-1"}, instances=[ROW])
        assert answer.headers["x-request-id"] == "plain-1"
        assert server.post("/predict", content=b"{").status_code == 400
        assert server.predict(instances=[ROW], attributes={"do": "fail"}).status_code == 500
        with server.trail() as trail:
            eventually(lambda: trail.find("plain-1"), what="the row")
            outcomes = eventually(
                lambda: len(rows := trail.query(items=False).rows()) == 3 and {row["outcome"] for row in rows},
                what="three rows",
            )
        assert outcomes == {"ok", "invalid", "error"}
        for name, fail_at, outcome in (("whole", -1, "ok"), ("broken", 2, "error")):
            server.post("/count", json={"upto": 4, "fail_at": fail_at}, headers={"X-Request-ID": name})
            with server.trail() as trail:
                eventually(lambda: [row["outcome"] for row in trail.find(name)] == [outcome], what=f"{name} stream")  # noqa: B023  # called at once
        text = httpx.get(server.url + "/metrics").text
        assert 'outcome="ok"} 2' in text
        assert text.count("# TYPE e2i_predictions_total") == 1
        assert "@e2i_serving.service sees all" in server.log.read_text()


@pytest.mark.smoke
def test_a_built_bento_is_served_and_names_itself(serve, model_home, tmp_path, eventually):
    """``bentoml build`` and ``bentoml serve`` of the bento: the row names the bento's tag and version."""
    environment = {**os.environ, "BENTOML_HOME": str(model_home)}
    build = [sys.executable, "-m", "bentoml", "build", "-f", "bentofile.yaml", "--output", "tag", "."]
    done = subprocess.run(
        build, cwd=SERVICES, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tag = done.stdout.strip().rpartition("__tag__:")[2].strip()
    with serve(tag, folder=tmp_path) as server:
        request_id = server.predict(instances=[ROW]).headers["x-request-id"]
        with server.trail() as trail:
            (row,) = eventually(lambda: trail.find(request_id), what="the row")
    assert f"{row['bento']}:{row['bento_version']}" == tag
