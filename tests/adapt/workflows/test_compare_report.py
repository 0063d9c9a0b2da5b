"""Reports of a comparison: rows against figures worked out by hand, page, chart, strips."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from roadshift.adapt.workflows.bar_chart import Bar, bar_chart
from roadshift.adapt.workflows.compare import Comparison, VariantRun
from roadshift.adapt.workflows.compare_report import write_report
from roadshift.adapt.workflows.compare_rows import classes_lost, comparison_rows
from roadshift.adapt.workflows.method_variants import MethodVariant
from roadshift.runtime.bundle import Bundle

ROW = ["method", "variant", "miou", "gain", "iou", "seconds", "steps_per_s", "peak_mib"]
ROW += ["collapsed", "classes_lost"]
BLUE, GREY, RED = (76, 114, 176), (160, 160, 160), (196, 78, 82)


def measured(road: float | None, sky: float | None, car: float | None = None) -> dict[str, Any]:
    """A record of the `eval` shape, with the class "building" nowhere."""
    iou = {"road": road, "building": None, "sky": sky, "car": car}
    return {"miou": statistics.fmean(v for v in iou.values() if v is not None), "iou": iou}


def run(
    seed: int, evaluation: dict[str, Any], bundle: Path = Path("nowhere"), **more: Any
) -> VariantRun:
    """A run that took 2 s, 4 steps a second and 100 MiB unless ``more`` says otherwise."""
    took = {"seconds": 2.0, "steps_per_s": 4.0, "peak_mib": 100.0, "frames": 6, "device": "CPU"}
    return VariantRun(seed, bundle, evaluation, **{**took, "versions": {"torch": "2.12"}, **more})


def failed(seed: int, error: str) -> VariantRun:
    return VariantRun(seed, Path("nowhere"), {}, error=error)


def comparison(
    results: Mapping[str, list[VariantRun]],
    before: dict[str, Any] | None = None,
    source: Any = None,
    pairs: Any = (),
) -> Comparison:
    variants = {
        MethodVariant(title.partition(":")[0], title.partition(":")[2] or "roadshift", ()): runs
        for title, runs in results.items()
    }
    frames = ("drive/images",)
    return Comparison(source, frames, pairs, before or measured(50.0, 30.0), variants)


# --- rows ----------------------------------------------------------------------------------------


def test_one_seed_gives_its_own_figures_over_source_only_first() -> None:
    runs = {"iapc:paper": [run(0, measured(80.0, 40.0))], "bn_stats": [run(0, measured(60, 30))]}
    source, iapc, bn_stats = comparison_rows(comparison(runs))
    assert [list(row) for row in (source, iapc, bn_stats)] == [ROW] * 3
    assert source == {
        "method": "source only",
        "variant": None,
        "miou": 40.0,
        "gain": 0.0,
        "iou": {"road": 50.0, "building": None, "sky": 30.0, "car": None},
        "seconds": 0.0,
        "steps_per_s": None,
        "peak_mib": None,
        "collapsed": False,
        "classes_lost": [],
    }
    assert (iapc["method"], iapc["variant"]) == ("iapc", "paper")
    assert (iapc["miou"], iapc["gain"]) == (60.0, 20.0)
    assert (iapc["seconds"], iapc["steps_per_s"], iapc["peak_mib"]) == (2.0, 4.0, 100.0)
    assert bn_stats["gain"] == 5.0


def test_several_seeds_give_means_and_sample_deviations() -> None:
    runs = [
        run(0, measured(80.0, 40.0), seconds=1.0, peak_mib=90.0),
        run(1, measured(70.0, 20.0, car=0.0), seconds=3.0, steps_per_s=2.0),
        run(2, measured(75.0, 33.0), seconds=2.0, steps_per_s=None),
    ]
    source, row = comparison_rows(comparison({"iapc": runs}))
    mious = [60.0, 30.0, 54.0]
    mean = sum(mious) / 3
    deviation = math.sqrt(sum((value - mean) ** 2 for value in mious) / 2)
    assert row["miou"] == pytest.approx(mean)
    assert row["gain"] == pytest.approx(mean - 40.0)
    assert row["miou_std"] == pytest.approx(deviation)
    assert row["gain_std"] == pytest.approx(deviation)
    assert row["iou"] == {"road": 75.0, "building": None, "sky": 31.0, "car": 0.0}
    assert (row["seconds"], row["steps_per_s"]) == (2.0, 3.0)
    assert row["peak_mib"] == pytest.approx(290 / 3)
    assert [seed["seed"] for seed in row["seeds"]] == [0, 1, 2]
    assert [seed["miou"] for seed in row["seeds"]] == mious
    assert [seed["gain"] for seed in row["seeds"]] == [20.0, -10.0, 14.0]
    assert list(row["seeds"][0]) == ["seed", *ROW[2:]]
    assert list(row) == [*ROW, "miou_std", "gain_std", "seeds"] == list(source)
    assert (source["miou_std"], source["seeds"]) == (None, [])


def test_a_class_is_lost_from_1_percent_to_below_it() -> None:
    before = {"a": 1.0, "b": 0.99, "c": 5.0, "d": None, "e": 30.0}
    after = {"a": 0.99, "b": 0.0, "c": 1.0, "d": None, "e": None}
    assert classes_lost(after, before) == ["a", "e"]
    assert classes_lost(before, before) == []


def test_classes_are_lost_against_bn_statistics_of_the_same_seed() -> None:
    poor = measured(50.0, 0.0)  # source only does not find the sky, BN statistics do with seed 0
    runs = {
        "iapc": [run(0, measured(60.0, 0.5)), run(1, measured(60.0, 0.5))],
        "bn_stats": [run(0, measured(60.0, 20.0)), run(1, measured(0.0, 0.5))],
    }
    source, iapc, bn_stats = comparison_rows(comparison(runs, before=poor))
    assert [seed["classes_lost"] for seed in iapc["seeds"]] == [["sky"], []]
    assert [seed["collapsed"] for seed in iapc["seeds"]] == [True, False]
    assert (iapc["classes_lost"], iapc["collapsed"]) == (["sky"], True)
    assert bn_stats["classes_lost"] == ["road"]  # against source only
    assert (source["classes_lost"], source["collapsed"]) == ([], False)


def test_without_bn_statistics_classes_are_lost_against_source_only() -> None:
    runs = {"iapc": [run(0, measured(60.0, 0.5))]}
    assert comparison_rows(comparison(runs))[1]["classes_lost"] == ["sky"]
    runs["bn_stats"] = [failed(0, "No batch norm.")]
    assert comparison_rows(comparison(runs))[1]["classes_lost"] == ["sky"]


def test_a_method_that_failed_with_some_seeds_says_which() -> None:
    runs = {
        "iapc": [run(0, measured(80.0, 40.0)), failed(1, "Not finite."), failed(2, "Not finite.")],
        "bn_stats": [failed(seed, "No batch norm.") for seed in range(3)],
    }
    _, iapc, bn_stats = comparison_rows(comparison(runs))
    assert iapc["error"] == "Seed 1, 2: Not finite."
    assert (iapc["miou"], iapc["miou_std"]) == (60.0, None)
    assert [seed["seed"] for seed in iapc["seeds"]] == [0]
    assert bn_stats["error"] == "No batch norm."
    assert (bn_stats["miou"], bn_stats["collapsed"], bn_stats["seeds"]) == (None, None, [])


def test_rows_are_json() -> None:
    runs = {"iapc": [run(0, measured(80.0, 40.0)), failed(1, "Not finite.")]}
    rows = comparison_rows(comparison(runs))
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


# --- the chart -----------------------------------------------------------------------------------


def spans(chart: NDArray[np.uint8], colour: tuple[int, int, int]) -> list[tuple[int, int]]:
    """First and last column of each bar of a colour, from the top."""
    found, last = [], -2
    for y in range(chart.shape[0]):
        (columns,) = np.nonzero((chart[y] == colour).all(axis=-1))
        if len(columns) > 20:  # not the rim of a letter
            if y > last + 1:
                found.append((int(columns[0]), int(columns[-1])))
            last = y
    return found


def test_bars_are_as_long_as_their_values_in_their_order() -> None:
    values = [20.0, 40.0, 10.0, 30.0]
    chart = bar_chart([Bar(f"m{i}", value) for i, value in enumerate(values)], "mIoU", 20.0)
    ((left, right),) = spans(chart, GREY)
    bars = [(left, right), *spans(chart, BLUE)]
    lengths = [right - left + 1 for left, right in bars]
    assert len(bars) == 4
    assert max(first for first, _ in bars) - left <= 1
    for length, value in zip(lengths, values, strict=True):
        assert length == pytest.approx(lengths[1] * value / 40.0, abs=3)


def test_an_error_bar_reaches_from_minus_to_plus_one_deviation() -> None:
    plain = bar_chart([Bar("a", 40.0), Bar("b", 20.0)], "", 0.0)
    spread = bar_chart([Bar("a", 40.0), Bar("b", 20.0, deviation=8.0)], "", 0.0)
    ((left, right),) = spans(plain, BLUE)
    unit = (right - left) / 20.0
    rows = slice(*np.nonzero((plain == BLUE).all(axis=-1).any(axis=1))[0][[0, -1]])
    dark = (spread[rows] < 90).all(axis=-1) & (plain[rows] > 90).any(axis=-1)
    assert dark[:, round(left + 14 * unit)].any()
    assert dark[:, round(left + 26 * unit)].any()
    assert not dark[:, : round(left + 11 * unit)].any()


def test_a_method_without_a_value_has_its_note_and_no_bar() -> None:
    chart = bar_chart([Bar("source only", 5.0), Bar("tent", None, note="failed")], "", 5.0)
    assert spans(chart, BLUE) == []
    assert ((chart.astype(int) - RED).__abs__().sum(axis=-1) < 30).sum() > 20


def test_a_dashed_line_stands_at_the_reference() -> None:
    bars = [Bar("a", 40.0), Bar("b", 20.0)]
    differ = (bar_chart(bars, "", 10.0) != bar_chart(bars, "", 30.0)).any(axis=-1)
    ((left, right),) = spans(bar_chart(bars, "", 0.0), GREY)
    unit = (right - left + 1) / 40.0
    (columns,) = np.nonzero(differ.any(axis=0))
    lines = {round((column - left) / unit, 1) for column in columns}
    assert min(lines) == pytest.approx(10.0, abs=0.2)
    assert max(lines) == pytest.approx(30.0, abs=0.2)
    assert 0.3 < differ[:, columns[0] : columns[0] + 3].any(axis=1).mean() < 0.8  # dashes


def test_a_chart_of_nothing_but_zeros_has_an_axis() -> None:
    assert bar_chart([Bar("source only", 0.0)], "mIoU", 0.0).dtype == np.uint8


# --- the page ------------------------------------------------------------------------------------


@pytest.fixture
def labelled(frames_dir: Path, tmp_path: Path) -> list[tuple[Path, Path]]:
    """The six frames, each with a label map of one class, the frame's number modulo 4."""
    pairs = []
    for i, path in enumerate(sorted(frames_dir.iterdir())):
        labels = tmp_path / f"labels_{path.name}"
        assert cv2.imwrite(str(labels), np.full((32, 48), i % 4, np.uint8))
        pairs.append((path, labels))
    return pairs


