"""Arguments of the functions that learn, checked and turned into a run's settings and options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..runtime.arguments import ProgressUpdate, Source
from ..runtime.bundle import NetworkSpec
from ..runtime.errors import ConfigError, arg, naming
from ..runtime.given import above_zero, switches
from .methods import adapting_method, by_new_names, find_method, resolve_settings
from .methods.base import Method
from .run.config import RunConfig, Settings, TrainingConfig, merge, read_toml
from .run.events import Events
from .run.options import RunOptions

Note = Callable[[str], None]
OnProgress = Callable[[ProgressUpdate], None]
Config = Source | Mapping[str, Any]


def network_of(name: str, arguments: Mapping[str, Any] | None, output: str | None) -> NetworkSpec:
    """A network by name, with its arguments.

    Raises:
        ConfigError: one of them is malformed.
    """
    if not isinstance(arguments, (Mapping, type(None))):
        raise ConfigError(f"{arg('arguments')}: {arguments!r} is no mapping of names to values.")
    try:
        return NetworkSpec(name=name, arguments=dict(arguments or {}), output=output)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]).replace("name", "network", 1)
        first, _, rest = where.partition(".")
        raise ConfigError(
            f"{arg(first)}: {f'{rest}: ' if rest else ''}{problem['msg']}, got "
            f"{problem['input']!r}."
        ) from error


def read_config(config: Config | None) -> Mapping[str, Any]:
    """Settings by name, sections as mappings."""
    if config is None or isinstance(config, Mapping):
        return config or {}
    if not isinstance(config, (str, Path)):
        raise ConfigError(f"{arg('config')}: {config!r} is no TOML file and no mapping.")
    return read_toml(Path(config))


def chosen_method(
    method: str | None, config: Mapping[str, Any], default: str
) -> tuple[str, type[Method]]:
    """The method that was asked for, or else that of ``config``, or else the default; its name.

    Raises:
        ConfigError: there is no such method, or it learns from labels.
    """
    with naming(**{"config" if method is None else "method": ConfigError}):
        name = method if method is not None else config.get("method", default)
        return name, adapting_method(name)


def resolved_settings(
    method: str,
    settings: Settings | None,
    training: TrainingConfig | None,
    config: Config | None,
    seed: int | None,
) -> RunConfig:
    """The whole of a run's settings, see `given_settings`."""
    return resolve_settings(method, given_settings(method, settings, training, config), seed=seed)


def given_settings(
    method: str,
    settings: Settings | None,
    training: TrainingConfig | None,
    config: Config | None,
) -> dict[str, Any]:
    """Settings as they are given; what is set in typed settings lies over ``config``.

    Raises:
        ConfigError: they are not of the method, or contradict one another.
    """
    given = dict(read_config(config))
    given.pop("recipe", None)  # what a published row is, see `recipes`; no setting of a run
    if given.pop("method", method) != method:
        raise ConfigError(f"{arg('config')}: is not written for {arg('method', method)}.")
    wanted, given = find_method(method).Config, by_new_names(method, given)
    _check_type("settings", settings, wanted, f"method {method!r} takes ")
    _check_type("training", training, TrainingConfig)
    return merge(given, typed_settings(method, settings, training))


def typed_settings(
    method: str, settings: Settings | None, training: TrainingConfig | None
) -> dict[str, Any]:
    """Settings that are set in typed ones, by section."""
    sections = {method: settings, "training": training}
    return {
        name: section.model_dump(exclude_unset=True)
        for name, section in sections.items()
        if section is not None
    }


def _check_type(name: str, value: object, wanted: type[Settings], whose: str = "") -> None:
    """Refuse an instance of another class; None passes."""
    if value is not None and not isinstance(value, wanted):
        raise ConfigError(
            f"{arg(name)}: {whose or 'takes '}{wanted.__name__}, not {type(value).__name__}."
        )


def run_options(
    out: Path,
    overwrite: bool,
    device: str,
    resume: bool,
    checkpoint_every_s: float,
    time_budget_s: float | None,
    memory_budget_mib: float | None,
    on_note: Note,
    on_progress: OnProgress,
    stop_requested: Callable[[], bool],
    patience: float | None = None,
) -> RunOptions:
    """Options of a run, from the arguments of the same names; `patience` in seconds.

    Raises:
        ConfigError: a number is not above 0, or a switch neither True nor False.
    """
    switches(overwrite=overwrite, resume=resume)
    above_zero("checkpoint_every_s", checkpoint_every_s)
    above_zero("time_budget_s", time_budget_s)
    above_zero("memory_budget_mib", memory_budget_mib)

    return RunOptions(
        out,
        overwrite,
        device,
        resume,
        checkpoint_every_s=checkpoint_every_s,
        time_budget_s=time_budget_s,
        patience_s=patience,
        memory_budget_bytes=(
            None if memory_budget_mib is None else round(memory_budget_mib * 2**20)
        ),
        events=Events(on_note, on_progress, on_progress, stop_requested),
    )
