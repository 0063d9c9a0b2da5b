"""Text as it may be shown on a terminal: nothing in it moves the cursor, colours or reorders.

Names and sentences that come from files (class names, tensors' names, folders, messages) may hold
control characters, which a terminal obeys. Here they become visible escapes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

_KEPT = "\n\t\u200c\u200d"  # line feed, tab, and the joiners that some scripts are written with
_ESCAPED_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format, surrogate, line, paragraph
_SURROGATE = re.compile("[\ud800-\udfff]")
_BREAK = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


def printable(text: str) -> str:
    r"""``text`` with control characters, directional marks and undecodable bytes as escapes.

    Line feeds and tabs stay. ESC becomes ``\x1b``, U+202E ``\u202e``; the byte FF of a file name
    that is no UTF-8 becomes ``\xff``. Letters, marks and symbols of all scripts stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def one_line(text: str) -> str:
    """`printable` text in which every run of line breaks, with the blanks around it, is a space."""
    return printable(_BREAK.sub(" ", text.strip())).replace("\t", " ")


def encodable(document: Any) -> Any:
    """A JSON document that is UTF-8: bytes of names that are not stand there as escapes."""
    if isinstance(document, str):
        return _SURROGATE.sub(lambda found: _shown(found[0]), document)
    if isinstance(document, Mapping):
        return {encodable(key): encodable(value) for key, value in document.items()}
    if isinstance(document, (list, tuple)):
        return [encodable(value) for value in document]
    return document


def _shown(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _ESCAPED_CATEGORIES:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that could not be decoded, see PEP 383
        return f"\\x{code - 0xDC00:02x}"
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