def test_the_page_holds_what_was_compared_and_every_figure(
    source: Bundle, labelled: list[tuple[Path, Path]], tmp_path: Path
) -> None:
    runs = {
        "iapc": [
            run(0, measured(80.0, 40.0), bundle=source.path),
            run(1, measured(70.0, 30.0), bundle=source.path),
        ],
        "tent": [failed(0, "No batch norm | none."), failed(1, "No batch norm | none.")],
        "bn_stats": [
            run(0, measured(60.0, 0.5), bundle=source.path, device="GPU"),
            run(1, measured(60.0, 0.5), bundle=source.path),
        ],
    }
    made = comparison(runs, source=source, pairs=labelled)
    rows = comparison_rows(made)
    seen = {"iapc": "explained/iapc-roadshift-seed0/index.html"}
    typed = "roadshift compare source drive/images --seeds 2"
    write_report(made, rows, tmp_path, typed, explained=seen)
    assert json.loads((tmp_path / "compare.json").read_text()) == rows
    page = (tmp_path / "compare.md").read_text()
    for line in (
        "    roadshift compare source drive/images --seeds 2",
        f"| source model | `{source.path}`, tiny_network:build, `{source.hash}` |",
        "| target frames | 6 of `drive/images` |",
        "## Explained",
        "- [iapc, beside the source model](explained/iapc-roadshift-seed0/index.html)",
        f"| measured on | 6 labelled images, `{labelled[0][0].parent}` |",
        "| resolution | predicted at 48x32, measured at 48x32 |",
        "| seeds | 0, 1 |",
        "| device | CPU; GPU |",
        "| versions | torch 2.12 |",
        "| source only | 40.00 | 0.00 | 0.00 | - | - | none |",
        "| iapc | 55.00 ± 7.07 | 15.00 ± 7.07 | 2.00 | 4.00 | 100.00 | none |",
        "| tent | - | - | - | - | - | failed |",
        "| bn_stats | 30.25 ± 0.00 | -9.75 ± 0.00 | 2.00 | 4.00 | 100.00 | sky |",
        "- tent: No batch norm | none.",
        "| class | source only | iapc | tent | bn_stats |",
        "| road | 50.00 | 75.00 | - | 60.00 |",
        "| building | - | - | - | - |",
        "![mIoU of each method](compare.png)",
        "![frames, ground truth, source only and each method](strips.png)",
    ):
        assert line in page.splitlines()
    chart = cv2.imread(str(tmp_path / "compare.png"))[..., ::-1]
    assert len(spans(chart, BLUE)) == 2
    assert len(spans(chart, GREY)) == 1


