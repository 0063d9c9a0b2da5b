"""`--label-space` and `--label-map` of eval, compare, bench and export: labels of other classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from roadshift.runtime.engines import open_engine
from roadshift.runtime.frames.images import read_image
from roadshift.runtime.labels import label_space
from roadshift.runtime.labels.metrics import ConfusionMatrix

Command = Callable[..., Any]
CITYSCAPES, CAMVID = label_space("cityscapes19"), label_space("camvid11")


@pytest.fixture(scope="module")
def coarse(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dusk scenes' label maps, of Cityscapes' classes, as label maps of CamVid's."""
    folder = tmp_path_factory.mktemp("coarse")
    to_camvid = CITYSCAPES.map_to(CAMVID)
    for path in (world.dusk / "labels").iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        known = labels != 255
        labels[known] = to_camvid.apply(labels[known])
        assert cv2.imwrite(str(folder / path.name), labels)
    return folder


@pytest.fixture
def own_map(tmp_path: Path) -> Path:
    """The built-in map without the class that the model predicts most, and with no tree at all."""
    names = CITYSCAPES.map_to(CAMVID).to_dict() | {"vegetation": None, "terrain": None}
    path = tmp_path / "own.json"
    path.write_text(json.dumps({**names, "road": None}))
    return path


def counted(bundle: Path, images: Path, labels: Path, names: dict[str, str | None]) -> float:
    """mIoU by a table of names, of frames whose labels are CamVid's."""
    confusion = ConfusionMatrix(11, unmapped_index=200)
    table = np.full(19, 200, np.uint8)
    for index, name in enumerate(CITYSCAPES.classes):
        if names.get(name) is not None:
            table[index] = CAMVID.classes.index(names[name])
    with open_engine(bundle) as engine:
        for path in sorted(images.iterdir()):
            truth = cv2.imread(str(labels / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
            confusion.update(table[engine.segment(read_image(path))], truth)
    return confusion.miou()


def test_eval_finds_the_built_in_map_and_says_so(
    world: Any, command: Command, coarse: Path
) -> None:
    images = world.dusk / "images"
    arguments = ("eval", world.adapted, "--images", images, "--labels", coarse)
    done = command(*arguments, "--label-space", "camvid11", "--json")
    assert done.code == 0, done.err
    assert "measuring through the built-in label map cityscapes19-to-camvid11." in done.err
    assert list(done.json["iou"]) == list(CAMVID.classes)
    assert done.json["label_map"] == {
        "name": "cityscapes19-to-camvid11",
        "from": "cityscapes19",
        "to": "camvid11",
        "unmapped": [],
        "unreached": [],
    }
    names = CITYSCAPES.map_to(CAMVID).to_dict()
    assert done.json["miou"] == pytest.approx(counted(world.adapted, images, coarse, names))


def test_eval_takes_another_map_and_names_what_it_lacks(
    world: Any, command: Command, coarse: Path, own_map: Path
) -> None:
    images = world.dusk / "images"
    arguments = ("eval", world.adapted, "--images", images, "--labels", coarse)
    chosen = ("--label-space", "camvid11", "--label-map", own_map)
    done = command(*arguments, *chosen, "--json")
    assert done.json["label_map"]["unmapped"] == ["road", "vegetation", "terrain"]
    assert done.json["label_map"]["unreached"] == ["road", "tree"]
    names = json.loads(own_map.read_text())
    assert done.json["miou"] == pytest.approx(counted(world.adapted, images, coarse, names))
    assert done.json["iou"]["road"] == 0
    assert "No class of cityscapes19 is mapped to 'road', 'tree' of camvid11: IoU is 0" in done.err
    text = command(*arguments, *chosen)
    assert "unmapped classes, always wrong: road, vegetation, terrain." in text.out


def test_bench_measures_through_the_same_map(
    world: Any, command: Command, coarse: Path, own_map: Path
) -> None:
    images = world.dusk / "images"
    chosen = ("--labels", coarse, "--label-space", "camvid11", "--label-map", own_map)
    evaluated = command("eval", world.adapted, "--images", images, *chosen, "--json").json
    short = ("--queries", "2", "--warmup", "0", "--rounds", "1", "--backends", "onnxruntime")
    done = command("bench", world.adapted, "--frames", images, *chosen, *short, "--json")
    assert done.code == 0, done.err
    rows = [row for row in done.json if row["error"] is None]
    assert rows
    for row in rows:
        assert row["miou"] == pytest.approx(evaluated["miou"])
        assert row["label_map"] == evaluated["label_map"]
    assert "is a wrong answer" in done.err


def test_compare_measures_every_model_through_it_and_remembers_which(
    world: Any, command: Command, coarse: Path, own_map: Path, tmp_path: Path
) -> None:
    images = world.dusk / "images"
    arguments = ("compare", world.source, images, "--labels", coarse, "--label-space", "camvid11")
    method = ("--methods", "bn_stats", "--set", "statistics_share=0.5")
    rest = (*method, "--out", tmp_path / "out", "--json")
    built_in = command(*arguments, *rest)
    assert built_in.code == 0, built_in.err
    assert [list(row["iou"]) for row in built_in.json] == [list(CAMVID.classes)] * 2
    evaluated = ("eval", world.source, "--images", images, "--labels", coarse)
    first = command(*evaluated, "--label-space", "camvid11", "--backend", "torch", "--json").json
    assert built_in.json[0]["miou"] == pytest.approx(first["miou"])
    own = command(*arguments, "--label-map", own_map, *rest)
    assert "taken up from" in own.err
    assert [row["label_map"]["name"] for row in own.json] == [str(own_map)] * 2
    assert all(row["iou"]["road"] == 0 for row in own.json)
    page = (tmp_path / "out/compare.md").read_text()
    assert "cityscapes19 to camvid11; always wrong: road, vegetation, terrain; never" in page


def test_export_measures_miou_through_it(
    world: Any, small: Path, command: Command, coarse: Path
) -> None:
    images = world.dusk / "images"
    chosen = ("--labels", coarse, "--label-space", "camvid11", "--allow-network", "tiny_network")
    done = command("export", small, "--frames", images, *chosen, "--argmax", "graph", "--json")
    assert done.code == 0, done.err
    (row,) = done.json["artefacts"]
    assert row["label_map"]["name"] == "cityscapes19-to-camvid11"
    names = CITYSCAPES.map_to(CAMVID).to_dict()
    assert row["miou"] == pytest.approx(counted(small, images, coarse, names)) != 0


@pytest.mark.parametrize(
    ("chosen", "match"),
    [
        (("--label-map", "own.json"), "--label-map own.json: leads from the bundle's classes"),
        (("--label-space", "few.json"), "no built-in label map leads there: write one"),
        (("--label-space", "camvid11", "--label-map", "bad.json"), "bad.json: maps 'x', which is"),
        (("--label-space", "camvid11", "--label-map", "gone.json"), "gone.json: cannot read"),
    ],
)
@pytest.mark.parametrize("name", ["eval", "compare", "bench", "export"])
def test_a_map_that_does_not_fit_ends_in_one_sentence(
    world: Any,
    command: Command,
    coarse: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    chosen: tuple[str, ...],
    match: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text('{"x": "road"}')
    few = {"name": "few", "classes": ["a", "b"], "colours": [[0, 0, 1], [0, 0, 2]]}
    Path("few.json").write_text(json.dumps(few))
    images = world.dusk / "images"
    first = {
        "eval": ("eval", world.adapted, "--images", images),
        "compare": ("compare", world.adapted, images),
        "bench": ("bench", world.adapted, "--frames", images),
        "export": ("export", world.adapted, "--frames", images),
    }[name]
    done = command(*first, "--labels", coarse, *chosen)
    assert done.code == 1
    assert done.out == ""
    assert match in done.err
    assert len([line for line in done.err.splitlines() if line.startswith("error: ")]) == 1


@pytest.mark.parametrize("name", ["bench", "export"])
def test_a_label_space_without_labels_is_refused(world: Any, command: Command, name: str) -> None:
    done = command(name, world.adapted, "--label-space", "camvid11")
    assert done.code == 1
    assert "give --labels as well" in done.err
