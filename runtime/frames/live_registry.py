"""Live sources by scheme: Roadshift's own, those that a program registers, installed packages'.

A package that brings one names it in its metadata; it is imported when such a source is opened:

    [project.entry-points."roadshift.live_sources"]
    dashcam = "some_package.dashcam:open_dashcam"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, overload
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from .. import addresses
from ..addresses import SCHEMES, without_password
from ..errors import FrameError
from ..installed import installed, installed_names, load
from ..words import shortened

ENTRY_POINTS = "roadshift.live_sources"

Connect = Callable[[], Iterable[NDArray[np.uint8]]]
"""Connects to a source, anew after each failure, and gives its pictures, uint8 (H, W, 3) RGB, as
they come, until the connection fails; with an attribute ``fps`` where the source says its rate."""
LiveOpener = Callable[[str], Connect]
"""Reads an address, "dashcam:0" or "dashcam://...", in lower case before the colon; `FrameError`
where it is malformed."""

LIVE_SOURCES: dict[str, str] = {
    "camera": "roadshift.runtime.frames.camera:open_camera",
    "csi": "roadshift.runtime.frames.gstreamer:open_csi",
    "gst": "roadshift.runtime.frames.gstreamer:open_pipeline",
    **dict.fromkeys(SCHEMES, "roadshift.runtime.frames.stream:open_stream"),
}
_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]+):", re.IGNORECASE)  # one letter is a drive's

Opener = TypeVar("Opener", bound=LiveOpener)
_REGISTERED: dict[str, LiveOpener] = {}  # by the program that runs


@overload
def register_live_source(scheme: str) -> Callable[[Opener], Opener]: ...
@overload
def register_live_source(scheme: str, opener: Opener) -> Opener: ...
def register_live_source(scheme: str, opener: Opener | None = None) -> Any:
    """Let `open_live`, and ``roadshift run``, know live sources of a scheme, also as a decorator.

    Args:
        scheme: what is written before the colon, "dashcam" of ``dashcam:0`` or ``dashcam://front``,
            in lower case. Of the second form, only host and port are ever shown or stored.
        opener: given the address, checks it and returns a function that connects, see `Connect`.
            Without it this is a decorator: ``@register_live_source("dashcam")``.

    Raises:
        FrameError: the scheme is none, or taken, or the opener cannot be called.
    """
    if opener is None:
        return lambda decorated: register_live_source(scheme, decorated)
    problem = _problem(scheme, opener)
    if problem:
        raise FrameError(f"Live sources {scheme!r} cannot be registered: {problem}.")
    _REGISTERED[scheme] = opener
    return opener


def _problem(scheme: str, opener: object) -> str | None:
    """The reason why the two cannot be registered; None: they can."""
    if not (isinstance(scheme, str) and re.fullmatch(r"[a-z][a-z0-9+.-]+", scheme)):
        return "a scheme is two lower-case letters or more, digits, and + . -"
    if not callable(opener):
        return f"{opener!r} cannot be called"
    if scheme in LIVE_SOURCES:
        return "Roadshift opens sources of that scheme itself"
    if _REGISTERED.get(scheme, opener) is not opener:
        return f"{_REGISTERED[scheme]!r} opens them already"
    return None


def is_live(source: object) -> bool:
    """Tell whether a name is that of a camera or a stream, or has a scheme that was added."""
    return addresses.is_live(source) or _added(_scheme_of(str(source)))


def normal_address(source: str) -> str:
    """``source`` as its opener takes it: the scheme in lower case, a device as a camera."""
    scheme = _scheme_of(source)
    if _added(scheme):
        return f"{scheme}:{source.partition(':')[2]}"
    return addresses.normal_address(source)


def opener_of(address: str) -> LiveOpener:
    """The opener of an address as `normal_address` gives it.

    Raises:
        FrameError: no live source is written so, or a package's cannot be imported.
    """
    scheme = _scheme_of(address)
    if scheme in _REGISTERED:
        return _REGISTERED[scheme]
    if scheme in LIVE_SOURCES and (scheme not in SCHEMES or "://" in address):
        found: LiveOpener = load(LIVE_SOURCES[scheme])
        return found
    if _added(scheme):
        brought: LiveOpener = installed(
            ENTRY_POINTS, scheme, f"{shown(address)}: its live source", FrameError
        )
        return brought
    known = ", ".join((*SCHEMES, *_REGISTERED, *installed_names(ENTRY_POINTS)))
    raise FrameError(
        f"{shown(address)} is no live source; write camera:0, csi:0, gst:PIPELINE, or a URL that "
        f"begins with {known}."
    )


def shown(address: str) -> str:
    """An address as a sentence may repeat it."""
    return shortened(without_password(address))


def device_and_settings(
    address: str, device: str, settings: Mapping[str, str], example: str
) -> tuple[str, dict[str, str]]:
    """Take apart "camera:0?size=1280x720": the device, and what is asked of it.

    Args:
        device: regular expression of a whole device.
        settings: names of settings, and regular expressions of their whole values.
        example: clause that says how to write an address.

    Raises:
        FrameError: the address is written in another way.
    """
    found, _, query = address.partition(":")[2].partition("?")
    asked = dict(parse_qsl(query, keep_blank_values=True))
    if not re.fullmatch(device, found) or any(
        key not in settings or not re.fullmatch(settings[key], value)
        for key, value in asked.items()
    ):
        raise FrameError(f"{shown(address)}: {example}.")
    return found, asked


def width_and_height(size: str) -> tuple[int, int]:
    """The sides of the setting "1280x720", which `device_and_settings` found to be one."""
    width, height = size.split("x")
    return int(width), int(height)


def _scheme_of(text: str) -> str:
    """The scheme before the colon, in lower case; "" where there is none."""
    found = _SCHEME.match(text)
    return found[1].lower() if found else ""


def _added(scheme: str) -> bool:
    """Tell whether a program registered it, or an installed package does."""
    if not scheme or scheme in LIVE_SOURCES:
        return False
    return scheme in _REGISTERED or scheme in installed_names(ENTRY_POINTS)
