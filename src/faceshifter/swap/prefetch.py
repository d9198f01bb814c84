"""Stages that overlap: each iterator in a thread of its own, a few items ahead of the next."""

import threading
from collections.abc import Generator, Iterable
from queue import Full, Queue
from typing import TypeVar

T = TypeVar("T")
WAIT = 0.1
"""Seconds after which a full queue looks whether anybody still wants its items."""
DONE = object()


def prefetch(items: Iterable[T], count: int) -> Generator[T]:
    """The same items, made in a thread that stays at most ``count`` items ahead.

    What the thread raises is raised here. Where the items are not taken to the end, the thread ends
    with the item that it is at.
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
                iterator.close()  # a generator's own stages and files
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
