"""Errors that name arguments: in Python by their names, on the command line by their flags."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import typer
from roadshift.cli import app
from roadshift.cli_flags import flag_of
from roadshift.runtime.errors import ConfigError, RoadshiftError, arg

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


@pytest.mark.parametrize(
    ("mention", "flag"),
    [
        (arg("max_frames"), "--max-frames"),
        (arg("time_budget_s"), "--time-budget"),
        (arg("formats", ("onnx", "tensorrt")), "--to onnx,tensorrt"),
        (arg("device", "cuda"), "--device cuda"),
        (arg("overwrite", True), "--overwrite"),
        (arg("arguments"), "--argument"),
    ],
)
def test_flags_of_arguments(mention: str, flag: str) -> None:
    assert ConfigError(mention).told(flag_of) == flag


def test_every_argument_that_a_message_names_has_a_flag() -> None:
    flags = {
        name
        for command in typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
        for parameter in command.params
        for name in parameter.opts
    }
    python_alone = {"--config", "--frames", "--checkpoint-every-s"}
    named = set()
    for room in ("adapt", "export", "runtime"):
        for path in (ROOT / room).rglob("*.py"):
            for found in re.finditer(r"""\barg\(\s*['"](\w+)['"]""", path.read_text("utf-8")):
                named.add(flag_of(found[1]))
    assert len(named) > 20
    assert named - python_alone <= flags
