"""Numbers, strings and bytes read one after the other, in the layouts of ROS 1, CDR and MCAP."""

from __future__ import annotations

import struct

from .regions import BrokenBagError

_CDR = {0: ">", 1: "<", 6: ">", 7: "<"}  # CDR and XCDR2, plain, big and little endian


class Cursor:
    """A place in bytes that moves on with what is read.

    Args:
        data: all that may be read.
        order: "<" or ">", little or big endian.
        is_aligned: numbers lie at multiples of their size, as in CDR.

    Every method raises `BrokenBagError` where fewer bytes are left than are asked for.
    """

    def __init__(self, data: memoryview, order: str = "<", *, is_aligned: bool = False) -> None:
        self._data, self._order, self._is_aligned = data, order, is_aligned
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return len(self._data) - self.at

    def u8(self) -> int:
        """One byte."""
        return self.take(1)[0]

    def u16(self) -> int:
        """An unsigned number of 16 bits."""
        return self._number("H", 2)

    def u32(self) -> int:
        """An unsigned number of 32 bits."""
        return self._number("I", 4)

    def i32(self) -> int:
        """A signed number of 32 bits."""
        return self._number("i", 4)

    def u64(self) -> int:
        """An unsigned number of 64 bits."""
        return self._number("Q", 8)

    def take(self, length: int) -> memoryview:
        """So many bytes."""
        if length > self.left:
            raise BrokenBagError(f"{length} bytes are announced and {self.left} are left")
        self.at += length
        return self._data[self.at - length : self.at]

    def sequence(self) -> memoryview:
        """Bytes behind their number, 32 bits."""
        return self.take(self.u32())

    def string(self) -> str:
        """Text behind its number of bytes; the closing zero of CDR is left out."""
        return text_of(self.sequence())

    def _number(self, code: str, size: int) -> int:
        if self._is_aligned:
            self.at += -self.at % size
        number: int = struct.unpack(self._order + code, self.take(size))[0]
        return number


def cdr_cursor(data: memoryview) -> Cursor:
    """A cursor behind the header of a message in CDR.

    Raises:
        BrokenBagError: the header is of another representation.
    """
    if len(data) < 4 or data[0] != 0 or data[1] not in _CDR:
        raise BrokenBagError("it does not begin as a message in CDR")
    return Cursor(data[4:], _CDR[data[1]], is_aligned=True)


def text_of(data: memoryview) -> str:
    """Text as UTF-8, with a mark in place of what is none; a closing zero is left out."""
    return bytes(data).rstrip(b"\0").decode(errors="replace")
