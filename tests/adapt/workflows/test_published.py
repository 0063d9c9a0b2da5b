"""The table of published rows: each known figure once, each row run by a recipe or explained."""

from __future__ import annotations

from typing import Any

import pytest
from roadshift.adapt.run.config import read_toml, validate
from roadshift.adapt.workflows.published import PublishedRow, published_listing
from roadshift.adapt.workflows.recipes import ALL_ROWS, find_recipe, read_recipe, recipe_names
from roadshift.runtime.errors import ConfigError

# What the papers and their repositories print, percent: mIoU, mIoU* and mAP.
KNOWN: dict[tuple[str, str, str], tuple[float | None, float | None, float | None]] = {
    ("IAPC", "GTA5 to Cityscapes", "source only"): (36.6, None, None),
    ("IAPC", "GTA5 to Cityscapes", "IAPC"): (49.4, None, None),
    ("IAPC", "SYNTHIA to Cityscapes", "source only"): (35.2, 40.5, None),
    ("IAPC", "SYNTHIA to Cityscapes", "IAPC"): (45.3, 52.7, None),
    ("IAPC", "Cityscapes to Foggy Cityscapes, detection", "source only"): (None, None, 26.3),
    ("IAPC", "Cityscapes to Foggy Cityscapes, detection", "IAPC"): (None, None, 37.6),
    ("LD", "GTA5 to Cityscapes", "source only"): (35.7, None, None),
    ("LD", "GTA5 to Cityscapes", "LD"): (45.5, None, None),
    ("LD", "GTA5 to Cityscapes", "LDBE"): (49.2, None, None),
    ("LD", "SYNTHIA to Cityscapes", "source only"): (32.5, 37.6, None),
    ("LD", "SYNTHIA to Cityscapes", "LD"): (42.6, 50.1, None),
    ("LD", "SYNTHIA to Cityscapes", "LDBE"): (43.5, 51.1, None),
    ("ATP", "GTA5 to Cityscapes", "ATP"): (52.6, None, None),
    ("ATP", "GTA5 to Cityscapes, VGG-16", "ATP"): (39.8, None, None),
    ("ATP", "SYNTHIA to Cityscapes", "ATP"): (49.0, 57.9, None),
    ("ATP", "Cityscapes to Rome", "ATP"): (55.9, None, None),
    ("ATP", "Cityscapes to Rio", "ATP"): (57.8, None, None),
    ("ATP", "Cityscapes to Tokyo", "ATP"): (50.5, None, None),
    ("ATP", "Cityscapes to Taipei", "ATP"): (51.1, None, None),
    ("ATP", "GTA5 to Cityscapes, black box", "distilled"): (38.6, None, None),
    ("ATP", "GTA5 to Cityscapes, black box", "+ Teach"): (40.4, None, None),
    ("ATP", "GTA5 to Cityscapes, black box", "+ Propagate"): (44.4, None, None),
    ("ATP", "GTA5 to Cityscapes, black box", "+ noise"): (45.3, None, None),
    ("ATP", "GTA5 to Cityscapes, DAFormer", "Align"): (54.0, None, None),
    ("ATP", "GTA5 to Cityscapes, DAFormer", "+ Teach"): (62.4, None, None),
    ("ATP", "GTA5 to Cityscapes, DAFormer", "+ Propagate"): (64.0, None, None),
    ("ATP", "SYNTHIA to Cityscapes, DAFormer", "Align"): (56.5, None, None),
    ("ATP", "SYNTHIA to Cityscapes, DAFormer", "+ Teach"): (64.9, None, None),
    ("ATP", "SYNTHIA to Cityscapes, DAFormer", "+ Propagate"): (66.6, None, None),
    ("ATP", "Cityscapes to ACDC night, DAFormer", "Align"): (28.4, None, None),
    ("ATP", "Cityscapes to ACDC night, DAFormer", "+ Teach"): (34.4, None, None),
    ("ATP", "Cityscapes to ACDC night, DAFormer", "+ Propagate"): (35.8, None, None),
    ("ATP", "Cityscapes to ACDC fog, DAFormer", "Align"): (60.9, None, None),
    ("ATP", "Cityscapes to ACDC fog, DAFormer", "+ Teach"): (70.1, None, None),
    ("ATP", "Cityscapes to ACDC fog, DAFormer", "+ Propagate"): (72.1, None, None),
    ("ATP", "Cityscapes to ACDC rain, DAFormer", "Align"): (53.0, None, None),
    ("ATP", "Cityscapes to ACDC rain, DAFormer", "+ Teach"): (60.9, None, None),
    ("ATP", "Cityscapes to ACDC rain, DAFormer", "+ Propagate"): (63.0, None, None),
    ("ATP", "Cityscapes to ACDC snow, DAFormer", "Align"): (54.6, None, None),
    ("ATP", "Cityscapes to ACDC snow, DAFormer", "+ Teach"): (62.3, None, None),
    ("ATP", "Cityscapes to ACDC snow, DAFormer", "+ Propagate"): (62.6, None, None),
    ("DAS3", "GTA5 to Cityscapes", "DAS3"): (50.7, None, None),
    ("DAS3", "GTA5 to Cityscapes", "DAS3 with Aug"): (51.1, None, None),
    ("DAS3", "SYNTHIA to Cityscapes, 13 classes", "DAS3"): (52.1, None, None),
}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return published_listing()


def test_every_known_figure_is_there_once(rows: list[dict[str, Any]]) -> None:
    found = [
        (
            (row["paper"], row["row"], row["model"]),
            (row["miou"], row["miou_13"], row["map_50"]),
        )
        for row in rows
    ]
    assert dict(found) == KNOWN
    assert len(found) == len(KNOWN)


def test_every_recipe_runs_a_row_and_tells_what_it_needs(rows: list[dict[str, Any]]) -> None:
    assert {row["recipe"] for row in rows} - {None} == set(recipe_names())
    for row in rows:
        if row["recipe"] is None:
            assert row["note"]
            assert (row["data"], row["checkpoint"]) == (None, None)
        else:
            recipe = read_recipe(find_recipe(row["recipe"]))
            assert row["checkpoint"] == recipe.checkpoint_from
            assert row["data"] in ("Cityscapes", "NTHU Cross-City")
            assert recipe.row.startswith(row["row"].partition(",")[0])
            assert row["iou"] == {}  # none is known here


def test_a_source_model_whose_figure_is_known_has_its_row(rows: list[dict[str, Any]]) -> None:
    sources = {(row["miou"], row["miou_13"]) for row in rows if row["model"] == "source only"}
    for name in recipe_names():
        figures = read_recipe(find_recipe(name)).published
        if figures.source_only is not None:
            assert (figures.source_only, figures.source_only_13) in sources


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"recipe": "gta5-cityscapes-ld"}, "has measures, and no figures"),
        (
            {"recipe": "gta5-cityscapes-ld", "measures": "adapted", "miou": 45.5},
            "no figures of its own",
        ),
        ({"miou": 45.5}, "has a figure and a note"),
        ({"note": "why"}, "has a figure and a note"),
        ({"note": "why", "miou": 45.5, "measures": "adapted"}, "no measures"),
    ],
)
def test_a_row_has_a_recipe_or_figures_and_a_reason(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        validate(PublishedRow, {"paper": "LD", "row": "A to B", "model": "LD", **values}, "here")


def test_the_table_is_no_recipe() -> None:
    assert "published" not in recipe_names()
    with pytest.raises(ConfigError, match="there is no recipe 'published'"):
        find_recipe("published")
    assert "rows" in read_toml(ALL_ROWS)
