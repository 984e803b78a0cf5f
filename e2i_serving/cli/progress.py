"""How far long work is, for whoever waits for it at a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Meter:
    """Shows how far it is. Made by ``progress``."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def advance(self, more: int = 1) -> None:
        """Some more are done."""
        self._bar.advance(self._task, more)

    def reach(self, done: int, total: int) -> None:
        """So many of so many are done."""
        self._bar.update(self._task, completed=done, total=total)


@contextmanager
def progress(what: str, *, total: int | None = None, counted: bool = True, enabled: bool = True) -> Iterator[Meter]:
    """Show on standard error how far work is, if that is a terminal; nothing of it stays there.

    Args:
        what: What is being done, such as ``Verifying``.
        total: How many there are, if that is known.
        counted: Whether the meter is told how many are done; otherwise it shows the time only.
        enabled: Whether to show anything.
    """
    from rich.console import Console  # noqa: PLC0415  # keeps --help fast
    from rich.progress import (  # noqa: PLC0415  # likewise
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    error = Console(stderr=True)
    columns: list[ProgressColumn] = [TextColumn(what), BarColumn()]
    if counted:
        columns.append(MofNCompleteColumn())
    columns.append(TimeElapsedColumn())
    with Progress(*columns, console=error, transient=True, disable=not (enabled and error.is_terminal)) as bar:
        yield Meter(bar, bar.add_task(what, total=total))
