"""Verifies a whole trail: the store's chains, in several processes where there is much, against the signed log."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Final

from e2i_serving.evidence.entities import verify_entities
from e2i_serving.evidence.history import History, read_history
from e2i_serving.evidence.report import Report
from e2i_serving.evidence.signing import PUBLIC_SUFFIX, read_public_keys
from e2i_serving.evidence.verification import Signed, Span, verify_places, verify_span, verify_whole, what_was_signed
from e2i_serving.exceptions import EvidenceError
from e2i_serving.stores.chains import LifeSpan, SqlChains

Progress = Callable[[int, int], None]
"""Told how many rows of how many are verified."""

SPAN_ROWS: Final = 2000
"""Most rows of one life that are verified at a time."""

_TASK_ROWS: Final = 10_000
_ROWS_WORTH_A_PROCESS: Final = 50_000


def read_signed_history(folders: Sequence[Path], public_keys: Sequence[Path] = ()) -> History:
    """Read the signed logs.

    Args:
        folders: Where they are.
        public_keys: The keys whose signatures count; none for those that lie beside the logs.

    Raises:
        EvidenceError: A log or a key can't be read.
    """
    found = public_keys or [path for folder in folders for path in sorted(folder.glob(f"*{PUBLIC_SUFFIX}"))]
    if not found:
        raise EvidenceError("No public key was found beside the checkpoints. Name one with --public-key.")
    return read_history(folders, read_public_keys(found))


def verify_trail(url: str, history: History, *, processes: int = 1, progress: Progress | None = None) -> Report:
    """Verify a trail.

    Args:
        url: The store, as an SQLAlchemy URL.
        history: What the signed logs say.
        processes: Most processes to use.
        progress: Told how far it has come.

    Returns:
        What was found.

    Raises:
        StoreError: The store can't be read.
    """
    signed = what_was_signed(history)
    with SqlChains(url) as source:
        lives = source.spans()
        misplaced = verify_places(source)
        total = sum(life.rows for life in lives)
        processes = min(processes, 1 + total // _ROWS_WORTH_A_PROCESS)
        if processes > 1:
            report = _verify_apart(url, lives, signed, total, progress, processes)
        else:
            report = _verify_here(source, lives, signed, total, progress)
    report.add(misplaced)
    verify_whole([Span(life.life, life.first, life.last) for life in lives], history, report)
    return report


def _verify_here(
    source: SqlChains, lives: Sequence[LifeSpan], signed: Signed, total: int, progress: Progress | None
) -> Report:
    report = Report()
    done = 0
    for span, rows in _spans(lives):
        report.add(verify_span(source, span, signed))
        done += rows
        if progress is not None:
            progress(done, total)
    report.add(verify_entities(source))
    return report


def _verify_apart(
    url: str, lives: Sequence[LifeSpan], signed: Signed, total: int, progress: Progress | None, processes: int
) -> Report:
    report = Report()
    done = 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _open_source, (url, signed)) as pool:
        entities = pool.submit(_verify_entities)
        tasks = {pool.submit(_verify_spans, spans): rows for spans, rows in _tasks(lives)}
        try:
            for task in as_completed(tasks):
                report.add(task.result())
                done += tasks[task]
                if progress is not None:
                    progress(done, total)
            report.add(entities.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return report


def _spans(lives: Sequence[LifeSpan]) -> Iterator[tuple[Span, int]]:
    """Parts of chains, and about how many rows each has."""
    for life in lives:
        length = life.last - life.first + 1
        # Where much was purged, a part of the chain has few rows.
        step = max(SPAN_ROWS, SPAN_ROWS * length // max(life.rows, 1))
        parts = range(life.first, life.last + 1, step)
        for first in parts:
            yield Span(life.life, first, min(first + step - 1, life.last)), max(life.rows // len(parts), 1)


def _tasks(lives: Sequence[LifeSpan]) -> Iterator[tuple[list[Span], int]]:
    spans: list[Span] = []
    rows = 0
    for span, count in _spans(lives):
        spans.append(span)
        rows += count
        if rows >= _TASK_ROWS:
            yield spans, rows
            spans, rows = [], 0
    if spans:
        yield spans, rows


class _Process:
    """What a process of the pool keeps from task to task."""

    source: SqlChains
    signed: Signed


def _open_source(url: str, signed: Signed) -> None:
    _Process.source = SqlChains(url)
    _Process.signed = signed


def _verify_spans(spans: Sequence[Span]) -> Report:
    report = Report()
    for span in spans:
        report.add(verify_span(_Process.source, span, _Process.signed))
    return report


def _verify_entities() -> Report:
    return verify_entities(_Process.source)
