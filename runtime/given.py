"""Single arguments of the Python functions, as they were given: an error names the one."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ConfigError, arg
from .words import shortened


def path_of(name: str, value: object) -> Path:
    """The path of a file or a folder, which need not be there.

    Raises:
        ConfigError: it is no path, or one that no file can have.
    """
    if not isinstance(value, (str, os.PathLike)) or "\0" in str(value):
        raise ConfigError(f"{arg(name)}: {_quoted(value)} is no path.")
    return Path(value)


def whole_of(name: str, value: object, least: int = 1) -> None:
    """Refuse what is no whole number from ``least`` up.

    Raises:
        ConfigError: it is not.
    """
    is_other = isinstance(value, bool) or not isinstance(value, (int, np.integer))
    if is_other or _number(value) < least:
        raise ConfigError(f"{arg(name)}: {_quoted(value)} is no whole number from {least} up.")


def seed_of(value: int) -> int:
    """The argument ``seed``, a whole number that NumPy, torch and scikit-learn take as one.

    Raises:
        ConfigError: it is not.
    """
    whole_of("seed", value, least=0)
    if value >= 2**32:
        raise ConfigError(f"{arg('seed')}: {value} is not below {2**32}.")
    return value


def above_zero(name: str, value: object) -> None:
    """Refuse a number that is not finite and above 0; None is no number, and passes.

    Raises:
        ConfigError: it is not.
    """
    if value is None:
        return
    is_other = isinstance(value, bool) or not isinstance(
        value, (int, float, np.integer, np.floating)
    )
    if is_other or not 0 < _number(value) < math.inf:
        raise ConfigError(f"{arg(name)}: {value!r} is no finite number above 0.")


def switches(**given: object) -> None:
    """Refuse arguments, by name, that are neither True nor False.

    Raises:
        ConfigError: one is not.
    """
    for name, value in given.items():
        if not isinstance(value, (bool, np.bool_)):
            raise ConfigError(f"{arg(name)}: {_quoted(value)} is neither True nor False.")


def no_path(name: str, value: object, maker: str) -> None:
    """Refuse a path where what ``maker``, "open_trust", makes of one is wanted.

    Raises:
        ConfigError: it is a path.
    """
    if isinstance(value, (str, os.PathLike)):
        raise ConfigError(
            f"{arg(name)}: {_quoted(value)} is a path; give what {maker} makes of it."
        )


def _number(value: Any) -> float:
    """A number of Python or NumPy for a comparison; one too large for a float stays itself."""
    return value if isinstance(value, int) else float(value)


def _quoted(value: object) -> str:
    return shortened(repr(value))
