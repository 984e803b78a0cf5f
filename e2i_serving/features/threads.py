"""A few threads in which a store may hang without anything else hanging."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from e2i_serving.exceptions import FeatureError

T = TypeVar("T")


class FeatureThreads(Generic[T]):
    """Runs calls in daemon threads, so that one that hangs keeps no process from ending.

    Args:
        number: How many threads.
        waiting: Most calls that wait for one of them.
    """

    def __init__(self, number: int, waiting: int) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[T], Callable[[], T]] | None] = queue.SimpleQueue()
        self._waiting = waiting
        self._number = number
        for at in range(number):
            threading.Thread(target=self._run, name=f"e2i-features-{at}", daemon=True).start()

    def call(self, function: Callable[[], T], timeout: float) -> T:
        """What a call returns, in time.

        Args:
            function: The call.
            timeout: Seconds that it may take, waiting included.

        Raises:
            FeatureError: It took longer (``timeout``), or too many wait already (``overloaded``).
        """
        if self._calls.qsize() >= self._waiting:
            raise FeatureError("Too many requests wait for the feature store.", "overloaded")
        future: Future[T] = Future()
        self._calls.put((future, function))
        try:
            return future.result(timeout)
        except TimeoutError:
            if not future.done():
                future.cancel()  # nobody waits any more, so it need not begin
                raise FeatureError(f"The feature store did not answer within {timeout:g} s.", "timeout") from None
            raise

    def close(self) -> None:
        """Let the threads end once they have nothing to do."""
        for _ in range(self._number):
            self._calls.put(None)

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            future, function = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001  # raised again where it is waited for
                future.set_exception(error)
