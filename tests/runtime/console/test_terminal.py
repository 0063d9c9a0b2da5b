"""Printing: tables say what they are given, JSON is JSON, notes stay off stdout."""

from __future__ import annotations

import json

import pytest
from roadshift.runtime.console.terminal import note, print_json, progress, table

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
