"""Files of rosbag2 that were compressed as a whole, unpacked for as long as somebody reads them."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..atomic import output_errors, remove_abandoned, staging_folder
from ..errors import OutputError
from ..folders.bag_folders import METADATA, is_packed, unpacked_name
from ..notes import log_note
from ..temporary_files import temporary_folder
from ..words import percent, sized
from .bag_file import BagFile, Contents, Place
from .chunks import bags_package, zstd_content_size
from .regions import BrokenBagError

_PIECE = 1 << 18  # bytes that are decompressed at a time
_CHECKED = 1 << 24  # bytes between two looks at the disk
_LEFT_FREE = 1 << 28  # bytes that stay free on the disk
_LONG = 1 << 28  # bytes of a packed file of which it is said that it is unpacked
_EVERY_S = 10.0  # between two lines about one file
_NAME = "roadshift-bag"  # of the temporary folders

Note = Callable[[str], None]


class UnpackedPart:
    """The content of a packed file in a temporary folder, which goes when this object does.

    It goes at the end of the process, too, and what a killed process left when the next one unpacks
    a bag.

    Attributes:
        path: of the file that holds the content.
        problem: a clause on damage, before which the content ends, or None.
    """

    def __init__(self, part: Path, note: Note) -> None:
        with ExitStack() as stack:
            folder = Path(tempfile.gettempdir())
            inside = stack.enter_context(staging_folder(folder / _NAME))
            self.path = inside / unpacked_name(part)
            with output_errors(folder):
                self.problem = _unpack(part, self.path, note)
                with suppress(FileNotFoundError):  # it helps where the content is damaged
                    shutil.copyfile(part.parent / METADATA, inside / METADATA)
            weakref.finalize(self, stack.pop_all().close)


class PackedFile:
    """A file of a bag, read from its unpacked content; see `BagFile`.

    Raises:
        BrokenBagError: it holds no bag, or nothing before its damage.
        OSError: the content cannot be opened.
    """

    def __init__(self, part: UnpackedPart, opened: Callable[[Path], BagFile]) -> None:
        self._part = part  # for its content stays as long as this
        with self._damage():
            self._file = opened(part.path)

    def contents(self, wanted: Collection[str]) -> Contents:
        """See `BagFile`."""
        with self._damage():
            found = self._file.contents(wanted)
        found.damage = self._part.problem or found.damage
        return found

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """Damage of the packed file, if there is any, said in place of that of its content."""
        try:
            yield
        except BrokenBagError as error:
            raise BrokenBagError(self._part.problem or str(error)) from error

    def read(self, place: Place) -> memoryview:
        """See `BagFile`."""
        return self._file.read(place)

    def close(self) -> None:
        """See `BagFile`."""
        self._file.close()


_State = tuple[Path, int, int]
_held = weakref.WeakValueDictionary[_State, UnpackedPart]()
_lock = threading.RLock()


def unpacked_parts(parts: Iterable[Path], note: Note = log_note) -> tuple[UnpackedPart, ...]:
    """The packed ones among a bag's files, unpacked; shared by all who hold them at a time.

    Args:
        note: called with a sentence on a large file, and on how far it is every ten seconds.

    Raises:
        OutputError: they do not fit on the disk for temporary files, or it cannot be written.
        MissingDependencyError: zstandard is not installed.
        OSError: one cannot be read.
    """
    with _lock:
        packed = [part for part in parts if is_packed(part)]
        held = {part: _held.get(_state(part)) for part in packed}
        if None in held.values():
            remove_abandoned(temporary_folder(note) / _NAME)
        _check_room([part for part, content in held.items() if content is None])
        for part, content in held.items():
            if content is None:
                held[part] = _held[_state(part)] = UnpackedPart(part, note)
        return tuple(content for content in held.values() if content is not None)


def _state(part: Path) -> _State:
    state = part.stat()
    return part.absolute(), state.st_size, state.st_mtime_ns


def _check_room(parts: Iterable[Path]) -> None:
    """Raise OutputError where the files will not fit, as far as they state their sizes."""
    stated = {part: _stated_size(part) for part in parts}
    sizes = {part: size or part.stat().st_size for part, size in stated.items()}
    least = "" if all(stated.values()) else "at least "
    free = _free()
    if sizes and sum(sizes.values()) + _LEFT_FREE > free:
        first = next(iter(sizes))
        of = first if len(sizes) == 1 else first.parent
        raise _no_room(f"{of} takes {least}{sized(sum(sizes.values()))} once it is unpacked")


def _free() -> int:
    folder = Path(tempfile.gettempdir())
    with output_errors(folder):
        return shutil.disk_usage(folder).free


def _no_room(what: str) -> OutputError:
    return OutputError(
        f"{what}, and {tempfile.gettempdir()} has {sized(_free())} free, of which "
        f"{sized(_LEFT_FREE)} are left so; free some space, or name a folder of another disk in "
        "the environment variable TMPDIR."
    )


def _stated_size(part: Path) -> int | None:
    """Bytes that the first frame of a packed file says to hold, if it does; it is often alone."""
    with part.open("rb") as file:
        return zstd_content_size(memoryview(file.read(18)))


def _unpack(part: Path, target: Path, note: Note) -> str | None:
    """Write what a packed file holds; gives a clause on damage, or None."""
    zstandard = bags_package("zstandard", "a bag that is compressed with zstd")
    packed_size, stated = part.stat().st_size, _stated_size(part)
    done = checked = 0
    if packed_size >= _LONG:
        note(f"{part} ({sized(packed_size)}) is unpacked into {target.parent.parent} to be read.")
    said = time.monotonic()
    with part.open("rb") as packed, target.open("wb") as content:
        decompressor = zstandard.ZstdDecompressor(max_window_size=2**27)
        reader = decompressor.stream_reader(packed, read_across_frames=True, closefd=False)
        piece = memoryview(bytearray(_PIECE))
        try:
            while count := reader.readinto1(piece):  # what is before damage, to its last byte
                if done >= checked:
                    checked = done + _CHECKED
                    _check_still(part, done)
                content.write(piece[:count])
                done += count
                if time.monotonic() - said >= _EVERY_S:
                    said = time.monotonic()
                    note(f"unpacking {part}: {_far(packed, packed_size)}")
        except zstandard.ZstdError as error:
            far = f" beyond {sized(done)} of its content" if done else ""
            return f"it cannot be decompressed{far} ({error})"
    if stated is not None and done < stated:
        return f"it ends after {sized(done)} of the {sized(stated)} that it says to hold"
    return None


def _check_still(part: Path, done: int) -> None:
    """Raise OutputError where the disk fills up, for a file may hold more than it says."""
    if _free() < _LEFT_FREE + _CHECKED:
        raise _no_room(f"{part} takes more than {sized(done)} once it is unpacked")


def _far(file: BinaryIO, size: int) -> str:
    return percent(min(file.tell() / size, 1.0))
