"""The input of a hub folder's model, as its ``preprocessor_config.json`` says it.

Hugging Face computes x = (factor * image - mean) / std, each step where the file switches it on. In
the 0-255 units of a bundle that is (image - mean / factor) / (std / factor).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...runtime.errors import ConfigError, arg
from ..networks.base import IMAGENET_RGB

FACTOR = 1 / 255  # where a file names none
_ASPECT = 2  # width by height of a camera's frame, where a file fixes the shorter side alone
DEFAULT_SIZE = (1024, 512)
Triple = tuple[float, float, float]


class HubInput(NamedTuple):
    """Size (width, height), colour order, mean and deviation in 0-255 units, and what told them.

    What told them may name arguments, as `arg` does.
    """

    size: tuple[int, int]
    colour: str
    mean: Triple
    std: Triple
    told: tuple[str, ...]


def hub_input(
    settings: Mapping[str, Any],
    where: str,
    *,
    size: tuple[int, int] | None,
    colour: str | None,
    mean: Triple | None,
    std: Triple | None,
) -> HubInput:
    """The input that the file says; what a user gives comes first.

    Args:
        settings: of the file; empty where there is none.
        where: the file, for messages.
        size, colour, mean, std: the user's.

    Raises:
        ConfigError: a value is malformed or missing.
    """
    found_size, told_size = (size, "as you say") if size else _size(settings, where)
    flips = _flag(settings, "do_flip_channel_order", where, default=_is_mobilevit(settings))
    order = colour or ("bgr" if flips else "rgb")
    factor = _factor(settings, where)
    own_mean, own_std = _statistics(settings, factor, where, given=bool(mean and std))
    told = (
        f"input {found_size[0]}x{found_size[1]} ({told_size})",
        f"{order.upper()}{_told_colour(settings, colour, flips)}",
        f"mean {_listed(mean or own_mean)}, std {_listed(std or own_std)} in 0-255 units"
        + (" (as you say)" if mean or std else f" (rescaled by {factor:.6g})"),
    )
    return HubInput(found_size, order, mean or own_mean, std or own_std, told)


def _told_colour(settings: Mapping[str, Any], colour: str | None, flips: bool) -> str:
    if colour:
        return " (as you say)"
    if flips:
        return " (do_flip_channel_order)"
    return "" if settings else f" ({_assumed('colour')})"


def _assumed(argument: str) -> str:
    return f"assumed; {arg(argument)} gives another"


def _size(settings: Mapping[str, Any], where: str) -> tuple[tuple[int, int], str]:
    """Width and height, and the key that told them."""
    crops = _flag(settings, "do_center_crop", where, default=False)
    for key in ("crop_size", "size") if crops else ("size",):
        value = settings.get(key)
        if value is None:
            continue
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return (value, value), key
        if isinstance(value, Mapping):
            width, height = value.get("width"), value.get("height")
            if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0:
                return (width, height), key
            shorter = value.get("shortest_edge")
            if isinstance(shorter, int) and shorter > 0:
                return (_ASPECT * shorter, shorter), (
                    f"{key} fixes the shorter side alone, and the longer is taken twice as long"
                )
        raise ConfigError(f"{where}: its {key} {value!r} is no size; give {arg('input_size')}.")
    named = "no size is named; " if settings else ""
    return DEFAULT_SIZE, named + _assumed("input_size")


def _factor(settings: Mapping[str, Any], where: str) -> float:
    if not _flag(settings, "do_rescale", where, default=True):
        return 1.0
    factor = settings.get("rescale_factor", FACTOR)
    if not isinstance(factor, (int, float)) or isinstance(factor, bool) or not factor > 0:
        raise ConfigError(
            f"{where}: its rescale_factor is {factor!r}; give {arg('mean')} and {arg('std')}."
        )
    return float(factor)


def _statistics(
    settings: Mapping[str, Any], factor: float, where: str, *, given: bool
) -> tuple[Triple, Triple]:
    """Mean and deviation in 0-255 units."""
    default = not _is_mobilevit(settings)
    if given or not _flag(settings, "do_normalize", where, default=default):
        return (0.0, 0.0, 0.0), (1 / factor,) * 3
    mean, std = (_triple(settings, key, where) for key in ("image_mean", "image_std"))
    return _scaled(mean, factor), _scaled(std, factor)


def _scaled(triple: Triple, factor: float) -> Triple:
    one, two, three = (round(value / factor, 6) for value in triple)
    return one, two, three


def _triple(settings: Mapping[str, Any], key: str, where: str) -> Triple:
    value: Any = settings.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = [value] * 3
    numbers = isinstance(value, list) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in value
    )
    if not numbers or len(value) != 3 or (key == "image_std" and min(value) <= 0):
        said = f"names no {key}" if value is None else f"says {value!r} for {key}"
        if not settings:
            said = "is not there, or empty, so that the network's mean and deviation are not known"
        raise ConfigError(
            f"{where}: {said}; give {arg('mean')} and {arg('std')} as it was trained with, in "
            f"0-255 units (ImageNet's are {_typed(IMAGENET_RGB.mean)} and "
            f"{_typed(IMAGENET_RGB.std)})."
        )
    return float(value[0]), float(value[1]), float(value[2])


def _flag(settings: Mapping[str, Any], key: str, where: str, *, default: bool) -> bool:
    value = settings.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: its {key} is {value!r}, neither true nor false; mend it.")
    return value


def _is_mobilevit(settings: Mapping[str, Any]) -> bool:
    """True of the one kind that flips channels and does not normalise unless told otherwise."""
    kind = settings.get("image_processor_type") or settings.get("feature_extractor_type") or ""
    return str(kind).startswith("MobileViT")


def _typed(triple: Triple) -> str:
    return ",".join(f"{value:.6g}" for value in triple)


def _listed(triple: Triple) -> str:
    return ", ".join(f"{value:.6g}" for value in triple)
