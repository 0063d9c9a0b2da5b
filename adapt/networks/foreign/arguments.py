"""Arguments of a user's factory besides the number of classes: groups of options, channels."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

IMAGE_CHANNELS = 3  # of the frames, whatever a factory calls it
CHANNEL_PARAMETERS = (
    *("n_channels", "in_channels", "input_channels", "num_channels", "n_channel", "in_channel"),
    *("input_channel", "in_chans", "in_chan", "in_ch", "channels_in", "channel_in", "nchannels"),
    *("num_input_channels", "n_in_channels", "image_channels", "img_channels", "in_dim"),
    *("img_ch", "input_ch"),
)


class Options(dict[str, Any]):
    """A group of options whose members are both items and attributes.

    Published code takes one ``args`` or ``cfg`` and reads ``args.scale``, ``cfg["MODEL"]`` or
    ``cfg.MODEL.LAYERS`` from it: all of these work.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            known = ", ".join(self) or "none"
            raise AttributeError(
                f"the option {name!r} is read from a group that has {known}"
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(name) from None


def as_options(value: Any) -> Any:
    """``value`` with every mapping in it as `Options`, anew; a factory may change them."""
    if isinstance(value, Mapping):
        return Options({str(name): as_options(child) for name, child in value.items()})
    if isinstance(value, list):
        return [as_options(child) for child in value]
    return value


def channels(
    parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]
) -> dict[str, int]:
    """The channels of an image under the name that a factory asks for them by.

    Args:
        parameters: the factory's, by name. One that has a default keeps it.
        given: arguments of the user, who is not contradicted.
    """
    plain = {name.replace("_", "") for name in CHANNEL_PARAMETERS}
    return {
        name: IMAGE_CHANNELS
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and name not in given
        and name.replace("_", "").lower() in plain
    }
