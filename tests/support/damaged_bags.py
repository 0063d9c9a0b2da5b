"""Damaged bags read one after the other: no traceback, no hang, bounded memory, nothing lost before
the damage.

    python tests/support/damaged_bags.py --count 1000 --seed 0

Bags of every kind are cut, have bytes flipped, zeroed, inserted or taken out, lengths replaced by
huge ones, and their chunks replaced by ones that expand to much more than they announce. Each is
read through `open_frames` in this process, which limits its own memory. What is checked of each:

- it gives frames or a `FrameError`, within ten seconds;
- each frame is a picture that went in, or holds a damaged byte;
- every picture is there that ends before the first damaged byte, or whose chunk does where that is
  compressed, or whose pages do where it lies in pages, unless that byte lies in an index: then what
  is missing is spoken of.
"""

from __future__ import annotations

import argparse
import resource
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zstandard
from bag_cases import (
    IMAGE,
    Picture,
    cdr_images,
    log_of,
    pictures,
    write_mcap,
    write_ros1,
    write_ros2,
)
from mcap.reader import make_reader
from roadshift.runtime.errors import FrameError
from roadshift.runtime.frames import open_frames
from rosbags.rosbag1 import Reader

IN_PAGES = pictures(40, 48, 32)  # so many that rows lie before most of the pixels
SHOWN = IN_PAGES[:8]
LONGEST_S = 10
MEMORY_BYTES = 2**30  # more than this process has at its start
_CHUNK = 8000
_BETWEEN = 200  # bytes of the index of a chunk, which lies behind it


@dataclass(frozen=True)
class WholeBag:
    """A bag as it was written.

    Attributes:
        name: of its file.
        data: the file's.
        ends: byte behind each picture, or behind its chunk where that is compressed, or behind the
            last of its pages.
        reach: bytes before those ends in which damage may change the picture.
        index: byte at which what lies behind the last message begins.
    """

    name: str
    data: bytes
    ends: tuple[int, ...]
    reach: int
    index: int


def whole_bags(folder: Path) -> list[WholeBag]:
    """A bag of every kind."""
    images = cdr_images(SHOWN)
    paths = [
        write_ros1(folder / "none.bag", SHOWN, threshold=_CHUNK),
        write_ros1(folder / "lz4.bag", SHOWN, "lz4", _CHUNK),
        write_ros1(folder / "bz2.bag", SHOWN, "bz2", _CHUNK),
        next(write_ros2(folder / "db3", IN_PAGES, "sqlite3").glob("*.db3")),
        write_mcap(folder / "zstd.mcap", images, IMAGE, chunk_size=_CHUNK),
        write_mcap(folder / "lz4.mcap", images, IMAGE, compression="lz4", chunk_size=_CHUNK),
        write_mcap(folder / "none.mcap", images, IMAGE, compression="", chunk_size=_CHUNK),
        write_mcap(folder / "plain.mcap", images, IMAGE, use_chunking=False),
    ]
    found = []
    for path in paths:
        data = path.read_bytes()
        ends, reach = _chunk_ends(path), 2 * _CHUNK
        if path.name in ("none.bag", "none.mcap", "plain.mcap"):
            ends = tuple(data.find(one.tobytes()) + one.nbytes for one in SHOWN)
            reach = SHOWN[0].nbytes + 200
        elif path.suffix == ".db3":
            spans = page_spans(data, IN_PAGES)
            ends = tuple(end for _, end in spans)
            reach = max(end - begin for begin, end in spans)
        found.append(WholeBag(path.name, data, ends, reach, max(ends, default=0)))
    return found


