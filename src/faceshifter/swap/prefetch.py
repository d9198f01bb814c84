"""Overlapping stages: each iterator runs in its own thread, a few items ahead of the next."""

import threading
from collections.abc import Generator, Iterable
from queue import Full, Queue
from typing import TypeVar

T = TypeVar("T")
WAIT = 0.1
"""Seconds after which a thread with a full queue checks whether it has to stop."""
DONE = object()


def prefetch(items: Iterable[T], count: int) -> Generator[T]:
    """Yield the same items, made in a thread that stays at most ``count`` items ahead.

    An error in the thread is raised here. If the generator is closed early, the thread ends after
    its current item.
    """
    queue: Queue[object] = Queue(count)
    stop = threading.Event()
    failure: list[BaseException] = []

    def put(item: object) -> None:
        while not stop.is_set():
            try:
                queue.put(item, timeout=WAIT)
            except Full:
                continue
            return

    def work() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                put(item)
                if stop.is_set():
                    break
        except BaseException as error:  # noqa: BLE001  # it is raised again in the other thread
            failure.append(error)
        finally:
            if hasattr(iterator, "close"):
                iterator.close()  # a generator's threads and files
            put(DONE)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not DONE:
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
    if failure:
        raise failure[0]
