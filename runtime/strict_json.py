"""JSON from files that a stranger may have written: refused with a reason, never a traceback.

Everything that roadshift reads as JSON goes through here. Beyond the grammar (RFC 8259) a document
must be UTF-8 (with or without a byte-order mark), nested no deeper than `DEEPEST`, and its numbers
must be what a program can hold: whole numbers of 64 bits, other numbers finite.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from .regular_files import read_regular_file
from .words import shortened

DEEPEST = 100  # arrays and objects inside each other
LARGEST = 16 << 20  # bytes of a file


class JsonError(ValueError):
    """A document that is not JSON as this module reads it; the message is the reason, a phrase."""


def parse_json(content: bytes | str, *, unique_keys: bool = False) -> Any:
    """The value of a JSON document.

    Args:
        unique_keys: refuse an object with one key twice; otherwise its last value counts.

    Raises:
        JsonError: it is not JSON, or breaks one of the rules at the top of this module.
    """
    if isinstance(content, bytes):
        try:
            content = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise JsonError(f"not UTF-8 text, at byte {error.start}") from error
    try:
        value = json.loads(
            content.removeprefix("\ufeff"),
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique if unique_keys else None,
        )
    except RecursionError as error:
        raise JsonError(_too_deep()) from error
    except json.JSONDecodeError as error:
        raise JsonError(str(error)) from error
    _check_nesting_and_text(value)
    return value


def read_json(path: str | Path, *, unique_keys: bool = False) -> Any:
    """The value of a JSON file of at most `LARGEST` bytes; ``unique_keys`` as in `parse_json`.

    Raises:
        OSError: it cannot be read, or is no regular file, see `read_regular_file`.
        JsonError: see `parse_json`.
    """
    return parse_json(read_regular_file(path, LARGEST), unique_keys=unique_keys)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise JsonError(f"{shortened(ascii(twice), 24)} is given twice")
    return found


def _whole(text: str) -> int:
    if len(text) <= 20:  # all of 64 bits fits, and no conversion is slow
        value = int(text)
        if -(1 << 63) <= value < 1 << 64:
            return value
    raise JsonError(f"the whole number {shortened(text, 24)} does not fit in 64 bits")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise JsonError(f"the number {shortened(text, 24)} is too large")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise JsonError(f"{text} is no number of JSON")


def _too_deep() -> str:
    return f"nested deeper than {DEEPEST} arrays and objects"


def _check_nesting_and_text(value: Any) -> None:
    """Refuse deep nesting, and text that no terminal and no file can take (half a surrogate)."""
    level, depth = [value], 0
    while level:
        for one in level:
            if isinstance(one, str):
                _check_text(one)
        containers = [one for one in level if isinstance(one, (dict, list))]
        if containers and depth == DEEPEST:
            raise JsonError(_too_deep())
        level = [inner for one in containers for inner in _inside(one)]
        depth += 1


def _inside(container: dict[str, Any] | list[Any]) -> Iterator[Any]:
    return chain(container, container.values()) if isinstance(container, dict) else iter(container)


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise JsonError(
            f"a text holds \\u{ord(text[error.start]):04x}, half of a character"
        ) from error