def page_spans(data: bytes, shown: Sequence[Picture]) -> list[tuple[int, int]]:
    """The bytes of an SQLite file from the first to the last page that hold each picture, of noise.

    Its pages are those in which pieces of it are found.
    """
    size = int.from_bytes(data[16:18], "big")
    spans = []
    for one in shown:
        content, found, at = one.tobytes(), list[int](), 0
        for begin in (*range(0, len(content) - 8, 1000), len(content) - 8):
            piece = content[begin : begin + 8]
            place = data.find(piece, at)
            place = data.find(piece) if place < 0 else place
            if place >= 0:  # not one that goes on in the next page
                at = place
                found.append(place // size)
        spans.append((min(found) * size, (max(found) + 1) * size))
    return spans


def _chunk_ends(path: Path) -> tuple[int, ...]:
    """Byte behind the chunk of each picture, as the libraries of others say."""
    chunks: list[tuple[int, int, int]] = []  # end, first and last time
    if path.suffix == ".mcap":
        with path.open("rb") as file:
            summary = make_reader(file).get_summary()
        for one in [] if summary is None else summary.chunk_indexes:
            end = one.chunk_start_offset + one.chunk_length
            chunks.append((end, one.message_start_time, one.message_end_time))
    elif path.suffix == ".bag":
        with Reader(path) as reader:
            infos = sorted(reader.chunk_infos, key=lambda info: info.pos)
            data, name = path.read_bytes(), b"index_pos="
            at = data.index(name) + len(name)
            ends = [info.pos for info in infos[1:]] + [int.from_bytes(data[at : at + 8], "little")]
            chunks += [(end, i.start_time, i.end_time) for end, i in zip(ends, infos, strict=True)]
    holding = [
        [end for end, first, last in chunks if first <= log_of(number) <= last]
        for number in range(len(SHOWN))
    ]  # two chunks, where a message beside the picture of the same time came into the next
    return tuple(max(ends) for ends in holding) if chunks else ()


def damaged(bag: WholeBag, random: np.random.Generator) -> tuple[str, bytes, int, int]:
    """A way to damage a bag, the bag so damaged, and the first damaged byte and the one behind."""
    data = bytearray(bag.data)
    at = int(random.integers(0, len(data)))
    kinds = ["cut", "flip", "flips", "zeros", "taken", "inserted", "length", "no index", "bomb"]
    kind = str(random.choice(kinds))
    size = int(random.integers(1, 400))
    if kind == "no index" and bag.index:
        at = bag.index + int(random.integers(0, max(1, len(data) - bag.index)))
    if kind in ("cut", "no index"):
        return kind, bytes(data[:at]), at, len(data)
    if kind == "flip":
        data[at] ^= 1 << int(random.integers(8))
        return kind, bytes(data), at, at + 1
    if kind == "flips":
        for place in random.integers(at, min(at + size, len(data)), 20):
            data[int(place)] ^= int(random.integers(1, 256))
    elif kind == "zeros":
        data[at : at + size] = bytes(len(data[at : at + size]))
    elif kind == "taken":
        del data[at : at + size]
        return kind, bytes(data), at, len(bag.data)
    elif kind == "inserted":
        data[at:at] = random.bytes(size)
        return kind, bytes(data), at, len(bag.data)
    elif kind == "length":
        width = int(random.choice([4, 8]))
        value = int(random.choice([2**31 - 1, 2**32 - 1, 2**28, 2**63 - 1, 2**64 - 1, 2**20]))
        size = width
        data[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
    else:
        return kind, *_bomb(bag, random)
    return kind, bytes(data), at, min(at + size, len(bag.data))


def _bomb(bag: WholeBag, random: np.random.Generator) -> tuple[bytes, int, int]:
    """A compressed chunk's content replaced by one that expands to a gigabyte."""
    at = bag.data.find(b"\x28\xb5\x2f\xfd")
    if at < 0:
        at = int(random.integers(0, len(bag.data)))
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(2**22)) * 256
    return bag.data[:at] + bomb[: len(bag.data)] + bag.data[at:], at, len(bag.data)


def check(bag: WholeBag, path: Path, first: int, behind: int) -> str:
    """Read a damaged bag, and tell what is wrong with that: "" where nothing is.

    Raises:
        Exception: anything but a `FrameError`, which is what must not happen.
    """
    said: list[str] = []
    read: list[int] = []
    whole = {one.tobytes(): number for number, one in enumerate(IN_PAGES)}
    try:
        source = open_frames(path, on_skip=said.append)
        for frame in source:
            number = whole.get(frame.image.tobytes(), -1)
            if number < 0 and bag.ends and not _touches(bag, first, behind):
                return f"{frame.name} is no picture that went in"
            read.append(number)
    except FrameError as error:
        said.append(str(error))
    if any("\n" in sentence for sentence in said):
        return f"a sentence of several lines: {said}"
    margin = _BETWEEN if said else 0
    must = {n for n, end in enumerate(bag.ends) if end <= first - margin and first > 1000}
    missing = sorted(must - set(read))
    if missing and not (first >= bag.index and behind < len(bag.data) and said):
        return f"pictures {missing} end before the damage and are not read; said: {said}"
    return ""


def _touches(bag: WholeBag, first: int, behind: int) -> bool:
    """Tell whether damage reaches into a picture, or into what says how large it is."""
    return any(first < end and behind > end - bag.reach for end in bag.ends)


@contextmanager
def limits() -> Iterator[None]:
    """Limit this process's memory, and the time until `signal.alarm` is called again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_BYTES, hard))

    def late(*_: object) -> None:
        raise TimeoutError(f"no end after {LONGEST_S} seconds")

    before = signal.signal(signal.SIGALRM, late)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def failures(count: int, seed: int, folder: Path) -> Iterator[str]:
    """A sentence on each damaged bag that is not read as it should be."""
    bags = whole_bags(folder)
    for bag in bags:  # so that what is imported lately is there before memory is limited
        path = folder / f"whole_{bag.name}"
        path.write_bytes(bag.data)
        if problem := check(bag, path, len(bag.data), len(bag.data)):
            yield f"{bag.name}: {problem}"
    with limits():
        for number in range(count):
            random = np.random.default_rng((seed, number))
            bag = bags[number % len(bags)]
            kind, data, first, behind = damaged(bag, random)
            path = folder / f"case_{number}_{bag.name}"
            path.write_bytes(data)
            signal.alarm(LONGEST_S)
            try:
                problem = check(bag, path, first, behind)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            signal.alarm(0)
            path.unlink()
            KINDS[kind] += 1
            if problem:
                yield f"seed {seed}, case {number}, {bag.name}, {kind} at {first}: {problem}"


KINDS: Counter[str] = Counter()  # of damage, so far


def main() -> None:
    """Read damaged bags, and print what is wrong and how many there were."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = list(failures(asked.count, asked.seed, Path(folder)))
    print(*found, sep="\n")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(KINDS.items()))
    print(f"{asked.count} damaged bags ({kinds}): {len(found)} failures, peak {peak:.0f} MiB.")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
