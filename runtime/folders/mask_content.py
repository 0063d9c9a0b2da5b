"""Pictures told from label maps and depth maps by the pixels of a few of them.

A label map is a mosaic: few values, equal neighbours nearly everywhere, and jumps between values
that are no neighbours in brightness. Of 150 label maps of Cityscapes, ACDC, BDD100K, IDD, KITTI and
CamVid all have at most 16 values and at least 92 % equal neighbours; of 25 camera pictures in grey
none has fewer than 200 values or more than 45 %, and darkened to 3 % they stay below 91 %.

A soft map (uncertainty, heat, probability) has many values and no detail: what changes from one
pixel to the next changes as evenly over several. Two numbers of its rows tell, from second
differences d1 of neighbours and d2 of pixels two apart: *detail*, the 99.5th percentile of |d1| by
the standard deviation of the values, and *fineness*, the RMS of d1 by that of d2, which is 1/4
where all is smooth and 1 for a sensor's noise. Of 462 camera pictures of ACDC, BDD100K, CamVid,
Cityscapes, IDD and KITTI none has a detail below 0.25 or a fineness below 0.44, in colour or grey,
as JPEG of quality 30, or darkened to 1/8 to 1/32; random fields
blurred by 1.5 to 4 pixels have a fineness below 0.38, and those blurred by more a detail below 0.12
(at a quarter of the contrast, where rounding is all that is left, 0.33). What lies between is
neither.
"""

from __future__ import annotations

import math
import stat
import struct
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..pictures.picture_size import PNG_SIGNATURE
from ..pictures.png import png_chunks
from ..spacing import evenly_spaced

_JPEG_START = b"\xff\xd8\xff"
_LARGEST_PIXELS, _LARGEST_BYTES = 1 << 26, 1 << 26  # larger files are not decoded to look at them
_CAMERA_BYTES_A_SAMPLE = 0.8  # as PNG, label maps need a tenth of this, soft maps at most 0.75
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by the colour type of a PNG; a palette is decoded
_SOFT_DETAIL, _CAMERA_DETAIL, _CAMERA_FINENESS = 0.1, 0.2, 0.39
_ROUNDING, _DARK_DETAIL = 2, 0.33  # rounded values have second differences of up to 2
_SAMPLES = 7


class Content(Enum):
    """The kinds of pictures that pixels tell apart."""

    CAMERA = "a picture"
    IDS = "a label map of one channel or a palette"
    COLOURS = "a picture of few flat colours"
    DEPTH = "a map of one channel of 16 bits"
    SOFT = "a map of smooth values"
    BLURRED = "a blurred picture, or a map of smooth values"
    UNCLEAR = "a picture that could be either"  # one value everywhere, or a few, mixed finely
    MIXED = "pictures and maps together"  # of several files only
    UNREADABLE = "nothing that can be read"

    @property
    def is_map(self) -> bool:
        return self in (Content.IDS, Content.COLOURS, Content.DEPTH, Content.SOFT)

    @property
    def is_doubtful(self) -> bool:
        """True of what could be pictures or maps by itself, and whose names must not say either."""
        return self in (Content.UNCLEAR, Content.BLURRED)


def content_of(files: Sequence[Path], *, suspected: bool = False) -> Content:
    """The kind of three quarters of up to seven evenly spaced files, or mixed.

    Unclear and unreadable ones do not count beside others; sharp and smooth ones together are
    blurred.

    ``suspected``: their names say label maps, so that JPEGs are decoded too.
    """
    chosen = evenly_spaced(len(files), _SAMPLES)
    kinds = Counter(look(files[i], suspected=suspected) for i in chosen)
    mute = (Content.UNCLEAR, Content.UNREADABLE)
    telling = Counter({kind: n for kind, n in kinds.items() if kind not in mute})
    if not telling:
        return Content.UNCLEAR if kinds[Content.UNCLEAR] else Content.UNREADABLE
    kind, count = telling.most_common(1)[0]
    if kind.is_map:
        count = sum(n for other, n in telling.items() if other.is_map)
    if 4 * count >= 3 * sum(telling.values()):
        return kind
    is_smooth = telling.keys() <= {Content.CAMERA, Content.BLURRED, Content.SOFT}
    return Content.BLURRED if is_smooth else Content.MIXED


