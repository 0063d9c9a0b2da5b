"""Errors that name arguments: in Python by their names, on the command line by their flags."""

from __future__ import annotations

import ast
import logging
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from roadshift.cli import app
from roadshift.cli_process import _Notes
from roadshift.runtime.console.flags import flag_of, with_flags
from roadshift.runtime.console.terminal import note
from roadshift.runtime.errors import ConfigError, RoadshiftError, Sentence, arg, marked
from roadshift.runtime.notes import log_note

ROOT = Path(__file__).parents[2]


def test_an_argument_reads_as_python_and_as_a_flag() -> None:
    error = ConfigError(
        f"{arg('older')}: nothing is judged with {arg('gate', False)}; try {arg('resume', True)}."
    )
    assert str(error) == "older: nothing is judged with gate=False; try resume=True."
    assert error.told(flag_of) == "--older: nothing is judged with --gate off; try --resume."
    assert error.argument == "older"


def test_a_message_without_arguments_stays_as_it_is() -> None:
    error = RoadshiftError("scene=1 {x} --flag: a file's own words")
    assert (str(error), error.told(flag_of), error.argument) == (str(error), str(error), None)
    assert str(RoadshiftError()) == ""


def test_a_message_within_another_keeps_its_arguments() -> None:
    inner = ConfigError(f"set {arg('min_agreement')}")
    outer = ConfigError(f"wrote nothing ({inner.marked}).")
    assert str(outer) == "wrote nothing (set min_agreement)."
    assert outer.told(flag_of) == "wrote nothing (set --min-agreement)."


def test_an_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(ConfigError(f"{arg('seed')}: is odd.")))
    assert (str(error), error.told(flag_of)) == ("seed: is odd.", "--seed: is odd.")


def test_a_note_reads_as_python_and_as_a_flag_also_within_another() -> None:
    used = Sentence(f"using 3 of 7 frames ({arg('max_frames')})")
    assert used == "using 3 of 7 frames (max_frames)"
    assert with_flags(used) == "using 3 of 7 frames (--max-frames)"
    assert with_flags(pickle.loads(pickle.dumps(used))) == with_flags(used)
    longer = Sentence(f"so {marked(used)}, {marked('as said')}")
    assert (longer, with_flags(longer)) == (
        "so using 3 of 7 frames (max_frames), as said",
        "so using 3 of 7 frames (--max-frames), as said",
    )
    assert with_flags("max_frames") == "max_frames"


def test_a_note_is_told_with_flags_whichever_way_it_comes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sentence = Sentence(f"more {arg('max_frames')} is better")
    handler = _Notes()
    logging.getLogger("roadshift").addHandler(handler)
    try:
        log_note(sentence)
    finally:
        logging.getLogger("roadshift").removeHandler(handler)
    note(sentence)
    assert capsys.readouterr().err.count("more --max-frames is better") == 2


@pytest.mark.parametrize(
    ("mention", "flag"),
    [
        (arg("max_frames"), "--max-frames"),
        (arg("time_budget_s"), "--time-budget"),
        (arg("formats", ("onnx", "tensorrt")), "--to onnx,tensorrt"),
        (arg("device", "cuda"), "--device cuda"),
        (arg("overwrite", True), "--overwrite"),
        (arg("arguments"), "--argument"),
        (arg("camera_fps"), "--camera"),
        (arg("duration_s"), "--duration"),
    ],
)
def test_flags_of_arguments(mention: str, flag: str) -> None:
    assert ConfigError(mention).told(flag_of) == flag


# Texts with two hyphens that are no flags of ours, or are there to be looked up.
FLAGS_OF_OTHERS = {
    "runtime/reporting/charts.py",  # colours that a style sheet gives names to
    "runtime/reporting/html.py",  # likewise
    "adapt/models/hub_folder.py",  # an option of the hub's own program
    "runtime/console/flags.py",  # the flags of arguments that are other words
    "runtime/engines/doctor.py",  # an option of Python's venv
    "runtime/engines/upsample_cuda.py",  # an option of NVIDIA's compiler
    "runtime/probes/car_computer.py",  # an option of pip
    "runtime/probes/tegrastats.py",  # an option of that program
}
COMMAND = re.compile(r"`roadshift [^`]*`")  # a whole command, to be typed


def texts(source: str) -> Iterator[str]:
    """Every text in a module but its docstrings, with {} for what a formatted one puts in."""
    tree = ast.parse(source)
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            skipped.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and id(node) not in skipped:
            yield str(node.value)


def with_a_flag(source: str) -> list[str]:
    return [
        text for text in texts(source) if re.search(r"(?<![\w-])--[a-z]", COMMAND.sub("", text))
    ]


@pytest.mark.parametrize("room", ["adapt", "export", "runtime", "scenes"])
def test_no_text_below_the_commands_holds_a_flag(room: str) -> None:
    """A program has arguments: a text names one with `arg`, and the command line tells its flag."""
    found = {
        path.relative_to(ROOT).as_posix(): flags
        for path in (ROOT / room).rglob("*.py")
        if (flags := with_a_flag(path.read_text("utf-8")))
    }
    ours = {path for path in FLAGS_OF_OTHERS if path.startswith(room)}
    assert {path: flags for path, flags in found.items() if path not in ours} == {}
    assert set(found) >= ours  # an exception that is needed no more is taken out


def test_a_flag_would_be_found() -> None:
    assert with_a_flag("raise E(f'give {x} with '\n f'--set {y}')") == ["give {} with --set {}"]
    assert with_a_flag("note('more: --warmup' if slow else 'less')") == ["more: --warmup"]
    assert (
        with_a_flag("def f():\n    'Doc of --set.'\n    return f'`roadshift x {y} --to z`'") == []
    )


def test_every_argument_that_a_message_names_has_a_flag() -> None:
    every = list(typer.main.get_command(app).commands.values())  # type: ignore[attr-defined]
    for command in every:  # those of a group come after
        every += getattr(command, "commands", {}).values()
    flags = {name for command in every for parameter in command.params for name in parameter.opts}
    python_alone = {"--config", "--frames", "--checkpoint-every-s", "--bundles"}
    named = set()
    for room in ("adapt", "export", "runtime"):
        for path in (ROOT / room).rglob("*.py"):
            for found in re.finditer(r"""\barg\(\s*['"](\w+)['"]""", path.read_text("utf-8")):
                named.add(flag_of(found[1]))
    assert len(named) > 20
    assert named - python_alone <= flags
