"""Chunks that announce too much, hold too much, or end early: never more memory than announced."""

from __future__ import annotations

import bz2
import tracemalloc
from collections.abc import Callable

import lz4.frame
import numpy as np
import pytest
import zstandard
from roadshift.runtime.bags.chunks import CHUNK_LIMIT, decompressed, zstd_content_size
from roadshift.runtime.bags.regions import BrokenBagError

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4": lz4.frame.compress,
    "bz2": bz2.compress,
}
CONTENT = np.random.default_rng(0).integers(0, 200, 900_000, dtype=np.uint8).tobytes()


@pytest.mark.parametrize("kind", COMPRESS)
def test_whole(kind: str) -> None:
    content, problem = decompressed(kind, memoryview(COMPRESS[kind](CONTENT)), len(CONTENT))
    assert bytes(content) == CONTENT
    assert problem is None
    assert content.readonly


@pytest.mark.parametrize("kind", ["zstd", "lz4"])
def test_what_lies_before_a_cut_is_given(kind: str) -> None:
    data = memoryview(COMPRESS[kind](CONTENT))
    content, problem = decompressed(kind, data[: len(data) * 2 // 3], len(CONTENT))
    assert problem is not None
    assert len(content) > len(CONTENT) // 3
    assert bytes(content) == CONTENT[: len(content)]


@pytest.mark.parametrize("kind", COMPRESS)
def test_no_more_is_made_than_is_announced(kind: str) -> None:
    bomb = memoryview(COMPRESS[kind](bytes(2**25)))
    assert len(bomb) < 2**18
    tracemalloc.start()
    content, _ = decompressed(kind, bomb, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(content) <= 1000
    assert peak < 2**24


def test_an_announcement_beyond_the_limit_is_refused_at_once() -> None:
    bomb = memoryview(COMPRESS["zstd"](bytes(2**20)))
    with pytest.raises(BrokenBagError, match="at most 536870912 are taken"):
        decompressed("zstd", bomb, CHUNK_LIMIT + 1)


def test_an_unknown_compression_is_named() -> None:
    with pytest.raises(BrokenBagError, match="'snappy' is none of lz4, zstd and bz2"):
        decompressed("snappy", memoryview(b"x"), 10)


@pytest.mark.parametrize("size", [0, 10, 255, 256, 257, 65791, 65792, 10**6])
def test_the_size_that_a_zstd_frame_states(size: int) -> None:
    data = zstandard.ZstdCompressor().compress(bytes(size))
    assert zstd_content_size(memoryview(data)) == size
    assert zstd_content_size(memoryview(data[:5])) is None
    assert zstd_content_size(memoryview(b"x" * 20)) is None
