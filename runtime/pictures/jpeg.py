"""JPEG files decoded strictly: a picture that is not whole is an error, not a half-grey picture.

OpenCV's decoder fills what it cannot decode with grey, or goes on with shifted blocks, and says so
only on the process's standard error, where no caller can tell which file was meant. ``simplejpeg``
binds the same libjpeg-turbo, gives the same pixels in less time, and reports the decoder's first
warning of the very call. Two rules are added here, because that library cannot know them:

- A file whose last bytes are missing is whole if its picture is: an end marker is put behind it,
  and the decoder complains where it meets that marker too soon. A progressive file that stops
  between two scans decodes without complaint, so its scans must add up to all coefficients.
- Cameras are known to leave a byte or two, or a run of zeros, before the end marker.

Damage inside the data (flipped bits, lost bytes) shows where it leaves the decoder out of step:
then codes are invalid, or data is left over or lacks. Where the codes fall into step again at the
right block, as they do after about every second such damage of a photograph, the file is another
valid JPEG, and no decoder can tell. Copies are checked by checksums, not by decoding.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

Image = NDArray[np.uint8]

JPEG_SIGNATURE = b"\xff\xd8\xff"
START, END = b"\xff\xd8", b"\xff\xd9"
_SCAN_ENDS = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]", re.DOTALL)  # stuffing, restarts: data
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_CORRUPT = re.compile("Corrupt JPEG data|Premature end")
_NO_PICTURE = re.compile("[Pp]remature end|bad Huffman code")
_PADDING = 2  # bytes that may be anything
_ORIENTATION = 0x0112
_USUAL_SAMPLING = frozenset({0x11, 0x21, 0x22, 0x12, 0x41, 0x14})


class JpegError(ValueError):
    """A JPEG is cut, damaged, or of a kind that is not decoded; the reason, without the file."""


@dataclass
class _Structure:
    """The facts that the markers of a JPEG's first picture tell.

    ``remaining`` holds for each component the bit of each of its 64 coefficients that is to come
    next: 0 where the coefficient is complete, 14 before the first scan.
    """

    end: int | None = None  # where the end marker lies
    remaining: dict[int, list[int]] = field(default_factory=dict)
    sampling: tuple[int, ...] = ()  # of each component: horizontal times 16, plus vertical
    jfif_version_at: int | None = None
    progressive: bool = False
    orientation: int = 1

    @property
    def complete(self) -> bool:
        return bool(self.remaining) and not any(map(any, self.remaining.values()))


def decode_jpeg(data: bytes) -> Image:
    """The first picture of a JPEG file, (H, W, 3) uint8 RGB, turned as its EXIF data says.

    What follows the picture's end marker (further pictures, anything) is not looked at.

    Raises:
        JpegError: the picture is cut short or damaged, or no decoder here knows its kind.
    """
    structure = _structure(data)
    whole = data
    if structure.end is None:
        if not structure.complete:
            raise JpegError(f"the JPEG data ends early, after {len(data)} bytes")
        whole = data.rstrip(b"\xff") + END
    version_at = structure.jfif_version_at
    if version_at is not None and whole[version_at] != 1:  # which is a warning, and hides others
        whole = whole[:version_at] + b"\1" + whole[version_at + 1 :]
    components = len(structure.remaining)
    try:
        pixels = _decode(whole, structure, "CMYK" if components == 4 else "RGB")
    except JpegError as error:
        if structure.end is None and "premature end" in str(error):
            raise JpegError(f"the JPEG data ends early, after {len(data)} bytes") from error
        raise
    if pixels is None or components == 4:  # OpenCV converts CMYK, and turns the picture
        return _decode_unusual(whole)
    return turned(pixels, structure.orientation)


def is_cut_or_out_of_step(data: bytes) -> bool:
    """Tell quickly whether a JPEG's data ends before its picture, or holds what is no code.

    Less strict than `decode_jpeg`, for the frames of cameras that leave data over in every one.
    """
    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=1, strict=True)
    except ValueError as error:
        return bool(_NO_PICTURE.search(str(error)))
    return False


def _decode(data: bytes, structure: _Structure, colours: str) -> Image | None:
    """Pixels as they are stored; None where only OpenCV knows the kind."""
    pixels: Image
    try:
        pixels = simplejpeg.decode_jpeg(data, colours, strict=True)
        return pixels
    except ValueError as error:
        said = str(error)
    if trimmed := _without_left_over(said, data, structure):
        # Again, for zeros may stand for the rest of a picture: its next restart marker then lacks.
        try:
            pixels = simplejpeg.decode_jpeg(trimmed, colours, strict=True)
            return pixels
        except ValueError as error:
            said = str(error)
    elif _is_harmless(said):
        pixels = simplejpeg.decode_jpeg(data, colours, strict=False)
        return pixels
    if "subsampling" in said and structure.sampling[1:] and not _is_usual(structure.sampling):
        return None
    raise JpegError(f"its JPEG data is corrupt ({said.removeprefix('Corrupt JPEG data: ')})")


def _is_usual(sampling: tuple[int, ...]) -> bool:
    """Tell whether libjpeg-turbo has a name for how the colours are sampled: 4:4:4 to 4:1:1."""
    return sampling[0] in _USUAL_SAMPLING and all(other == 0x11 for other in sampling[1:3])


def _without_left_over(said: str, data: bytes, structure: _Structure) -> bytes | None:
    """The data without what cameras leave before the end marker, if that is the first warning."""
    found = _LEFT_OVER.search(said)
    if found is None:
        return None
    count = int(found[1])
    end = len(data) - len(END) if structure.end is None else structure.end
    is_padding = count <= _PADDING or not data[end - count : end].strip(b"\0")
    return data[: end - count] + END if is_padding else None


def _is_harmless(said: str) -> bool:
    """Tell whether a decoder's first warning concerns nothing that is seen in the picture."""
    is_warning = said.startswith(("Warning", "Unknown Adobe", "Inconsistent progression"))
    return is_warning and not _CORRUPT.search(said)


