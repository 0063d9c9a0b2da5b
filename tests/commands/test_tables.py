"""Tables that commands print of evaluations, comparisons and runs say what they are given."""

from __future__ import annotations

import pytest
from roadshift.commands.tables import collected_line, comparison_table, evaluation_table, run_line
from roadshift.runtime.collecting.collector import REASONS

Capture = pytest.CaptureFixture[str]


def record(**changes: object) -> dict[str, object]:
    iou = {"road": 97.126, "train": None}
    base = {"iou": iou, "miou": 97.126, "pixel_accuracy": 99.0, "ci95": [90.0, 98.5], "frames": 12}
    return {**base, "engine": "torch", **changes}


def test_an_evaluation_has_a_row_a_class_and_a_column_a_record(capsys: Capture) -> None:
    evaluation_table({"before": record(), "after": record(miou=98.0, frames=13)})
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    cells = {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}
    assert cells["class"] == ["before", "after"]
    assert cells["road"] == ["97.13", "97.13"]
    assert cells["train"] == ["-", "-"]
    assert cells["mIoU"] == ["97.13", "98.00"]
    assert cells["95 % interval, low"] == ["90.00", "90.00"]
    assert cells["95 % interval, high"] == ["98.50", "98.50"]
    assert cells["frames"] == ["12", "13"]


def compared(
    method: str, variant: str | None = "roadshift", **changes: object
) -> dict[str, object]:
    row: dict[str, object] = {
        "method": method,
        "variant": variant,
        "miou": 41.0,
        "gain": 27.4,
        "iou": {},
    }
    took = {"seconds": 61.5, "steps_per_s": None, "peak_mib": 900.0}
    return {**row, **took, "collapsed": False, "classes_lost": [], **changes}


def test_a_comparison_has_a_row_a_method_with_deviations_where_there_are_seeds(
    capsys: Capture,
) -> None:
    spread = {"miou_std": 0.304, "gain_std": 0.3, "seeds": []}
    lost = {"collapsed": True, "classes_lost": ["train", "sky"]}
    rows = [
        compared("source only", None, miou_std=None, gain_std=None),
        compared("iapc", "paper", **spread, **lost),
    ]
    comparison_table(rows)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "Methods, side by side",
        "method       mIoU %        gain          seconds  steps/s  peak MiB  classes lost",
        "source only  41.00         27.40           61.50        -    900.00  none",
        "iapc:paper   41.00 ± 0.30  27.40 ± 0.30    61.50        -    900.00  train, sky",
    ]


def test_a_method_that_failed_has_its_sentence_below_the_table(capsys: Capture) -> None:
    sentence = "The network keeps no [batch norm]: " + "choose another method. " * 8
    nothing = dict.fromkeys(("miou", "gain", "seconds", "steps_per_s", "peak_mib", "collapsed"))
    comparison_table([compared("source only", None), compared("tent", **nothing, error=sentence)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].rstrip() == f"tent: {sentence}".rstrip()
    assert lines[-2].split() == ["tent", "-", "-", "-", "-", "-", "failed"]


@pytest.mark.parametrize(("frames", "told"), [(1, "1 frame in 2.0 s"), (2, "2 frames in 2.0 s")])
def test_one_frame_is_not_said_to_be_several(frames: int, told: str) -> None:
    summary = {
        "ended_by": "end",
        "reconnects": 0,
        "latency_ms": {"p50": 1.0, "p99": 2.0},
        "frames": frames,
        "seconds": 2.0,
        "fps": 0.5,
        "frames_read": frames,
        "dropped": 0,
        "frames_skipped": 0,
        "out": None,
    }
    assert run_line(summary).startswith(told)


def test_a_budget_is_said_as_it_was_given() -> None:
    counts = dict.fromkeys(REASONS, 0)
    summary = {"frames": 1, "seconds": 1.0, "kept": 1, "pipeline": None, "out": "d", **counts}
    said = collected_line({**summary, "frames_kept": 1, "bytes": 360_000, "budget": 1_500_000})
    assert said[1] == "d holds 1 frame in 0.36 MB of 1.5 MB."
