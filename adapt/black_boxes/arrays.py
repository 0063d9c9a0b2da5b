"""Arrays of strangers in NumPy's format, without pickles and without more memory than bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray


def parse_npy(content: bytes) -> NDArray[Any]:
    """The array that an .npy file holds.

    Raises:
        ValueError: it is none, holds other things than numbers, or is cut or longer than it says.
    """
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format is not read")
    read = np.lib.format.read_array_header_1_0
    read = read if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_column, dtype = read(stream)
    if dtype.kind not in "biuf":
        raise ValueError(f"it holds {dtype}, and no plain numbers")
    body = memoryview(content)[stream.tell() :]
    wanted = dtype.itemsize
    for side in shape:
        wanted *= side
    if wanted != len(body):
        raise ValueError(f"it has {len(body)} bytes of numbers, and {shape} need {wanted}")
    order = "F" if by_column else "C"
    array = np.frombuffer(body, dtype).reshape(shape, order=order)  # type: ignore[call-overload]
    native = array.astype(dtype.newbyteorder("="))
    return np.asarray(native)