def _decode_unusual(data: bytes) -> Image:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise JpegError("its kind of JPEG is not decoded here, or it is corrupt")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _structure(data: bytes) -> _Structure:
    """Follow the markers from the start to the end marker, or to where the data stops."""
    structure = _Structure()
    at = len(START)
    while (at := data.find(b"\xff", at)) >= 0:
        while at < len(data) and data[at] == 0xFF:
            at += 1
        if at == len(data):
            break
        kind = data[at]
        if kind == 0xD9:
            structure.end = at - 1
            break
        if kind <= 0x01 or 0xD0 <= kind <= 0xD8:  # without a body
            at += 1
            continue
        body = _body(data, at + 1)
        if body is None:
            break
        if kind == 0xE0 and body.startswith(b"JFIF\0") and len(body) > 5:
            structure.jfif_version_at = at + 8
        at += 3 + len(body)
        _note(structure, kind, body)
        if kind == 0xDA:
            found = _SCAN_ENDS.search(data, at)
            at = len(data) if found is None else found.start()
    return structure


def _body(data: bytes, at: int) -> bytes | None:
    if at + 2 > len(data):
        return None
    (length,) = struct.unpack_from(">H", data, at)
    if length < 2:
        raise JpegError(f"its JPEG data is corrupt (a marker of length {length} at byte {at})")
    return data[at + 2 : at + length] if at + length <= len(data) else None


def _note(structure: _Structure, kind: int, body: bytes) -> None:
    """Add to the structure what one marker's body says."""
    try:
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            if body[0] != 8:
                raise JpegError(f"it is a JPEG of {body[0]} bits a channel, and 8 are decoded")
            structure.progressive = kind in (0xC2, 0xCA)
            structure.remaining = {body[6 + 3 * i]: [14] * 64 for i in range(body[5])}
            structure.sampling = tuple(body[7 + 3 * i] for i in range(body[5]))
        elif kind == 0xDA:
            _note_scan(structure, body)
        elif kind == 0xE1 and body.startswith(b"Exif\0"):
            structure.orientation = exif_orientation(body[6:])
    except IndexError:
        raise JpegError(f"its JPEG data is corrupt (a marker 0x{kind:02x} is too short)") from None


def _note_scan(structure: _Structure, body: bytes) -> None:
    count = body[0]
    first, last, bits = (body[1 + 2 * count + i] for i in range(3))
    if not structure.progressive:
        first, last, bits = 0, 63, 0
    for component in body[1 : 1 + 2 * count : 2]:
        coefficients = structure.remaining.get(component, [])
        for k in range(first, min(last + 1, len(coefficients))):
            coefficients[k] = bits & 15


def exif_orientation(tiff: bytes) -> int:
    """The orientation, 1 to 8, that EXIF data (a TIFF) states; 1, upright, where it states none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == _ORIENTATION and kind == 3:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass  # metadata that is cut says nothing about the picture
    return 1


def turned(image: Image, orientation: int) -> Image:
    """An image brought upright from how EXIF's ``orientation`` says that it is stored."""
    if orientation == 1:
        return image
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    # After that: 2 and 6 are mirrored left to right, 4 and 8 top to bottom, 3 and 7 both.
    across = orientation in (2, 3, 6, 7)
    down = orientation in (3, 4, 7, 8)
    return np.ascontiguousarray(image[:: -1 if down else 1, :: -1 if across else 1])
