"""What ``/metrics`` answers."""

from __future__ import annotations

import gzip
import subprocess
import sys
from contextlib import closing

import prometheus_client
import pytest

from e2i_serving.guard import FailureGuard
from e2i_serving.observers.metrics import SeriesFile
from e2i_serving.observers.metrics.families import HTTP_REQUESTS, WORKERS_EXPECTED
from e2i_serving.runtime.scrape import USER_METRICS, Scrape, ServedBy
from e2i_serving.runtime.user_metrics import UserMetrics

OWN = prometheus_client.Counter("scrape_own", "A metric of the service's own.")


@pytest.fixture
def guard():
    """What takes faults."""
    return FailureGuard()


@pytest.fixture
def make_scrape(tmp_path, guard):
    """Make a scrape of a folder in which one request was counted."""
    with closing(SeriesFile(tmp_path, "life-1")) as file:
        file.series(HTTP_REQUESTS, "/predict", "200").add()
        file.series(WORKERS_EXPECTED, "Churn").set(3.0)
        yield lambda **options: Scrape(
            options.pop("folder", tmp_path), ServedBy(**options), lambda: True, lambda: None, guard
        )


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        (b"", False),
        (b"*/*", False),
        (b"text/plain;version=0.0.4", False),
        (b"application/openmetrics-text;version=1.0.0,text/plain;q=0.5", True),
        (b"text/plain;q=0.5, application/openmetrics-text", True),
        (b"application/openmetrics-text;q=0, text/plain", False),
    ],
)
async def test_the_format_is_the_one_asked_for(make_scrape, accept, openmetrics):
    """OpenMetrics for who can read it, the text format for everybody else; the user's own metrics in both."""
    headers, body = await make_scrape().answer([(b"accept", accept)])
    assert dict(headers)[b"content-type"].startswith(b"application/openmetrics-text" if openmetrics else b"text/plain")
    assert body.endswith(b"# EOF\n") == openmetrics
    assert body.count(b"# EOF") == openmetrics
    for line in (b'e2i_workers_expected{service="Churn"} 3\n', b"e2i_relay_up 1\n", b"scrape_own_total 0.0\n"):
        assert line in body
    assert b'e2i_http_requests_total{route="/predict",status="200"} 1\n' in body


@pytest.mark.parametrize(("encoding", "packed"), [(b"gzip, br", True), (b"br", False), (b"gzip;q=0", False)])
async def test_the_body_is_compressed_for_who_takes_it(make_scrape, encoding, packed):
    """Gzip where it is accepted, with the length of what is sent."""
    headers, body = await make_scrape().answer([(b"accept-encoding", encoding)])
    assert dict(headers)[b"content-length"] == str(len(body)).encode()
    assert (dict(headers).get(b"content-encoding") == b"gzip") == packed
    assert b"e2i_workers_expected" in (gzip.decompress(body) if packed else body)


async def test_a_service_s_own_hook_adds_to_its_metrics(make_scrape):
    """What ``__metrics__`` gives is shown in either format, whether it waits or not."""

    async def waits(text: str) -> str:
        return text + "# TYPE added gauge\nadded 7\n"

    for hook in (waits, lambda text: text + "# TYPE added gauge\nadded 7\n"):
        scrape = make_scrape(users=UserMetrics(hook))
        for accept in (b"", b"application/openmetrics-text"):
            _, body = await scrape.answer([(b"accept", accept)])
            assert b"\nadded 7" in body
            assert b"scrape_own_total" in body


async def test_a_broken_hook_hides_nothing_of_ours(make_scrape, guard):
    """What the user's code raises costs the user's metrics, and is counted."""

    def broken(text: str) -> str:
        raise RuntimeError(text[:5])

    _, body = await make_scrape(users=UserMetrics(broken)).answer([])
    assert b'e2i_workers_expected{service="Churn"} 3' in body
    assert guard.failures[USER_METRICS] == 1


async def test_without_ours_the_user_s_are_shown(make_scrape):
    """Metrics that are switched off leave the service's own."""
    _, body = await make_scrape(folder=None).answer([])
    assert b"scrape_own_total" in body
    assert b"e2i_" not in body


WIPED = """
import asyncio, os, sys
from pathlib import Path
from e2i_serving.guard import FailureGuard
from e2i_serving.runtime.scrape import Scrape, ServedBy
import prometheus_client

prometheus_client.Counter("wiped_own", "A metric of the service's own.").inc()
guard = FailureGuard()
scrape = Scrape(Path(sys.argv[1]) / "ours", ServedBy(), None, lambda: None, guard)
for wipe in (False, True, False):
    if wipe:
        for path in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).iterdir():
            path.unlink()
    for _ in range(3):
        _, body = asyncio.run(scrape.answer([]))
    print(guard.failures["user metrics"], b"wiped_own_total 1" in body)
"""


def test_a_wipe_of_the_user_s_metrics_is_said_once(tmp_path):
    """A second server with the same home clears the folder under the first one; ours are not there."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WIPED, str(tmp_path)],
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["0", "True", "1", "False", "1", "False"]
    assert done.stderr.count("was cleared while it ran") >= 1
