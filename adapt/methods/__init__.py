"""The methods: one file each. Adding one is its file and its line in `METHODS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...runtime.errors import ConfigError
from ..config import RunConfig, merge, parse_assignments, read_toml, validate
from .atp import Atp
from .base import Method, Stage
from .black_box import AtpBlackBox, Das3BlackBox
from .bn_stats import BnStats
from .das3 import Das3
from .entmin import Entmin
from .iapc import Iapc
from .ld import Ld
from .nightshift import Nightshift
from .pseudo import Pseudo, PseudoEntmin, PseudoSelected
from .shot_im import ShotIm
from .supervised import Supervised
from .tent import Tent
from .tone_only import ToneOnly

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Nightshift,
        Iapc,
        Ld,
        Atp,
        Das3,
        AtpBlackBox,
        Das3BlackBox,
        ToneOnly,
        BnStats,
        Tent,
        Entmin,
        Pseudo,
        PseudoEntmin,
        PseudoSelected,
        ShotIm,
    )
}
_ALL: dict[str, type[Method]] = {**METHODS, Supervised.name: Supervised}  # `train` runs the last


def resolve_config(
    method: str,
    *,
    file: Path | None = None,
    assignments: Sequence[str] = (),
    seed: int | None = None,
) -> RunConfig:
    """The whole of a run's settings: defaults, preset, TOML file, ``--set``, each over the last.

    ``<method>.variant`` chooses the preset ("roadshift" unless set).

    Raises:
        ConfigError: an unknown method, variant or key, or a value out of range.
    """
    if method not in _ALL:
        raise ConfigError(f"method {method!r} is unknown; there are {', '.join(METHODS)}.")
    chosen = _ALL[method]
    read = read_toml(file) if file else {}
    read.pop("recipe", None)  # what a published row is, see `recipes`; no setting of a run
    given = merge(read, parse_assignments(assignments))
    if file and given.get("method", method) != method:
        raise ConfigError(f"{file} is written for method {given['method']!r}, not {method!r}.")
    others = [name for name in given if name in _ALL and name != method]
    if others:
        raise ConfigError(
            f"settings of {others[0]} are for runs of it (--method {others[0]}); this one is of "
            f"{method}."
        )
    if "method_config" in given:
        raise ConfigError(f"method_config is for manifests; give these settings as [{method}].")
    own = given.get(method, {})
    if not isinstance(own, Mapping):
        raise ConfigError(f"{method} is a section: write {method}.key=value, not {method}={own!r}.")
    variant = own.get("variant", "roadshift")
    if variant not in list(chosen.presets):
        raise ConfigError(
            f"{method}.variant {variant!r} is unknown; there are {', '.join(chosen.presets)}."
        )
    values = merge(chosen.presets[variant], given)
    values["method"] = method
    if seed is not None:
        values["seed"] = seed
    section: Mapping[str, Any] = values.pop(method, {})
    if "variant" in chosen.Config.model_fields:
        section = {**section, "variant": variant}
    settings = validate(chosen.Config, section, f"section {method}")
    values["method_config"] = settings.model_dump(mode="json")
    config = validate(RunConfig, values, "settings")
    if config.teacher_cache and not chosen.asks_frozen_teacher:
        those = ", ".join(name for name, other in METHODS.items() if other.asks_frozen_teacher)
        raise ConfigError(
            f"teacher_cache: {method} asks no frozen teacher at every step; {those} do."
        )
    return config


def build_stages(config: RunConfig) -> list[Stage]:
    """The stages that ``config`` describes, not yet begun."""
    chosen = _ALL[config.method]
    return list(chosen.stages(validate(chosen.Config, config.method_config, config.method)))


__all__ = ["METHODS", "Method", "Stage", "build_stages", "resolve_config"]
