"""Methods to compare, each with its settings for every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...runtime.errors import ConfigError, arg
from ..methods import METHODS, adapting_method, resolve_config
from ..run.config import RunConfig, parse_assignments, shown

MOST_SEEDS = 1000  # runs of each method


@dataclass(frozen=True, eq=False)
class MethodVariant:
    """A method in one variant, with its settings for each seed, 0 and up.

    Attributes:
        row: its title in a table that varies other settings than the variant; see `Ablation`.
        key: the name of its runs in that table.
    """

    method: str
    name: str
    configs: tuple[RunConfig, ...]
    row: str | None = None
    key: str | None = None

    @property
    def title(self) -> str:
        """Name in tables: the method, and the variant if it is another than `roadshift`."""
        if self.row is not None:
            return self.row
        return self.method if self.name == "roadshift" else f"{self.method}:{self.name}"

    def run_name(self, seed: int) -> str:
        """Name of the folder of a run."""
        return f"{self.key or f'{self.method}-{self.name}'}-seed{seed}"


def choose_variants(
    methods: Sequence[str] | None,
    assignments: Sequence[str] = (),
    *,
    seeds: int = 1,
    steps: int | None = None,
) -> list[MethodVariant]:
    """The methods to compare, with the settings that each is to run by.

    Args:
        methods: names from `METHODS`, ``name:variant`` for another variant than ours; None: all
            that start from a bundle.
        assignments: ``key=value`` for all methods; ``iapc.key=value`` goes to IAPC alone.
        seeds: runs of each method, with seeds 0 to ``seeds - 1``.
        steps: of each method that takes steps; its own number unless given.

    Raises:
        ConfigError: an unknown method, variant or key; a setting for a method that is not chosen.
    """
    check_seeds(seeds)
    if methods is None:
        methods = [name for name, method in METHODS.items() if not method.black_box]
    chosen = [name.partition(":")[::2] for name in methods]
    for method, _ in chosen:
        if adapting_method(method).black_box:
            raise ConfigError(
                f"method {method!r} starts from answers, not from a bundle's weights: run it with "
                "`roadshift adapt` and measure it with `roadshift eval`."
            )
    given = settings_of([method for method, _ in chosen], assignments)
    check_contradictions(chosen, assignments, steps)
    found: dict[tuple[str, str], MethodVariant] = {}
    for method, wanted in chosen:
        own = [*given[method], *([f"{method}.variant={wanted}"] if wanted else [])]
        if steps is not None and resolve_config(method, assignments=own).training.steps > 0:
            own.append(f"training.steps={steps}")
        configs = [resolve_config(method, assignments=own, seed=seed) for seed in range(seeds)]
        asked = parse_assignments(own).get(method, {}).get("variant", "roadshift")
        variant = str(configs[0].method_config.get("variant", asked))  # under its new name
        found.setdefault((method, variant), MethodVariant(method, variant, tuple(configs)))
    return list(found.values())


def check_seeds(seeds: int) -> None:
    """Refuse a number of seeds that nobody means.

    Raises:
        ConfigError: it is not 1 to `MOST_SEEDS`.
    """
    if not 1 <= seeds <= MOST_SEEDS:
        raise ConfigError(f"{arg('seeds')} {shown(seeds)}: give 1 to {MOST_SEEDS}.")


def check_contradictions(
    chosen: Sequence[Sequence[str]], assignments: Sequence[str], steps: int | None
) -> None:
    """Refuse settings that ``steps`` or the variant of ``name:variant`` would override.

    Raises:
        ConfigError: there is one.
    """
    given = parse_assignments(assignments)
    training = given.get("training")
    if steps is not None and isinstance(training, Mapping) and "steps" in training:
        raise ConfigError(
            f"{arg('steps')} and {arg('assignments')} training.steps are both given; leave one of "
            "them out."
        )
    for method, variant in chosen:
        own = given.get(method)
        if variant and isinstance(own, Mapping) and own.get("variant", variant) != variant:
            raise ConfigError(
                f"{arg('methods')} {method}:{variant} and {arg('assignments')} "
                f"{method}.variant={own['variant']} contradict each other; leave one of them out."
            )


def settings_of(methods: Sequence[str], assignments: Sequence[str]) -> dict[str, list[str]]:
    """The assignments that concern each method: the shared ones, and those of its own section.

    Raises:
        ConfigError: one sets the method or the seed, or is of a method that is not compared.
    """
    given: dict[str, list[str]] = {method: [] for method in methods}
    for entry in assignments:
        key = entry.partition("=")[0].strip()
        section, dot, _ = key.partition(".")
        given_as = f"{arg('assignments')} {entry}"
        if key == "method":
            raise ConfigError(f"{given_as}: a comparison takes its methods from {arg('methods')}.")
        if key == "seed":
            raise ConfigError(
                f"{given_as}: a comparison counts its seeds itself, see {arg('seeds')}."
            )
        if not (dot and section in METHODS):
            for settings in given.values():
                settings.append(entry)
        elif section in given:
            given[section].append(entry)
        else:
            raise ConfigError(f"{given_as}: {section} is not one of {arg('methods')}.")
    return given
