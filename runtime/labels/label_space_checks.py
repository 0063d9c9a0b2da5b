"""Checks of what a label space's file holds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import LabelSpaceError
from ..strict_json import JsonError, read_json


def require(condition: bool, message: str) -> None:
    """Raise `LabelSpaceError` with the message unless the condition holds."""
    if not condition:
        raise LabelSpaceError(message + ".")


def read_document(path: str | Path, what: str, *, unique_keys: bool = False) -> Any:
    """The value of a JSON file that holds a ``what``; `LabelSpaceError` where it cannot be read."""
    try:
        return read_json(path, unique_keys=unique_keys)
    except OSError as error:
        raise LabelSpaceError(
            f"{path}: cannot read this {what} ({error.strerror or error})."
        ) from error
    except JsonError as error:
        raise LabelSpaceError(f"{path}: not a JSON {what} ({error}).") from error


def is_id(value: object) -> bool:
    """Tell whether a value is an integer from 0 on, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def a_list(value: object) -> Iterable[Any]:
    """The value, where it is a list or tuple; else TypeError."""
    if not isinstance(value, list | tuple):
        raise TypeError(f"expected a list, got {value!r}")
    return value
