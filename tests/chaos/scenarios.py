"""What goes wrong, one function each: it breaks something under load, mends it, and lets the rig judge."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rig import Load, Postgres, Service, small_disk, wait_for

KILLS = 5
"""How often each worker is killed."""

WORKERS = 4
"""How many the service has."""


@dataclass
class Bench:
    """What scenarios work with.

    Attributes:
        home: A BentoML home that holds the model.
        folder: Where data directories may be made.
        postgres: A store on a server.
        seconds: How long something stays broken.
        seed: Of the random times.
    """

    home: Path
    folder: Path
    postgres: Postgres
    seconds: float
    seed: int
    served: Service | None = None
    """The service of the scenario at hand."""
    lent: ExitStack = field(default_factory=ExitStack)
    """What is given back after it."""

    def stop(self) -> None:
        """End the service of the scenario at hand, and give back what it used."""
        if self.served is not None:
            self.served.stop()
            self.served = None
        self.lent.close()

    def service(self, name: str, *, on_server: bool = False, **settings: str) -> Service:
        """Serve with a fresh data directory and store; a store on the server keeps to a schema of its own."""
        url = None
        if on_server:
            import psycopg  # one scenario in two needs it

            with psycopg.connect(self.postgres.url, autocommit=True) as connection:
                connection.execute(f"CREATE SCHEMA {name}")  # type: ignore[arg-type]  # a constant of this file
            url = f"{self.postgres.url}&options=-csearch_path%3D{name}"
        return self.serve(self.folder / name, url, **settings)

    def serve(self, data_dir: Path, url: str | None, **settings: str) -> Service:
        """Serve with this data directory and store, and wait until it answers."""
        self.served = Service(self.home, data_dir, url, **settings)
        self.served.await_ready()
        return self.served


@dataclass
class Finding:
    """What came of a scenario.

    Attributes:
        service: The service, still running.
        load: What clients saw.
        refusals: Statuses other than 2xx that the scenario allows.
        note: What to say of it.
        history_kept: Whether the trail holds all that was ever answered; not when its own folder was deleted.
    """

    service: Service
    load: Load
    refusals: frozenset[int] = frozenset()
    note: str = ""
    history_kept: bool = True


def kills(bench: Bench) -> Finding:
    """Kill -9 of each worker five times, of the relay too, and the store down in between."""
    rng = random.Random(bench.seed)
    service = bench.service("kills", on_server=True)
    with Load(service.port) as load, ExitStack() as broken:
        load.await_more()
        relays = 0
        stopped = 0.0
        for turn in range(KILLS):
            if turn == KILLS // 2:
                bench.postgres.stop()
                broken.callback(bench.postgres.start)
                stopped = time.monotonic()
            for worker in (killed := rng.sample(service.workers(), WORKERS)):
                time.sleep(rng.uniform(0.2, 2.0))
                worker.kill()
            for relay in service.relays():
                with suppress(psutil.NoSuchProcess):
                    relay.kill()
                    relays += 1
            psutil.wait_procs(killed, 30)
            wait_for(lambda: len(service.workers()) == WORKERS, 90, "as many workers as before")
            load.await_more(seconds=90)
            if stopped and time.monotonic() - stopped >= bench.seconds:
                broken.close()
                stopped = 0.0
        if stopped:
            time.sleep(max(0.0, bench.seconds - (time.monotonic() - stopped)))
            broken.close()
        load.await_more()
    note = f"{KILLS * WORKERS} workers and {relays} relays killed, store down for at least {bench.seconds:g} s"
    return Finding(service, load, note=note)


def store_hung(bench: Bench) -> Finding:
    """The store takes connections and never answers."""
    return _broken_store(bench, "hung", bench.postgres.hang, bench.postgres.go_on)


def store_refusing(bench: Bench) -> Finding:
    """The store refuses every write."""
    return _broken_store(
        bench,
        "refusing",
        lambda: bench.postgres.refuse_writes(refuse=True),
        lambda: bench.postgres.refuse_writes(refuse=False),
    )


def store_down(bench: Bench) -> Finding:
    """The store is stopped."""
    return _broken_store(bench, "down", bench.postgres.stop, bench.postgres.start)


def _broken_store(bench: Bench, name: str, damage: Callable[[], None], mend: Callable[[], None]) -> Finding:
    service = bench.service(name, on_server=True)
    with Load(service.port) as load:
        load.await_more(500)
        service.watch_memory()
        damage()
        try:
            time.sleep(bench.seconds)
            load.await_more()
        finally:
            mend()
        load.await_more()
    return Finding(service, load, note=f"for {bench.seconds:g} s")


def disk_full(bench: Bench, *, required: bool = False) -> Finding:
    """The data directory's disk has no room left."""
    name = "required" if required else "full"
    mounted = bench.lent.enter_context(small_disk(bench.folder / f"disk-{name}", 48))
    settings = {"E2I_SERVING_SEGMENT_BYTES": str(1024 * 1024), "E2I_SERVING_AUDIT_REQUIRED": str(required).lower()}
    folder = bench.folder / f"store-{name}"
    folder.mkdir()
    service = bench.serve(mounted / "data", f"sqlite:///{folder}/audit.db", **settings)
    with Load(service.port) as load:
        load.await_more(500)
        service.watch_memory()
        ballast = mounted / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))
        time.sleep(bench.seconds)
        if not required:
            load.await_more()
        ballast.unlink()
        load.await_more(seconds=60)
    return Finding(
        service, load, frozenset({503}) if required else frozenset(), "what could not be journaled is counted"
    )


def disk_full_required(bench: Bench) -> Finding:
    """The same, with every prediction required to be on record."""
    return disk_full(bench, required=True)


def directory_removed(bench: Bench) -> Finding:
    """The data directory is deleted under the running service."""
    service = bench.service("removed", on_server=True)
    with Load(service.port) as load:
        load.await_more(500)
        # At two thousand answers a second, some hundred are always on their way.
        wait_for(lambda: service.pending() < 1000, 60, "delivery")
        service.watch_memory()
        shutil.rmtree(service.data_dir, ignore_errors=True)
        load.await_more(500)
        wait_for((service.data_dir / "journal").is_dir, 30, "a new data directory")
        load.await_more(500)
    return Finding(service, load, note="deleted with all in it", history_kept=False)


def clock_back(bench: Bench) -> Finding:
    """The clock steps back an hour, and forth again."""
    clock = bench.folder / "offset"
    clock.write_text("0")
    service = bench.service("clock", CHAOS_CLOCK=str(clock), PYTHONPATH=str(Path(__file__).parent / "clock"))
    with Load(service.port) as load:
        load.await_more(500)
        service.watch_memory()
        clock.write_text("-3600")
        time.sleep(min(bench.seconds, 10))
        load.await_more(500)
        clock.write_text("0")
        load.await_more(500)
    return Finding(service, load, note="of workers, relay and server")


SCENARIOS = {
    "kills": kills,
    "store-down": store_down,
    "store-hung": store_hung,
    "store-refusing": store_refusing,
    "disk-full": disk_full,
    "disk-full-required": disk_full_required,
    "directory-removed": directory_removed,
    "clock-back": clock_back,
}
