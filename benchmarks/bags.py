"""Cost of reading bags, in CPU milliseconds a raw 720p frame, beside converting its pixels.

    python benchmarks/bags.py --frames 60

Bags of both generations of ROS are written with ``rosbags`` and with ``mcap``, and read through
`open_frames` in turns with the conversion of the same pixels in memory; the difference is what
finding, reading and parsing a message costs. The kernel forgets what was written, as of a drive
that comes on a disk: pages that SQLite wrote one by one are slower to read than those that the
kernel read ahead. The first reading, from which it keeps the file in memory, is left out; of the
others the least counts, since other programs disturb.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time

import cv2
import numpy as np
from machine_line import machine_line
from numpy.typing import NDArray
from roadshift.runtime.frames import open_frames
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Ros2Writer
from rosbags.typesys import Stores, get_typestore

HEIGHT, WIDTH = 720, 1280
TYPE = "sensor_msgs/msg/Image"


def picture(number: int) -> NDArray[np.uint8]:
    """A picture with some texture, (720, 1280, 3)."""
    coarse = np.random.default_rng(number).integers(0, 256, (45, 80, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (WIDTH, HEIGHT)), np.uint8)


def messages(store: Stores, frames: int, encoding: str) -> Iterator[tuple[int, object]]:
    """Times and messages of a camera at ten pictures a second."""
    types = get_typestore(store).types
    image, header = types[TYPE], types["std_msgs/msg/Header"]
    time = types["builtin_interfaces/msg/Time"]
    for number in range(frames):
        seconds, parts = divmod(number * 10**8, 10**9)
        stamp = time(1_700_000_000 + seconds, parts)
        numbered = (number, stamp, "camera") if store is Stores.ROS1_NOETIC else (stamp, "camera")
        pixels = picture(number).ravel()
        yield (
            1_700_000_000 * 10**9 + number * 10**8,
            image(header(*numbered), HEIGHT, WIDTH, encoding, 0, 3 * WIDTH, pixels),
        )


def write_ros1(path: Path, frames: int, encoding: str) -> None:
    """A ``.bag``."""
    store = get_typestore(Stores.ROS1_NOETIC)
    with Ros1Writer(path) as writer:
        connection = writer.add_connection("/camera", TYPE, typestore=store)
        for time_ns, message in messages(Stores.ROS1_NOETIC, frames, encoding):
            writer.write(connection, time_ns, store.serialize_ros1(message, TYPE))


def write_ros2(plugin: StoragePlugin) -> Callable[[Path, int, str], None]:
    """A function that writes a folder of rosbag2."""

    def write(path: Path, frames: int, encoding: str) -> None:
        store = get_typestore(Stores.ROS2_HUMBLE)
        with Ros2Writer(path, version=9, storage_plugin=plugin) as writer:
            connection = writer.add_connection("/camera", TYPE, typestore=store)
            for time_ns, message in messages(Stores.ROS2_HUMBLE, frames, encoding):
                writer.write(connection, time_ns, store.serialize_cdr(message, TYPE))

    return write


KINDS: dict[str, Callable[[Path, int, str], None]] = {
    "drive.bag": write_ros1,
    "drive_db3": write_ros2(StoragePlugin.SQLITE3),
    "drive_mcap": write_ros2(StoragePlugin.MCAP),
}


def forget(path: Path) -> None:
    """Have the kernel drop what it keeps in memory of a bag's files, once they are on the disk."""
    for file in (path,) if path.is_file() else path.iterdir():
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_ms(path: Path) -> float:
    """CPU milliseconds a frame through `open_frames`."""
    started = process_time()
    count = sum(1 for _ in open_frames(path))
    return 1e3 * (process_time() - started) / count


def convert_ms(pictures: list[NDArray[np.uint8]], encoding: str) -> float:
    """CPU milliseconds a frame of converting pixels that are in memory; nothing of what is RGB."""
    if encoding == "rgb8":
        return 0.0
    started = process_time()
    for pixels in pictures:
        cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return 1e3 * (process_time() - started) / len(pictures)


def main() -> None:
    """Write, read and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    pictures = [picture(number) for number in range(asked.frames)]
    print(f"{machine_line()}; {asked.frames} frames of {WIDTH} x {HEIGHT}, raw.\n")
    print("| bag | encoding | all, CPU ms a frame | converting alone | reading |")
    print("|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for encoding in ("rgb8", "bgr8"):
            for name, write in KINDS.items():
                path = Path(folder, f"{encoding}_{name}")
                write(path, asked.frames, encoding)
                forget(path)
                read_ms(path)
                rounds = [
                    (read_ms(path), convert_ms(pictures, encoding)) for _ in range(asked.rounds)
                ]
                both, alone = (min(values) for values in zip(*rounds, strict=True))
                print(f"| {name} | {encoding} | {both:.2f} | {alone:.2f} | {both - alone:.2f} |")


if __name__ == "__main__":
    main()
