"""Break a real service in every way that is promised to be survived, and print what came of it.

Usage: python tests/chaos [--only NAME ...] [--seconds 60] [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from rig import MEMORY_BOUND, Postgres, wait_for  # found beside this file
from scenarios import SCENARIOS, Bench, Finding  # likewise

MIB = 1024 * 1024
TRAIN = Path(__file__).parents[1] / "e2e" / "services" / "train.py"
COLUMNS = (
    "scenario",
    "seconds",
    "answered",
    "refused",
    "cut off",
    "rows",
    "lost",
    "doubled",
    "books",
    "verify",
    "memory",
)


def main() -> int:
    """Run the scenarios; the exit code is 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--seconds", type=float, default=60, help="how long something stays broken")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="e2i-chaos-"))
    folder.chmod(0o755)  # the database server runs as another user when this runs as root
    home = folder / "bentoml"
    environment = {**os.environ, "BENTOML_HOME": str(home)}
    subprocess.run([sys.executable, TRAIN], env=environment, check=True, timeout=120)
    postgres = Postgres(folder / "postgres")
    bench = Bench(home, folder, postgres, arguments.seconds, arguments.seed)
    print(" | ".join(COLUMNS), flush=True)
    broken = 0
    try:
        for name in arguments.only:
            broken += not _run(name, bench)
    finally:
        postgres.close()
        for mounted in folder.glob("disk-*"):
            subprocess.run(["umount", "-l", str(mounted)], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if broken else 0


def _run(name: str, bench: Bench) -> bool:
    started = time.monotonic()
    try:
        return _judge(name, SCENARIOS[name](bench), started)
    except PermissionError as error:
        print(f"{name} | not run here: {error}", flush=True)
        return False
    except Exception:  # noqa: BLE001  # whatever broke, the other scenarios are still of interest
        print(f"{name} | BROKEN", flush=True)
        traceback.print_exc()
        if bench.served is not None:
            print(bench.served.log.read_text(errors="replace")[-3000:])
        return False
    finally:
        bench.stop()


def _judge(name: str, finding: Finding, started: float) -> bool:
    """Print a scenario's line; whether every promise was kept."""
    service, load = finding.service, finding.load
    wait_for(lambda: service.pending() == 0, 180, "delivery of all that was journaled")
    growth = service.growth()
    service.stop()
    service.command("relay", "--once")
    stored = service.stored()
    lost = sum(1 for each in load.ids if each not in stored)
    doubled = sum(1 for each in stored.values() if each > 1) + len(load.ids) - len(set(load.ids))
    books = service.command("audit", "books", "--format", "json")
    verify = service.command("audit", "verify")
    answered = load.statuses[200]
    refused = {status: count for status, count in load.statuses.items() if status != 200}
    kept = (
        lost <= _unjournaled(books.stdout)
        and doubled == 0
        and books.returncode == 0
        and (verify.returncode == 0 or not finding.history_kept)
        and max(growth.values(), default=0) < MEMORY_BOUND
        and set(refused) <= finding.refusals
    )
    cells = (
        name,
        f"{time.monotonic() - started:.0f}",
        answered,
        sum(refused.values()),
        load.cut,
        len(stored),
        lost,
        doubled,
        "balance" if books.returncode == 0 else "DO NOT BALANCE",
        "passes" if verify.returncode == 0 else "FAILS" if finding.history_kept else "not claimed",
        ", ".join(f"{kind} +{grown / MIB:.0f} MiB" for kind, grown in growth.items()),
    )
    print(" | ".join(map(str, cells)), f"({finding.note})", "" if kept else "  <- BROKEN", flush=True)
    if not kept:
        print(books.stdout, books.stderr, verify.stdout[-2000:], verify.stderr[-2000:], refused, sep="\n")
        print(service.log.read_text(errors="replace")[-3000:])
    return kept


def _unjournaled(books: str) -> int:
    """How many predictions could not be journaled, by the books' own account."""
    found = [json.loads(line) for line in books.splitlines()]
    return sum(sum(each["unjournaled"].values()) for each in found if "unjournaled" in each)


if __name__ == "__main__":
    sys.exit(main())
