"""Rows of the papers' main tables: the recipe that runs each, its needs, its published figure."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ...runtime.labels.layouts import layout
from ..run.config import Settings, read_toml, validate
from .recipes import ALL_ROWS, Recipe, find_recipe, read_recipe


class PublishedRow(Settings):
    """A row; figures in percent. One that a recipe runs has that recipe's figures."""

    paper: str
    row: str  # "GTA5 to Cityscapes"
    model: str  # "source only", "LD", "+ Teach"
    recipe: str | None = None
    measures: Literal["source_only", "adapted"] | None = None  # the recipe's figure that it is
    miou: float | None = Field(default=None, gt=0, le=100)
    miou_13: float | None = Field(default=None, gt=0, le=100)
    map_50: float | None = Field(default=None, gt=0, le=100)  # mAP at IoU 0.5, of detection
    note: str = ""  # why no recipe runs it

    @model_validator(mode="after")
    def _run_or_explained(self) -> PublishedRow:
        figures = (self.miou, self.miou_13, self.map_50)
        if self.recipe is not None:
            if self.measures is None or self.note or any(figures):
                raise ValueError("a row with a recipe has measures, and no figures of its own")
        elif self.measures is not None or not self.note or not any(figures):
            raise ValueError("a row without a recipe has a figure and a note, and no measures")
        return self


class _Table(Settings):
    """The content of the file."""

    rows: tuple[PublishedRow, ...]


def published_listing() -> list[dict[str, Any]]:
    """Every row with what it needs, as JSON values of equal keys, in the papers' order.

    Of each: "recipe" (None where none runs it, and "note" says why), "paper", "row", "model",
    "miou", "miou_13" (mIoU*), "map_50", "iou" by class as far as it is known, and, where a recipe
    runs it, "data" (the data set), "checkpoint" (where the source model comes from), "reference".

    Raises:
        ConfigError: the file, or a recipe that it names, is damaged.
    """
    table = validate(_Table, read_toml(ALL_ROWS), str(ALL_ROWS))
    return [_listed(row) for row in table.rows]


def _listed(row: PublishedRow) -> dict[str, Any]:
    kept = row.model_dump(include={"recipe", "paper", "row", "model", "map_50", "note"})
    if row.recipe is None:
        figures: dict[str, Any] = {"miou": row.miou, "miou_13": row.miou_13, "iou": {}}
        return {**kept, **figures, "data": None, "checkpoint": None, "reference": None}
    recipe = read_recipe(find_recipe(row.recipe))
    return {
        **kept,
        **_figures(recipe, row.measures == "source_only"),
        "data": layout(recipe.data).title,
        "checkpoint": recipe.checkpoint_from,
        "reference": recipe.reference,
    }


def _figures(recipe: Recipe, source_only: bool) -> dict[str, Any]:
    figures = recipe.published
    if source_only:
        return {
            "miou": figures.source_only,
            "miou_13": figures.source_only_13,
            "iou": figures.source_only_iou,
        }
    return {"miou": figures.miou, "miou_13": figures.miou_13, "iou": figures.iou}
