"""What commands print: tables say what they are given, JSON is JSON, notes stay off stdout."""

from __future__ import annotations

import json

import pytest
from roadshift.runtime.terminal import (
    comparison_table,
    evaluation_table,
    note,
    print_json,
    progress,
    run_line,
    table,
)

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    "text",
    ["pip install 'roadshift[cuda]'", "[bold]not bold[/bold]", "[/]", "a [red]", "models[v2]/x"],
)
def test_text_in_brackets_is_printed_as_it_is(capsys: Capture, text: str) -> None:
    table(text, ["advice " + text], [[text]])
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert printed == [text, "advice " + text, text]


def test_numbers_stand_right_and_texts_left(capsys: Capture) -> None:
    table("", ["name", "value"], [["a", 1.0], ["long name", 12345.678], ["b", None]])
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert lines == ["name       value", "a           1.00", "long name  12346", "b              -"]


def test_a_list_is_joined_and_a_column_of_mixed_values_is_text(capsys: Capture) -> None:
    table("", ["x"], [[["a", "b"]], [1], [True]])
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()[-3:]] == [
        "a, b",
        "1",
        "True",
    ]


def test_a_table_without_rows_still_has_its_head(capsys: Capture) -> None:
    table("nothing", ["one", "two"], [])
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "nothing",
        "one  two",
    ]


def test_json_is_one_document_on_stdout(capsys: Capture) -> None:
    document = [{"miou": 1.5, "iou": {"road": None}}, "ü"]
    print_json(document)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == document
    assert captured.err == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_that_other_programs_could_not_read_is_never_printed(
    capsys: Capture, value: float
) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"miou": value})
    assert capsys.readouterr().out == ""


def test_a_note_is_one_line_on_stderr_however_long(capsys: Capture) -> None:
    text = "[red] " + "word " * 100 + "end"
    note(text)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", text + "\n")


def test_progress_into_a_file_is_a_line_a_tenth(capsys: Capture) -> None:
    with progress("step", "steps") as update:
        for done in range(1, 51):
            update(done, 50, f"loss {done}")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines == [
        f"step: {n}/50 steps loss {n}" for n in (1, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50)
    ]


def test_progress_without_a_total_is_a_line_a_hundred(capsys: Capture) -> None:
    with progress("run", "frames") as update:
        for done in range(1, 251):
            update(done, None, "")
    assert capsys.readouterr().err == "run: 1 frame\nrun: 100 frames\nrun: 200 frames\n"


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
    row = {"method": method, "variant": variant, "miou": 41.0, "gain": 27.4, "iou": {}}
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
