"""Text of a command line as typed values; an error names the option and says what to write."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, TypeVar, get_args

import typer

from ..runtime.errors import ConfigError
from ..runtime.words import shortened

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)

_SIZE = re.compile(r"(\d{1,6})[xX](\d{1,6})")

MOST = 1e12  # seconds, or a size's number before its unit: more is a slip of the hand


Given = TypeVar("Given")


def needed(name: str, value: Given | None, instead: str) -> Given:
    """The value of an argument or option that only a flag for itself makes unnecessary.

    Args:
        instead: that flag.

    Raises:
        typer.BadParameter: it is not given.
    """
    if value is None:
        raise typer.BadParameter(f"it is missing; give it, or {instead} alone.", param_hint=name)
    return value


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


def parse_days(option: str, text: str) -> float:
    """Days of "365d" or "365".

    Raises:
        ConfigError: something else, or more than a hundred years.
    """
    number = text.strip().lower().removesuffix("d")
    if not number.replace(".", "", 1).isdecimal() or not 0 < float(number) <= 36525:
        raise ConfigError(f"{option} {shortened(text)!r}: write a number of days, such as 365d.")
    return float(number)


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


def parse_share(option: str, text: str) -> float:
    """A share, above 0 and at most 1, of "10%" or "0.1"; of "--keep-free" also 0.

    Raises:
        ConfigError: something else.
    """
    number = text.strip().removesuffix("%")
    try:
        share = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not (0 < share <= 1 or (share == 0 and option == "--keep-free")):
        raise ConfigError(f"{option} {shortened(text)!r}: write a share such as 10% or 0.1.")
    return share


def parse_size(option: str, text: str) -> tuple[int, int]:
    """(width, height) of "1024x512".

    Raises:
        ConfigError: something else, or a side below 32 pixels.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match or min(int(match[1]), int(match[2])) < 32:
        raise ConfigError(
            f"{option} {shortened(text)!r}: write WIDTHxHEIGHT, at least 32x32, e.g. 1024x512."
        )
    return int(match[1]), int(match[2])


def parse_triple(option: str, text: str) -> tuple[float, float, float]:
    """Three finite numbers of "a,b,c", in 0-255 units; those of "--std" are above 0.

    Raises:
        ConfigError: something else.
    """
    try:
        a, b, c = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} {shortened(text)!r}: write three numbers, a,b,c.") from error
    if not all(map(math.isfinite, (a, b, c))) or (option == "--std" and min(a, b, c) <= 0):
        kind = "positive" if option == "--std" else "finite"
        raise ConfigError(f"{option} {shortened(text)!r}: write three {kind} numbers, a,b,c.")
    return a, b, c


def parse_names(text: str) -> list[str]:
    """Names of "a,b, c", in their order; an empty one stays, for whoever knows the names."""
    return [name.strip() for name in text.split(",")]


def key_and_value(entry: str) -> tuple[str, str | None]:
    """The text left of the first "=" of an entry, and that right of it; None where it has none.

    What has to be there, and how the value is written, is the option's to say.
    """
    key, equals, value = entry.partition("=")
    return key.strip(), value if equals else None


def parse_arguments(option: str, entries: Sequence[str]) -> dict[str, Any]:
    """Arguments by name of ``["heads=2", "norm=batch"]``; values are TOML, a bare word is a text.

    A bare ``None`` is none of TOML's and means Python's. A dotted key is a member of a group:
    ``["args.scale=2.0"]`` is ``{"args": {"scale": 2.0}}``.

    Raises:
        ConfigError: an entry is not ``key=value``, or its key is no name of an argument.
    """
    from ..adapt.run.config import parse_assignments

    for entry in entries:
        key, value = key_and_value(entry)
        if value is None or not all(part.strip().isidentifier() for part in key.split(".")):
            raise ConfigError(f"{option} {entry!r}: write it as key=value.")
    keys = [key_and_value(entry)[0] for entry in entries]
    for i, key in enumerate(keys):
        if any(f"{other}.".startswith(f"{key}.") for other in (*keys[:i], *keys[i + 1 :])):
            raise ConfigError(f"{option} {key}: is given twice, alone or as a group; give one.")
    arguments = parse_assignments(entries)
    for key in (key_and_value(entry)[0] for entry in entries if entry.endswith("=None")):
        *groups, name = (part.strip() for part in key.split("."))
        inner = arguments
        for group in groups:
            inner = inner[group]
        inner[name] = None
    return arguments


def parse_search(entries: Sequence[str]) -> dict[str, list[Any]]:
    """Values to try by key, of ``["weight_pe=0.2,0.5,1", "warm_start=mixed,target"]``.

    Values are TOML, a bare word is a text.

    Raises:
        ConfigError: an entry is not ``key=value,value``, or a key is given twice.
    """
    found: dict[str, list[Any]] = {}
    for entry in entries:
        key, text = key_and_value(entry)
        if text is None or not all(part.strip() for part in key.split(".")):
            raise ConfigError(f"--search {shortened(entry)!r}: write it as key=value,value.")
        if key in found:
            raise ConfigError(f"--search {key}: is given twice; give all its values at once.")
        found[key] = _alternatives(text.strip())
    return found


def _alternatives(text: str) -> list[Any]:
    """The values of "0.2,0.5" or "mixed,target"; "[1, 2], [3, 4]" are two lists."""
    from ..adapt.run.config import parse_assignments

    values = parse_assignments([f"tried=[{text}]"])["tried"]
    if isinstance(values, list):
        return values
    return [parse_assignments([f"tried={word}"])["tried"] for word in parse_names(text)]


def with_loss_backend(
    settings: list[str] | None,
    loss_backend: str | None = None,
    *,
    losses: str | None = None,
    seed: int | None = None,
) -> list[str]:
    """``--set``'s settings and ``--loss-backend``, which is one of them by another name.

    Args:
        losses: the same under the name that the option had before.

    Raises:
        ConfigError: one is given twice, ``--seed`` and ``--set seed`` among them, or there is no
            such backend.
    """
    from ..adapt.run.config import RunConfig, check_given_once
    from ..runtime.console.terminal import note

    if losses is not None:
        if loss_backend is not None:
            raise ConfigError(
                "--losses and --loss-backend are both given, and the first is the second's old "
                "name; leave --losses out."
            )
        note("--losses is now called --loss-backend; the old name is taken in this release alone")
        loss_backend = losses
    known = get_args(RunConfig.model_fields["loss_backend"].annotation)
    if loss_backend is not None and loss_backend not in known:
        raise ConfigError(f"--loss-backend {loss_backend!r} is none of {', '.join(known)}.")
    check_given_once(settings or (), loss_backend=loss_backend, seed=seed)
    return [*(settings or ()), *([f"loss_backend={loss_backend}"] if loss_backend else [])]


def with_variant(settings: list[str], method: str, variant: str | None) -> list[str]:
    """``--set``'s settings and ``--variant``, which is one of them by another name.

    Raises:
        ConfigError: it is given both ways, or the method has no such variant.
    """
    if variant is None:
        return settings
    from ..adapt.methods import find_method

    key = f"{method}.variant"
    if any(key_and_value(entry)[0] == key for entry in settings):
        raise ConfigError(
            f"--variant {variant} and --set {key} are both given; leave one of them out."
        )
    known = find_method(method).presets
    if variant not in known:
        raise ConfigError(
            f"--variant {variant!r}: the variants of {method} are {', '.join(known)}."
        )
    return [*settings, f"{key}={variant}"]
