"""Recipes: one TOML file a published row, with the settings of its run and its figures.

The ``[recipe]`` section says what the row is; the rest of the file is what `resolve_config` takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ...runtime.errors import ConfigError
from ...runtime.labels import label_space
from ...runtime.labels.layouts import layout
from ...runtime.words import shortened
from ..methods import adapting_method
from ..run.config import Settings, read_toml, validate

FOLDER = Path(__file__).resolve().parents[2] / "configs"
SOURCES = FOLDER / "source"  # of source models, for `train`
ALL_ROWS = FOLDER / "published.toml"  # the one file there that is no recipe, see `published`
Percent = Annotated[float, Field(ge=0, le=100)]


class Published(Settings):
    """Figures of a paper, mIoU in percent; ``_13``: over the 13 classes of synthia13 (mIoU*)."""

    miou: float = Field(gt=0, le=100)
    miou_13: float | None = Field(default=None, gt=0, le=100)
    source_only: float | None = Field(default=None, gt=0, le=100)  # of the paper's source model
    source_only_13: float | None = Field(default=None, gt=0, le=100)
    iou: dict[str, Percent] = Field(default={})  # of ``miou``, by class
    source_only_iou: dict[str, Percent] = Field(default={})


class Recipe(Settings):
    """A published row. Sizes are pixels as [width, height]."""

    method: str  # given at the top of the file
    row: str  # "GTA5 to Cityscapes"
    reference: str  # where the figures are published
    data: str  # layout of the target's data set, see `layouts`
    network: str  # of the source model, and of a black box's student
    label_space: str
    input_size: tuple[int, int]  # what the network sees when it is measured
    evaluation_size: tuple[int, int]  # of the label maps, to which its logits are upsampled
    checkpoint: str | None = None  # file name of the source model, where it is published
    checkpoint_from: str  # where anyone gets it, or another
    published: Published


def read_recipe(file: Path) -> Recipe:
    """The row that a recipe file describes; its settings are left to `resolve_config`.

    Raises:
        ConfigError: not a recipe, or a key of its section is missing, unknown or out of range, or
            its method does not start from a source model.
        LabelSpaceError: there is no such label space.
    """
    values = read_toml(file)
    section, method = values.get("recipe"), values.get("method")
    if not isinstance(section, Mapping) or method is None:
        raise ConfigError(
            f"{file}: is no recipe, which names a method at its top and has a [recipe] section; "
            f"those that come with roadshift are {', '.join(recipe_names())}."
        )
    recipe = validate(Recipe, {"method": method, **section}, f"{file}, section recipe")
    adapting_method(recipe.method)
    layout(recipe.data)
    space = label_space(recipe.label_space)
    missing = set(label_space("synthia13").classes) - set(space.classes)
    if recipe.published.miou_13 is not None and missing:
        raise ConfigError(
            f"{file}: gives published.miou_13, and label space {space.name} lacks "
            f"{', '.join(sorted(missing))}; leave it out or choose synthia16."
        )
    for name in ("iou", "source_only_iou"):
        unknown = set(getattr(recipe.published, name)) - set(space.classes)
        if unknown:
            raise ConfigError(
                f"{file}: published.{name} names {', '.join(sorted(unknown))}, and label space "
                f"{space.name} has {', '.join(space.classes)}; give classes of it."
            )
    return recipe


def find_recipe(name_or_path: str | Path, folder: Path = FOLDER) -> Path:
    """The file of a recipe by the path of the file, or by the name of one that is built in.

    Args:
        folder: `FOLDER`, or `SOURCES` for those of source models.

    Raises:
        ConfigError: neither a file nor a name.
    """
    path, names = Path(name_or_path), recipe_names(folder)
    if path.is_file():
        return path
    if str(name_or_path) in names:
        return folder / f"{name_or_path}.toml"
    raise ConfigError(
        f"there is no recipe {shortened(str(name_or_path))!r}; give a file, or one of "
        f"{', '.join(names)}."
    )


def settings_file(given: Path | None, folder: Path = FOLDER) -> Path | None:
    """The file of settings that was asked for: a path as it is, a bare name as `find_recipe`.

    Raises:
        ConfigError: a bare name that is neither a file nor a recipe.
    """
    if given is None or given.suffix or given.parent != Path() or given.is_file():
        return given
    return find_recipe(given, folder)


def recipe_names(folder: Path = FOLDER) -> list[str]:
    """The recipes that come with roadshift."""
    return sorted(path.stem for path in folder.glob("*.toml") if path != ALL_ROWS)
