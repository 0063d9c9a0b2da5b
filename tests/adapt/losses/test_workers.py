"""Threads that share the tiles of a frame."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import pytest
import torch
from roadshift.adapt.losses.backends.workers import in_parallel

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread", "same_threads")


def test_parts_come_in_order_and_cover_everything() -> None:
    torch.set_num_threads(3)
    for count in (1, 2, 3, 7):
        parts = in_parallel(list, range(count), CPU)
        assert [item for part in parts for item in part] == list(range(count))
        assert len(parts) == min(3, count)


def test_each_works_with_one_thread_and_the_caller_keeps_its_own() -> None:
    """Else two workers' products of matrices run on four threads, each waiting for the others."""
    threads = 5  # no other test's pool
    torch.set_num_threads(threads)
    big = torch.randn(256, 512)
    in_parallel(lambda _: None, range(threads), CPU)  # makes the pool
    before = len(os.listdir("/proc/self/task"))
    all_at_work = threading.Barrier(threads)

    def work(_: Sequence[int]) -> tuple[str, int]:
        all_at_work.wait(30)  # so that every worker has a part
        for _ in range(20):
            (big @ big.T).exp_()  # large enough for torch to divide
        return threading.current_thread().name, torch.get_num_threads()

    found = in_parallel(work, range(threads), CPU)
    assert len({name for name, _ in found}) == threads
    assert {count for _, count in found} == {1}
    assert len(os.listdir("/proc/self/task")) == before
    assert torch.get_num_threads() == threads
