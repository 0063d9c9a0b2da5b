"""Threads that each work on tiles of their own, with torch on one thread inside each.

A tile is too small for torch to divide it well among threads: whole tiles divide better.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_pools: dict[int, ThreadPoolExecutor] = {}
_making = threading.Lock()


def in_parallel(
    work: Callable[[Sequence[Item]], Result], items: Sequence[Item], device: torch.device
) -> list[Result]:
    """``work`` on neighbouring parts of ``items``, a part for each of torch's threads; in order.

    On a GPU, and with one thread, all items are one part, worked on here.
    """
    count = min(torch.get_num_threads(), len(items)) if device.type == "cpu" else 1
    if count <= 1:
        return [work(items)]
    bounds = [len(items) * part // count for part in range(count + 1)]
    parts = [items[a:b] for a, b in itertools.pairwise(bounds)]
    return list(_pool(torch.get_num_threads()).map(work, parts))


def _pool(threads: int) -> ThreadPoolExecutor:
    """Workers for ``threads``, made once."""
    with _making:
        if threads not in _pools:
            all_there = threading.Barrier(threads)
            pool = ThreadPoolExecutor(threads, thread_name_prefix="roadshift-tiles")

            def alone(_: int) -> None:
                torch.get_num_threads()  # else the thread's first operation sets the default again
                torch.set_num_threads(1)  # of this thread, and of threads that are yet to come:
                all_there.wait()

            list(pool.map(alone, range(threads)))
            torch.set_num_threads(threads)  # which get theirs back here
            _pools[threads] = pool
        return _pools[threads]
