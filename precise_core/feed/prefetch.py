"""The next items of an iterator, prepared by a thread while the consumer works on this one."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from queue import Queue
from threading import Event, Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class _Failure:
    """What the source raised; None = it came to its end."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetched(source: Generator[T, None, None], ahead: int) -> Iterator[T]:
    """The items of ``source`` in their order, up to ``ahead`` of them prepared in advance; 0 = no thread.

    What the source raises is raised here, after the items before it. The thread ends with the last item, and as soon
    as the returned iterator is closed or garbage-collected, as at the end of a ``for`` loop.
    """
    if not ahead:
        return source
    return _consume(_Producer(source, ahead))


def _consume(producer: _Producer[T]) -> Iterator[T]:
    producer.start()
    try:
        while not isinstance(item := producer.queue.get(), _Failure):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        producer.stop()


class _Producer(Thread, Generic[T]):
    """Fills the queue; at most one item is being prepared beyond what it holds."""

    def __init__(self, source: Generator[T, None, None], ahead: int) -> None:
        super().__init__(name="feed-prefetch", daemon=True)
        self.queue: Queue[T | _Failure] = Queue(ahead)
        self._source, self._is_abandoned = source, Event()

    def run(self) -> None:
        error = None
        try:
            for item in self._source:
                self.queue.put(item)
                if self._is_abandoned.is_set():
                    break
            self._source.close()
        except BaseException as raised:
            error = raised
        if not self._is_abandoned.is_set():
            self.queue.put(_Failure(error))

    def stop(self) -> None:
        """End the thread and wait for it; the queue is emptied so that a blocked put can finish."""
        self._is_abandoned.set()
        while self.is_alive():
            while not self.queue.empty():
                self.queue.get()
            self.join(timeout=0.01)
