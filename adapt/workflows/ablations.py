"""Ablation and sensitivity tables of the papers: a TOML file each, with its rows as settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ...runtime.errors import ConfigError, arg
from ...runtime.words import shortened
from ..methods import adapting_method, by_new_names, resolve_settings
from ..run.config import Settings, leaves, merge, parse_assignments, read_toml, shown, validate
from .method_variants import (
    MethodVariant,
    check_contradictions,
    check_seeds,
    settings_of,
)

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "ablations"
SOURCE_ONLY = "source only"  # the row that every comparison begins with


class AblationRow(Settings):
    """A row of a table: what it sets over the table's own settings, sections as mappings."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]  # in names of folders
    title: str
    settings: dict[str, Any] = Field(default={})


class Ablation(Settings):
    """A table: one method in several settings. ``values`` says whose the rows are."""

    title: str  # "IAPC, Table III"
    varies: str
    method: str
    reference: str = ""  # where the table is published
    values: Literal["paper", "ours"]
    note: str = ""  # where they are ours: which, and why
    settings: dict[str, Any] = Field(default={})  # of every row
    rows: Annotated[tuple[AblationRow, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _told_apart(self) -> Ablation:
        for what in ("name", "title"):
            given = [getattr(row, what) for row in self.rows]
            twice = [one for one in given if given.count(one) > 1]
            if twice:
                raise ValueError(f"rows: two have the {what} {twice[0]!r}")
        if self.values == "ours" and not self.note:
            raise ValueError("note must say which of the values are ours")
        return self


def ablation_names() -> list[str]:
    """The tables that come with roadshift."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find_ablation(name_or_path: str) -> Path:
    """The file of a table by its path, or by the name of one that is built in.

    Raises:
        ConfigError: neither a file nor a name.
    """
    if Path(name_or_path).is_dir():
        raise ConfigError(f"{arg('ablation')} {shortened(name_or_path)!r}: is a folder.")
    if Path(name_or_path).is_file():
        return Path(name_or_path)
    if name_or_path in ablation_names():
        return FOLDER / f"{name_or_path}.toml"
    raise ConfigError(
        f"{arg('ablation')} {shortened(name_or_path)!r}: there is no such table; give a file, or "
        f"one of {', '.join(ablation_names())}."
    )


def read_ablation(file: Path) -> Ablation:
    """The table of a file.

    Raises:
        ConfigError: it is none, or its method starts from answers, not from a bundle.
    """
    table = validate(Ablation, read_toml(file), str(file))
    try:
        method = adapting_method(table.method)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    if method.black_box:
        raise ConfigError(
            f"{file}: its method {table.method} learns from a black box's answers, and a "
            "comparison starts from a bundle; give a table of another method."
        )
    return table


def ablation_variants(
    file: Path,
    assignments: Sequence[str] = (),
    *,
    seeds: int = 1,
    steps: int | None = None,
) -> list[MethodVariant]:
    """A variant for each row: the table's settings, ``assignments``, the row's, each over the last.

    Args:
        file: of the table.
        assignments: ``key=value`` for all rows.
        seeds: runs of each row, with seeds 0 to ``seeds - 1``.
        steps: of each row that takes steps; its own number unless given.

    Raises:
        ConfigError: an unknown key, a value out of range, or an assignment of what a row varies.
    """
    check_seeds(seeds)
    table = read_ablation(file)
    given = parse_assignments(settings_of([table.method], assignments)[table.method])
    check_contradictions((), assignments, steps)
    given = by_new_names(table.method, given)
    common = merge(by_new_names(table.method, table.settings), given)
    variants = []
    for row in table.rows:
        own = by_new_names(table.method, row.settings)
        _check_free(own, given, row)
        values = merge(common, own)
        if steps is not None and resolve_settings(table.method, values).training.steps > 0:
            values = merge(values, {"training": {"steps": steps}})
        configs = [resolve_settings(table.method, values, seed=seed) for seed in range(seeds)]
        name = str(configs[0].method_config.get("variant", "roadshift"))
        variants.append(
            MethodVariant(
                table.method, name, tuple(configs), row=row.title, key=f"{file.stem}-{row.name}"
            )
        )
    return variants


def ablation_listing() -> list[dict[str, Any]]:
    """The tables that come with roadshift, as rows of equal keys for a listing."""
    tables = {name: read_ablation(find_ablation(name)) for name in ablation_names()}
    return [
        {
            "name": name,
            "method": table.method,
            "varies": table.varies,
            "rows": [row.title for row in table.rows],
            "values": table.values,
            "reference": table.reference,
        }
        for name, table in tables.items()
    ]


def _check_free(own: Mapping[str, Any], given: Mapping[str, Any], row: AblationRow) -> None:
    """Refuse an assignment that a row would override."""
    for key in leaves(given):
        if key in leaves(own):
            raise ConfigError(
                f"{arg('assignments')} {key}: the row {shown(row.title)} sets it, for that is what "
                "the table varies; leave it out."
            )
