"""Lets a process tell another time: its wall clock is off by as many seconds as a file says."""

import os
import threading
import time
from pathlib import Path

_FILE = Path(os.environ["CHAOS_CLOCK"])
_offset = 0
_time, _time_ns = time.time, time.time_ns


def _follow() -> None:
    global _offset  # noqa: PLW0603  # a clock is global
    while True:
        _offset = int(_FILE.read_text() or 0) if _FILE.exists() else 0
        time.sleep(0.2)


time.time = lambda: _time() + _offset
time.time_ns = lambda: _time_ns() + _offset * 10**9
threading.Thread(target=_follow, daemon=True).start()
