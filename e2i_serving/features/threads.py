"""A few threads in which a store may hang without anything else hanging."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from e2i_serving.exceptions import FeatureError

T = TypeVar("T")


class _Call(Generic[T]):
    """A call on its way through a thread. A future would do the same for several times the cost."""

    __slots__ = ("abandoned", "error", "function", "over", "result")

    def __init__(self, function: Callable[[], T]) -> None:
        self.function = function
        self.over = threading.Lock()
        self.over.acquire()
        self.abandoned = False
        self.result: T | None = None
        self.error: BaseException | None = None


class FeatureThreads(Generic[T]):
    """Runs calls in daemon threads, so that one that hangs keeps no process from ending.

    Args:
        number: How many threads.
        waiting: Most calls that wait for one of them.
    """

    def __init__(self, number: int, waiting: int) -> None:
        self._calls: queue.SimpleQueue[_Call[T] | None] = queue.SimpleQueue()
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
        call = _Call(function)
        self._calls.put(call)
        if not call.over.acquire(timeout=timeout):
            call.abandoned = True  # nobody waits any more, so it need not begin
            raise FeatureError(f"The feature store did not answer within {timeout:g} s.", "timeout")
        if call.error is not None:
            raise call.error
        return call.result  # type: ignore[return-value]  # set where there is no error

    def close(self) -> None:
        """Let the threads end once they have nothing to do."""
        for _ in range(self._number):
            self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            if not call.abandoned:
                try:
                    call.result = call.function()
                except BaseException as error:  # noqa: BLE001  # raised again where it is waited for
                    call.error = error
                call.over.release()
            del call  # it holds what a request asked for and got
