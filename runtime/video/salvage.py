"""Pictures that a writer compressed and did not add to its video, added after its death.

A `FragmentedVideo` compresses a group of pictures into a Matroska file of its own, and removes that
once the group is in the video. A group whose file was not finished is not in the video; one whose
file was may be in it already, whole or torn.
"""

from __future__ import annotations

import os
from collections import deque
from fractions import Fraction
from pathlib import Path

from .containers import end_of_whole_groups, matroska_is_finished
from .growing_file import GrowingFile
from .matroska import MatroskaFile
from .mp4 import Mp4File
from .video_file import count_packets, read_packets

Container = type[Mp4File] | type[MatroskaFile]


def rounded_rate(rate: float) -> float:
    """A rate that MPEG-4 can state: as a fraction with at most 16 bits."""
    return round(rate, 3 if rate < 65 else 2 if rate < 650 else 1)


def as_fraction(rate: float) -> Fraction:
    """A `rounded_rate` as containers state it."""
    return Fraction(rate).limit_denominator(1000)


def make_readable(video: Path) -> None:
    """Cut off the torn end of a video, if nothing can be read of it because of that end.

    So it is with an MP4 that ends within a fragment's index.
    """
    if video.stat().st_size and not count_packets(video):
        os.truncate(video, end_of_whole_groups(video))


def add_group(container: Container, video: Path, group: Path) -> int | None:
    """Add to a video the pictures that its writer left in the file of a group.

    Args:
        video: grew by a `FragmentedVideo`, is not finished, and can be read (see `make_readable`);
            one without a picture is begun.
        group: a cut one gives its whole pictures; it stays.

    Returns:
        How many pictures the video has more; None where it is torn and the group does not hold
        what is torn off, so that it is as it was.

    Raises:
        OSError: the video cannot be written; its whole groups are as they were.
    """
    left = read_packets(group)
    pictures = [] if left is None else list(left.pictures)
    if left is None or not pictures:
        return 0
    rate = as_fraction(rounded_rate(left.rate))
    shown, last = _last_pictures(video, len(pictures))
    descriptor = os.open(video, os.O_RDWR)
    try:
        if not shown:
            os.ftruncate(descriptor, 0)
            begun = container(
                GrowingFile(descriptor), configuration=left.configuration, size=left.size, rate=rate
            )
            begun.append(pictures)
            return len(pictures)
        end = end_of_whole_groups(video)
        is_torn = end < os.fstat(descriptor).st_size
        may_be_there = matroska_is_finished(group)
        there = _overlap(last, pictures) if may_be_there else 0
        if there == len(pictures) and not is_torn:
            return 0
        if is_torn and not may_be_there:
            return None
        os.ftruncate(descriptor, end)
        torn = there if is_torn else 0
        file = GrowingFile(descriptor, end)
        file.append(container.group(pictures, before=shown - torn, rate=rate))
        return len(pictures) - torn
    finally:
        os.close(descriptor)


def _last_pictures(path: Path, most: int) -> tuple[int, list[tuple[bytes, bool]]]:
    """The number of a video's pictures, and the last ones of them."""
    last: deque[tuple[bytes, bool]] = deque(maxlen=most)
    shown = 0
    video = read_packets(path)
    if video is not None:
        for picture in video.pictures:
            last.append(picture)
            shown += 1
    return shown, list(last)


def _overlap(last: list[tuple[bytes, bool]], pictures: list[tuple[bytes, bool]]) -> int:
    """Number of first ``pictures`` that are a video's last ones; the very last may be cut."""
    for count in range(min(len(last), len(pictures)), 0, -1):
        *before, (cut, _) = last[-count:]
        if before == pictures[: count - 1] and pictures[count - 1][0].startswith(cut):
            return count
    return 0