def look(path: Path, *, suspected: bool = False) -> Content:
    """The kind of one picture file; unreadable ones are for their reader to report.

    JPEGs, which keep no ids, count as camera pictures, and only ``suspected`` ones are decoded.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return Content.UNREADABLE
        with path.open("rb") as file:
            start = file.read(26)
            if kind := _by_header(start, status.st_size, suspected):
                return kind
            data = start + file.read()
        if not _is_whole(data):
            return Content.UNREADABLE
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error):
        return Content.UNREADABLE
    if picture is None or picture.size == 0:
        return Content.UNREADABLE
    if start.startswith(_JPEG_START):
        return _of_jpeg(picture)
    is_palette = start.startswith(PNG_SIGNATURE) and start[25] == 3
    return _of_pixels(picture, is_palette)


def _by_header(start: bytes, size: int, suspected: bool) -> Content | None:
    """The kind where the first 26 of ``size`` bytes tell it, or forbid to read the rest."""
    if start.startswith(_JPEG_START) and not suspected:
        return Content.CAMERA
    if start.startswith(PNG_SIGNATURE) and len(start) == 26:
        width, height, bits, colour = struct.unpack(">IIBB", start[16:26])
        if bits == 16 and colour == 0:
            return Content.DEPTH
        samples = width * height * _CHANNELS.get(colour, math.inf)
        if width * height > 1 << 16 and size > _CAMERA_BYTES_A_SAMPLE * samples:
            return Content.CAMERA
        if width * height > _LARGEST_PIXELS:
            return Content.UNCLEAR
    return None if size <= _LARGEST_BYTES else Content.UNCLEAR


def _is_whole(data: bytes) -> bool:
    """False of files that decoders would complain about on stderr."""
    if data.startswith(PNG_SIGNATURE):
        try:
            return any(kind == b"IEND" for kind, _ in png_chunks(data))
        except ValueError:
            return False
    if data.startswith(_JPEG_START):
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    return bool(data)


def _of_jpeg(picture: NDArray[Any]) -> Content:
    """The kind of a JPEG, in which borders of a mosaic are blurred and its inside is flat."""
    rows = _some_rows(picture).astype(np.int16)
    steps = np.abs(np.diff(rows, axis=1)).reshape(len(rows), rows.shape[1] - 1, -1)
    steps = steps.max(axis=-1, initial=0)
    flat = float((steps <= 1).mean()) if steps.size else 0.0
    jumps = float((steps > 24).sum() / max((steps > 4).sum(), 1))
    if flat > 0.52 and jumps > 0.15:
        return Content.COLOURS
    detailed = _of_detail(rows)
    return Content.UNCLEAR if flat > 0.95 and detailed is not Content.SOFT else detailed


def _of_pixels(picture: NDArray[Any], is_palette: bool) -> Content:
    """The kind of lossless pixels, (H, W) or (H, W, C)."""
    kind = _of_values(picture, is_palette)
    if kind not in (Content.CAMERA, Content.UNCLEAR):
        return kind
    detailed = _of_detail(_some_rows(picture))
    return detailed if kind is Content.CAMERA or detailed is Content.SOFT else kind


def _of_detail(rows: NDArray[Any]) -> Content:
    """A camera's picture, a soft map or what lies between, by the detail along the rows.

    More than 256 colours are a camera's: a map that is shown in colours has one for each value.
    """
    channel = _one_channel(rows)
    if channel is None and len(np.unique(_codes(rows))) > 256:
        return Content.CAMERA
    grey = (rows[..., :3].mean(axis=-1) if channel is None else channel).astype(np.float32)
    if grey.shape[1] < 5:
        return Content.CAMERA
    middle = grey[:, 2:-2]
    near = np.abs(grey[:, 1:-3] - 2 * middle + grey[:, 3:-1])
    far = np.abs(grey[:, :-4] - 2 * middle + grey[:, 4:])
    finest = float(np.percentile(near, 99.5))
    if finest == 0:
        return Content.CAMERA  # too few steps to tell; their number has told
    detail = finest / float(grey.std())
    if detail < _SOFT_DETAIL:
        return Content.SOFT
    fineness = math.sqrt(np.square(near).mean() / max(float(np.square(far).mean()), 1e-9))
    is_sharp = detail >= (_DARK_DETAIL if finest <= _ROUNDING else _CAMERA_DETAIL)
    return Content.CAMERA if is_sharp and fineness >= _CAMERA_FINENESS else Content.BLURRED


def _of_values(picture: NDArray[Any], is_palette: bool) -> Content:
    """The kind by the number of values, and by the steps between them."""
    rows = _some_rows(picture)
    grey = _one_channel(rows)
    codes = _codes(rows)
    values, ranks = np.unique(codes, return_inverse=True)
    steps = np.abs(np.diff(ranks.reshape(codes.shape), axis=1))
    if len(values) == 1 or steps.size == 0:
        return Content.UNCLEAR
    flat = float((steps == 0).mean())
    if len(values) > 256 or (len(values) > 64 and flat < 0.97):
        if rows.dtype == np.uint16 and picture.ndim == 2:
            return Content.DEPTH
        of_16_values = np.sort(np.bincount(ranks.ravel()))[-16:].sum() / codes.size
        return Content.UNCLEAR if flat >= 0.9 and of_16_values > 0.97 else Content.CAMERA
    if flat < _flat_of_mosaics(picture.shape[1]):
        is_picture = len(values) > 32 or _is_noisy(codes, flat)
        return Content.CAMERA if is_picture else Content.UNCLEAR
    if grey is None:
        return Content.IDS if is_palette else Content.COLOURS
    jumps = float((steps > 1).sum() / max((steps > 0).sum(), 1))
    return Content.IDS if is_palette or len(values) <= 4 or jumps >= 0.1 else Content.UNCLEAR


def _flat_of_mosaics(width: int) -> float:
    """Least share of equal neighbours: small pictures have more borders for their area."""
    return 0.65 if width < 128 else 0.8 if width < 256 else 0.9


def _is_noisy(codes: NDArray[np.int64], flat: float) -> bool:
    """True of a dark picture: few values that change all the time, yet go with their neighbours."""
    if flat > 0.5:
        return False
    left, right = codes[:, :-1].ravel(), codes[:, 1:].ravel()
    return bool(np.corrcoef(left, right)[0, 1] > 0.5)


def _codes(rows: NDArray[Any]) -> NDArray[np.int64]:
    """One number for each colour, (H, W)."""
    grey = _one_channel(rows)
    if grey is not None:
        return grey.astype(np.int64)
    wide = rows.astype(np.int64)
    codes: NDArray[np.int64] = wide[..., 0] | wide[..., 1] << 16 | wide[..., 2] << 32
    return codes


def _some_rows(picture: NDArray[Any]) -> NDArray[Any]:
    return picture[:: max(1, picture.shape[0] // 128)]


def _one_channel(rows: NDArray[Any]) -> NDArray[Any] | None:
    """The one channel of a grey picture, or of colours that are all grey; None of colours."""
    if rows.ndim == 2:
        return rows
    if rows.shape[2] < 3:
        grey: NDArray[Any] = rows[..., 0]
        return grey
    same = (rows[..., 0] == rows[..., 1]).all() and (rows[..., 0] == rows[..., 2]).all()
    return rows[..., 0] if same else None
