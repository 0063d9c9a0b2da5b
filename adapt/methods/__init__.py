"""The methods: one file each, known by name to `METHODS`; see `register_method`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...runtime.errors import ConfigError, arg
from ...runtime.given import seed_of
from ..run.config import RunConfig, merge, parse_assignments, read_toml, shown, validate
from ..run.renamed_settings import in_new_names, in_new_words, in_old_names
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
from .registry import METHODS, MethodRegistry, register_method
from .shot_im import ShotIm
from .supervised import Supervised
from .tent import Tent
from .tone_only import ToneOnly

for _method in (
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
):
    register_method(_method)

DEFAULT = Nightshift.name  # what `roadshift adapt` runs unless told otherwise


def find_method(name: str) -> type[Method]:
    """The method of that name, to adapt with; or "supervised", which `train` runs.

    Raises:
        ConfigError: there is no such method.
    """
    if name == Supervised.name:
        return Supervised
    if not isinstance(name, str) or name not in METHODS:
        raise ConfigError(f"method {shown(name)} is unknown; there are {', '.join(METHODS)}.")
    return METHODS[name]


def adapting_method(name: str) -> type[Method]:
    """The method of that name, to adapt with.

    Raises:
        ConfigError: there is no such method, or it learns from labels.
    """
    if name == Supervised.name:
        raise ConfigError(
            f"method {name!r} is unknown to adapt, for it learns from labels as `roadshift train` "
            f"does; there are {', '.join(METHODS)}."
        )
    return find_method(name)


def choose_method(method: str | None, file: Path | None) -> str:
    """The method that was asked for, or else that of the settings file, or else `DEFAULT`.

    Raises:
        ConfigError: the file cannot be read, or its ``method`` is no name.
    """
    if method is not None or file is None:
        return DEFAULT if method is None else method
    named = read_toml(file).get("method", DEFAULT)
    if not isinstance(named, str):
        raise ConfigError(f"{file}: method is a name in quotes, not {shown(named)}.")
    return named


def resolve_config(
    method: str,
    *,
    file: Path | None = None,
    assignments: Sequence[str] = (),
    seed: int | None = None,
) -> RunConfig:
    """The whole of a run's settings: defaults, preset, TOML file, assignments, each over the last.

    ``<method>.variant`` chooses the preset ("roadshift" unless set).

    Raises:
        ConfigError: an unknown method, variant or key, or a value out of range.
    """
    return resolve_settings(method, given_settings(method, file, assignments), seed=seed)


def given_settings(
    method: str, file: Path | None = None, assignments: Sequence[str] = ()
) -> dict[str, Any]:
    """Settings that a user gave, sections as mappings: of the TOML file, assignments over them.

    Raises:
        ConfigError: an unknown method, or the file or an assignment is of another.
    """
    find_method(method)
    read = read_toml(file) if file else {}
    read.pop("recipe", None)  # what a published row is, see `recipes`; no setting of a run
    if file and read.get("method", method) != method:
        raise ConfigError(
            f"{file} is written for method {shown(read['method'])}, not {method!r}; leave "
            f"{arg('method')} "
            "out, or give another file."
        )
    assigned = parse_assignments(assignments)
    if "method" in assigned:
        raise ConfigError(
            f"{arg('assignments')} method={assigned['method']}: a setting cannot change the "
            f"method; use {arg('method')} {assigned['method']}."
        )
    read, assigned = (by_new_names(method, given) for given in (read, assigned))
    return merge(read, assigned)


def resolve_settings(
    method: str, given: Mapping[str, Any], *, seed: int | None = None
) -> RunConfig:
    """The whole of a run's settings: defaults, preset, and ``given`` over them.

    Args:
        method: its name.
        given: settings of the run by name, sections as mappings, the method's own under its name.

    Raises:
        ConfigError: an unknown method, variant or key, or a value out of range.
    """
    chosen, given = find_method(method), by_new_names(method, given)
    others = [name for name in given if name != method and _is_method(name)]
    if others:
        raise ConfigError(
            f"settings of {others[0]} are for runs of it ({arg('method')} {others[0]}); "
            "this one is of "
            f"{method}."
        )
    if "method_config" in given:
        raise ConfigError(f"method_config is for manifests; give these settings as [{method}].")
    own = given.get(method, {})
    if not isinstance(own, Mapping):
        raise ConfigError(
            f"{method} is a section: write {method}.key=value, not {method}={shown(own)}."
        )
    variant = own.get("variant", "roadshift")
    if variant not in list(chosen.presets):
        raise ConfigError(
            f"{method}.variant {shown(variant)} is unknown; there are {', '.join(chosen.presets)}."
        )
    values = merge(by_new_names(method, chosen.presets[variant]), _one_rate(given))
    values["method"] = method
    if seed is not None:
        values["seed"] = seed_of(seed)
    section: Mapping[str, Any] = values.pop(method, {})
    section = {key: value for key, value in section.items() if key != "variant"}
    if "variant" in chosen.Config.model_fields:  # the others have one, and need not keep its name
        section["variant"] = variant
    settings = validate(chosen.Config, section, f"section {method}")
    values["method_config"] = settings.model_dump(mode="json")
    config = validate(RunConfig, values, "settings")
    if config.teacher_cache and not chosen.asks_frozen_teacher:
        those = ", ".join(name for name, other in METHODS.items() if other.asks_frozen_teacher)
        raise ConfigError(
            f"teacher_cache: {method} asks no frozen teacher at every step; {those} do."
        )
    if config.negative_learning.weight and not chosen.stages(settings):
        raise ConfigError(
            f"negative_learning: {method} takes no steps, so there is nothing to add a term to; "
            "leave it out, or choose a method that learns."
        )
    return config


def by_new_names(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run by name, sections as mappings, with no old name left among them.

    Raises:
        ConfigError: the method is unknown, or a setting is given under its old and its new name.
    """
    renamed = in_new_names(given, RunConfig.renamed)
    own = renamed.get(method)
    if isinstance(own, Mapping):
        section, settings = f"{method}.", find_method(method).Config
        own = in_new_names(own, settings.renamed, section)
        renamed[method] = in_new_words(own, settings.renamed_values, section)
    return renamed


def hashed_settings(config: RunConfig) -> dict[str, Any]:
    """Settings as a JSON document to hash, under the names before the last renaming.

    So a run that began before it is told by the same hash after it, and goes on.
    """
    document = in_old_names(config.model_dump(mode="json"), RunConfig.renamed)
    renames = find_method(config.method).Config.renamed
    return {**document, "method_config": in_old_names(document["method_config"], renames)}


def _one_rate(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings in which a learning rate of the user's own holds with frozen statistics, too."""
    training = given.get("training")
    if isinstance(training, Mapping) and "lr" in training and "frozen_lr" not in training:
        return merge(given, {"training": {"frozen_lr": training["lr"]}})
    return given


def _is_method(name: str) -> bool:
    return name in METHODS or name == Supervised.name


def build_stages(config: RunConfig) -> list[Stage]:
    """The stages that ``config`` describes, not yet begun."""
    chosen = find_method(config.method)
    return list(chosen.stages(validate(chosen.Config, config.method_config, config.method)))


__all__ = [
    "DEFAULT",
    "METHODS",
    "Method",
    "MethodRegistry",
    "Stage",
    "adapting_method",
    "build_stages",
    "by_new_names",
    "choose_method",
    "find_method",
    "given_settings",
    "hashed_settings",
    "register_method",
    "resolve_config",
    "resolve_settings",
]
