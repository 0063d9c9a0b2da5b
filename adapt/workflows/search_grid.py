"""A grid of settings to choose from: every combination of the values that are tried of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ...runtime.errors import ConfigError, arg, marked
from ..methods import find_method, resolve_settings
from ..run.config import RunConfig, leaves, merge, shown

MOST_CANDIDATES = 32  # each of them is a whole run


@dataclass(frozen=True)
class Candidate:
    """One combination: its values by dotted key, and the whole settings of its run."""

    values: dict[str, Any]
    config: RunConfig

    @property
    def title(self) -> str:
        """The combination as ``--set`` takes it."""
        return " ".join(f"{key}={value}" for key, value in self.values.items())


def search_grid(
    method: str,
    given: Mapping[str, Any],
    axes: Mapping[str, Sequence[Any]],
    *,
    fixed: Mapping[str, Any],
    seed: int | None = None,
) -> list[Candidate]:
    """Every combination of the values of ``axes``, the last key varying fastest.

    Args:
        method: its name; a key without a section is the method's own where it has such a setting.
        given: the run's other settings, sections as mappings.
        axes: for each key the values to try.
        fixed: those of ``given`` that a user set besides, which may not be among the keys.
        seed: of every run.

    Raises:
        ConfigError: an unknown key, a value out of range, fewer than two values of one, the same
            twice, a key that is set besides, or more than `MOST_CANDIDATES` combinations.
    """
    keys = {_full(method, key): key for key in axes}
    if len(keys) < len(axes):
        raise ConfigError(
            f"{arg('search')}: {' and '.join(axes)} name the same setting twice; give it once."
        )
    for full, key in keys.items():
        _check_axis(key, axes[key])
        if "." not in full and full not in RunConfig.model_fields:
            raise ConfigError(
                f"{arg('search')} {key}: {method} has no such setting, it has "
                f"{', '.join(find_method(method).Config.model_fields)}; one of another section is "
                "written with it, as training.lr."
            )
        if full in ("method", "seed"):
            raise ConfigError(
                f"{arg('search')} {key}: only settings of one method with one seed are searched; "
                "leave it out."
            )
        if full in leaves(fixed):
            raise ConfigError(
                f"{arg('search')} {key}: is set besides, to {shown(leaves(fixed)[full])}; leave "
                "one of the two out."
            )
    count = math.prod(len(axes[key]) for key in keys.values())
    if count > MOST_CANDIDATES:
        raise ConfigError(
            f"{arg('search')}: makes {count} combinations, and each is a whole run; give values "
            f"that make at most {MOST_CANDIDATES}."
        )
    tried = [[_plain(value) for value in axes[key]] for key in keys.values()]
    combinations = product(*tried)
    return [
        _candidate(method, given, dict(zip(keys, one, strict=True)), seed) for one in combinations
    ]


def _check_axis(key: str, values: Sequence[Any]) -> None:
    """Refuse values that leave nothing to choose."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ConfigError(f"{arg('search')} {key}: {shown(values)} is no list of values to try.")
    if len(values) < 2:
        raise ConfigError(
            f"{arg('search')} {key}: has {len(values)} value{'s' * (not values)}, which leaves "
            "nothing to choose; give two or more, or set it as any other setting."
        )
    twice = [value for value in values if list(values).count(value) > 1]
    if twice:
        raise ConfigError(f"{arg('search')} {key}: tries {shown(twice[0])} twice; give it once.")


def _plain(value: Any) -> Any:
    """The value as a manifest holds it, where there are no tuples."""
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _full(method: str, key: str) -> str:
    """The key with its section: ``weight_pe`` is ``iapc.weight_pe`` in a search of IAPC's."""
    config = find_method(method).Config
    own = key in config.model_fields or key in config.renamed
    return f"{method}.{key}" if own else key


def _candidate(
    method: str, given: Mapping[str, Any], values: dict[str, Any], seed: int | None
) -> Candidate:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        one: Any = value
        for part in reversed(key.split(".")):
            one = {part: one}
        nested = merge(nested, one)
    try:
        config = resolve_settings(method, merge(given, nested), seed=seed)
    except ConfigError as error:
        tried = ", ".join(f"{key}={shown(value)}" for key, value in values.items())
        raise ConfigError(f"{arg('search')} {tried}: {marked(error)}") from error
    return Candidate(values, config)