def test_the_strips_show_frames_truths_and_the_source_model_of_three_spaced_frames(
    source: Bundle, labelled: list[tuple[Path, Path]], tmp_path: Path
) -> None:
    runs = {"iapc": [run(0, measured(80.0, 40.0), bundle=source.path)], "tent": [failed(0, "No.")]}
    made = comparison(runs, source=source, pairs=labelled)
    write_report(made, comparison_rows(made), tmp_path, "")
    strips = cv2.imread(str(tmp_path / "strips.png"))[..., ::-1].astype(int)
    height, width = 200, 300
    caption = 20
    assert strips.shape[:2] == (3 * (height + caption) + 2 * 4, 4 * width + 3 * 4)
    for row, number in enumerate((0, 2, 5)):
        top = row * (height + caption + 4) + caption
        panels = [
            strips[top : top + height, i * (width + 4) : i * (width + 4) + width] for i in range(4)
        ]
        frame = cv2.imread(str(labelled[number][0]))[..., ::-1].astype(int)
        shown = cv2.resize(panels[0].astype(np.uint8), (48, 32), interpolation=cv2.INTER_AREA)
        assert np.abs(shown - frame).mean() < 12
        tint = np.asarray(source.label_space.colours[number % 4])
        np.testing.assert_allclose(panels[1], 0.25 * panels[0] + 0.75 * tint, atol=3)
        np.testing.assert_array_equal(panels[2], panels[3])  # the same bundle
