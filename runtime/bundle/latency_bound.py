"""The longest time that a frame may take a bundle's engine, as the bundle itself records it."""

from __future__ import annotations

import math

from ..errors import ConfigError, arg
from .manifest import Measurement
from .reader import Bundle
from .writer import extend_bundle

_NAME = "p99_bound"


def latency_bound_ms(bundle: Bundle) -> float | None:
    """Milliseconds at the 99th percentile; None where the bundle records no bound."""
    return next((one.value for one in bundle.manifest.measured if one.name == _NAME), None)


def with_latency_bound(bundle: Bundle, p99_ms: float) -> Bundle:
    """The bundle with this bound in its manifest, which signatures are of; in place.

    Raises:
        ConfigError: the bound is no time.
        OutputError: the bundle cannot be written.
    """
    check_latency_bound(p99_ms)
    bound = Measurement(name=_NAME, value=p99_ms, unit="ms", how="a bound that was set, for trials")
    with extend_bundle(bundle) as writer:
        return writer.commit(measured=[bound])


def check_latency_bound(p99_ms: float | None) -> None:
    """Raise ConfigError where a bound is no time."""
    if p99_ms is not None and not 0 < p99_ms < math.inf:
        raise ConfigError(f"{arg('p99_ms')} must be a time above 0, got {p99_ms:g}.")
