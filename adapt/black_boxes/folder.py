"""A folder of answers as a black box: NAME.npz, NAME.npy or NAME.png for every frame NAME."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import ConfigError, FrameError, LabelError
from ...runtime.labels import LabelSpace
from ...runtime.pictures.png import decode_label_png, read_png
from ...runtime.regular_files import read_regular_file
from .arrays import parse_npy
from .base import Answer, BlackBox, BoxWiring, Note

SUFFIXES = (".npz", ".npy", ".png")  # in this order of preference
LARGEST_ARRAY = 2 << 30  # bytes


def open_folder(source: str, wiring: BoxWiring, space: LabelSpace | None, note: Note) -> BlackBox:
    """Open a folder of predictions.

    Raises:
        ConfigError: it holds none, or wiring is given.
    """
    del space, note  # it says nothing of itself
    folder = Path(source)
    wiring.check_unused(source, "is a folder of answers that were given")
    files = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file())
    if not files:
        within = folder / "labels"  # of what `roadshift run` wrote
        instead = f"; give {within}" if within.is_dir() else ""
        raise ConfigError(
            f"{folder}: holds no predictions, no NAME.npz, NAME.npy or NAME.png{instead}."
        )
    listing = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    identity = hashlib.sha256(json.dumps(listing).encode()).hexdigest()

    def answer(name: str, _: NDArray[np.uint8]) -> Answer:
        found = _found(folder, name)
        if found is None:
            raise FrameError(
                f"{folder}: has neither {name}.npz nor {name}.png; every target frame needs a "
                "prediction of its name."
            )
        return _READERS[found.suffix](found)

    def lacks(names: Sequence[str]) -> list[str]:
        return [name for name in names if _found(folder, name) is None]

    return BlackBox(answer, identity, looks=False, lacks=lacks)


def _found(folder: Path, name: str) -> Path | None:
    paths = (folder / f"{name}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.exists()), None)


def _read_npz(path: Path) -> Answer:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = arrays.files
            array = np.asarray(arrays[names[0]]) if len(names) == 1 else None
    except Exception as error:  # numpy, zipfile and zlib have families of their own
        raise LabelError(
            f"{path}: cannot be read as an .npz of plain numbers ({error}); write it again with "
            "numpy.savez_compressed(path, probabilities)."
        ) from error
    if array is None:
        raise LabelError(f"{path}: holds {len(names)} arrays; store one, (K, h, w).")
    return array


def _read_npy(path: Path) -> Answer:
    try:
        return parse_npy(read_regular_file(path, LARGEST_ARRAY))
    except (OSError, ValueError) as error:
        raise LabelError(
            f"{path}: cannot be read as an .npy of plain numbers ({error}); write it again with "
            "numpy.save(path, probabilities)."
        ) from error


def _read_png(path: Path) -> Answer:
    png = read_png(path)
    if png.is_colour:
        raise LabelError(
            f"{path}: is a colour picture; class predictions are PNGs of one channel that holds "
            "class indices, as `roadshift run` writes them."
        )
    return decode_label_png(png, path)


_READERS = {".npz": _read_npz, ".npy": _read_npy, ".png": _read_png}
