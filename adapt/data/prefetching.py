"""Batches made ahead of their use, in background threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

from ...runtime.probes.cores import available_cores

Item = TypeVar("Item")
MAX_LOADERS = 8  # threads that make batches while a GPU takes steps


class Prefetcher(Generic[Item]):
    """``make(start), make(start + 1), ...`` computed ahead of their use in background threads.

    With ``depth`` 0 each is made when it is asked for: on a CPU, where the steps keep every core
    busy, a thread beside them costs more than it saves.

    Args:
        depth: items that are made or being made and not yet drawn.
        workers: threads; ``make`` is called by several at a time.
    """

    def __init__(
        self, make: Callable[[int], Item], start: int, stop: int, depth: int = 3, workers: int = 1
    ) -> None:
        self._make, self._next, self._stop, self._depth = make, start, stop, depth
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="frames")
        self._queue: deque[Future[Item]] = deque()

    def __iter__(self) -> Iterator[Item]:
        if self._depth == 0:
            yield from map(self._make, range(self._next, self._stop))
            return
        while True:
            while len(self._queue) < self._depth and self._next < self._stop:
                self._queue.append(self._pool.submit(self._make, self._next))
                self._next += 1
            if not self._queue:
                return
            yield self._queue.popleft().result()

    def close(self) -> None:
        """Stop the background threads; what they had made is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def batches_of(
    make: Callable[[int], Item], start: int, stop: int, device: torch.device
) -> Prefetcher[Item]:
    """Batches for the steps ``start`` to ``stop``, made ahead where a GPU takes the steps."""
    workers = min(MAX_LOADERS, max(1, available_cores() - 1))  # one core is for the steps
    depth = workers + 2 if device.type == "cuda" else 0
    return Prefetcher(make, start, stop, depth, workers)
