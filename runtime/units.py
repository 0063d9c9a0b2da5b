"""Durations and sizes as people write them on a command line."""

from __future__ import annotations

import re

from .errors import ConfigError
from .words import shortened

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)

MOST = 1e12  # seconds, or a size's number before its unit: more is a slip of the hand


def parse_duration(option: str, text: str) -> float:
    """Seconds of "90s", "20m", "1h30m".

    Raises:
        ConfigError: something else.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + seconds
    if not 0 < total <= MOST:
        raise ConfigError(
            f"{option} {shortened(text)!r}: write a duration such as 90s, 20m or 1h30m."
        )
    return total


def parse_memory(option: str, text: str) -> int:
    """Bytes of "6GB" (10^9), "6GiB" (2^30), "512MiB".

    Raises:
        ConfigError: something else.
    """
    match = _MEMORY.fullmatch(text.strip())
    if not match or not 0 < float(match[1]) <= MOST:
        raise ConfigError(f"{option} {shortened(text)!r}: write a size such as 6GB or 512MiB.")
    power = " KMGT".index(match[2].upper() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)
