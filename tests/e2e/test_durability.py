"""No accepted prediction is lost, and none is stored twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from e2i_serving.relay import RelayLock, read_books

COMMAND = Path(sys.executable).with_name("e2i-serving")
ROW = [0.5, 1.0, -0.5, 0.25]


def ask(url: str, ids: list[str], count: int, headers: dict[str, str] | None = None) -> None:
    """Send predictions on one connection; note the id of each 2xx that arrived in full."""
    with httpx.Client(base_url=url, timeout=30) as client:
        for _ in range(count):
            try:
                answer = client.post("/predict", json={"instances": [ROW]}, headers=headers)
            except httpx.TransportError:
                return
            if answer.is_success:
                ids.append(answer.json()["prediction_id"])


def stored_ids(server) -> Counter[str]:
    """How often each prediction id stands in the trail."""
    with server.trail() as trail:
        return Counter(row["prediction_id"] for row in trail.query(items=False, limit=None))


@pytest.mark.smoke
def test_a_thousand_answers_survive_the_kill_of_every_process(serve):
    """Right after 1,000 answers, kill -9 of workers, relay and supervisor loses none of them."""
    with serve("probe:Probe") as server:
        ids: list[str] = []
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: ask(server.url, ids, 125), range(8)))
        # The supervisor first, which would start a worker in the place of a killed one.
        victims = [psutil.Process(server.process.pid), *server.workers(), *server.relays()]
        for victim in victims:
            os.kill(victim.pid, signal.SIGKILL)
        psutil.wait_procs(victims, timeout=10)
        assert len(ids) == 1000
        subprocess.run([COMMAND, "relay", "--once", "--data-dir", server.data_dir], check=True, timeout=180)
        assert not list((server.data_dir / "journal").iterdir())
        (book,) = read_books(server.data_dir)
        assert (book.accepted, book.stored, book.pending, book.balanced) == (1000, 1000, 0, True)
        assert stored_ids(server) == Counter(ids)


def test_workers_killed_under_load_lose_only_what_they_had_not_answered(serve, eventually):
    """While clients go on, a worker is killed and started again; every answered prediction has exactly one row."""
    with serve("probe:Probe") as server:
        ids: list[str] = []
        clients = [threading.Thread(target=ask, args=(server.url, ids, 300)) for _ in range(6)]
        for client in clients:
            client.start()
        eventually(lambda: len(ids) > 200, what="some answers")
        server.workers()[0].kill()
        for client in clients:
            client.join()
        assert ids
        eventually(lambda: not set(ids) - stored_ids(server).keys(), what="every answer's row")
        assert set(stored_ids(server).values()) == {1}
        eventually(lambda: all(book.balanced for book in read_books(server.data_dir)), what="the books to balance")


def test_a_killed_relay_is_started_again_by_a_worker(serve, eventually):
    """When the relay dies, a worker starts another, and what was journaled meanwhile is stored."""
    with serve("probe:Probe") as server:
        lock = RelayLock(server.data_dir)
        first = eventually(lock.holder, what="a relay")
        os.kill(first, signal.SIGKILL)
        prediction_id = server.predict(instances=[ROW]).json()["prediction_id"]
        eventually(lambda: lock.holder() not in (None, first), what="another relay")
        eventually(lambda: stored_ids(server)[prediction_id] == 1, what="the row")


def test_the_relay_ends_by_itself_after_the_server(serve, eventually):
    """Once the server is gone and all is stored, no process of ours stays behind."""
    with serve("probe:Probe", E2I_SERVING_RELAY_LINGER_SECONDS="0.5") as server:
        lock = RelayLock(server.data_dir)
        eventually(lock.holder, what="a relay")
        prediction_id = server.predict(instances=[ROW]).json()["prediction_id"]
        server.stop()
        eventually(lambda: lock.holder() is None, what="the relay to end")
        assert not list((server.data_dir / "journal").iterdir())
        assert stored_ids(server)[prediction_id] == 1


def test_predictions_go_on_while_the_store_is_away(serve, eventually, tmp_path):
    """With a store that can't be opened, answers go on and wait in the journal; once it is back, all is stored."""
    missing = tmp_path / "not-there-yet" / "audit.db"
    with serve("probe:Probe", E2I_SERVING_AUDIT_URL=f"sqlite:///{missing}") as server:
        ids: list[str] = []
        ask(server.url, ids, 50)
        assert len(ids) == 50
        (book,) = read_books(server.data_dir)
        assert (book.accepted, book.pending, book.balanced) == (50, 50, True)
        missing.parent.mkdir()
        eventually(lambda: read_books(server.data_dir)[0].stored == 50, deadline=60, what="delivery")


def test_power_loss_durability_answers_after_the_disk_has_it(serve, eventually):
    """With durability set to power-loss, concurrent requests are answered and stored as otherwise."""
    with serve("probe:Probe", E2I_SERVING_DURABILITY="power-loss") as server:
        ids: list[str] = []
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: ask(server.url, ids, 20), range(8)))
        assert len(ids) == 160
        eventually(lambda: stored_ids(server) == Counter(ids), what="every row")


def test_required_audit_refuses_what_cannot_be_journaled(serve):
    """With audit_required, a worker whose journal can't grow answers 503 with Retry-After and turns unready."""
    with serve("probe:Probe", E2I_SERVING_AUDIT_REQUIRED="true", E2I_SERVING_RELAY_ENABLED="false") as server:
        assert server.predict(instances=[ROW]).status_code == 200
        for worker in server.workers():
            # No file may grow beyond what is written already: the kernel's own way of a full disk.
            psutil.Process(worker.pid).rlimit(psutil.RLIMIT_FSIZE, (0, 0))
        answer = server.predict(instances=[ROW])
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "record" in answer.json()["error"]
        assert httpx.get(server.url + "/readyz").status_code == 503
