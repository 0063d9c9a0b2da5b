"""Streams that a shell closed, that are full, or whose reader went: results fail, notes do not."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from broken_streams import BROKEN
from roadshift.commands.options import Json
from roadshift.runtime.console import terminal
from roadshift.runtime.console.streams import guarded
from roadshift.runtime.errors import OutputError
from typer.testing import CliRunner

EACH = pytest.mark.parametrize("broken", BROKEN)


@pytest.fixture
def descriptor(broken: Callable[[], int]) -> Iterator[int]:
    opened = broken()
    yield opened
    os.close(opened)


@EACH
def test_a_result_that_cannot_be_written_is_an_error_once(descriptor: int) -> None:
    stream = guarded(descriptor, None, str, lossy=False)
    with pytest.raises(OutputError, match=r"^Standard output cannot be written \(.*\); .*\.$"):
        print("x" * 100_000, file=stream, flush=True)
    print("more", file=stream, flush=True)  # as the interpreter does when it ends
    stream.close()


@EACH
@pytest.mark.parametrize(
    "show",
    [
        lambda: terminal.print_json({"miou": 1.0}),
        lambda: terminal.say("Wrote it."),
        lambda: terminal.table("", ["a"], [[1.0]]),
    ],
)
def test_whatever_prints_a_result_raises_it(
    descriptor: int, show: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", guarded(descriptor, None, str, lossy=False))
    with pytest.raises(OutputError, match="Standard output cannot be written"):
        show()


@EACH
def test_nothing_that_writes_to_stderr_stops_work(
    descriptor: int, monkeypatch: pytest.MonkeyPatch, recwarn: object
) -> None:
    del recwarn  # warnings are shown in this test, and not collected
    monkeypatch.setattr(sys, "stderr", guarded(descriptor, None, str, lossy=True))
    monkeypatch.setattr(logging, "raiseExceptions", True)
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger("test_streams").addHandler(handler)
    for _ in range(3):
        terminal.note("a note")
        with terminal.progress("step", "steps") as update:
            update(1, 10, "loss")
        logging.getLogger("test_streams").warning("a warning")
        warnings.showwarning("w", UserWarning, "file", 1)
        print("anything", file=sys.stderr, flush=True)


@pytest.mark.parametrize("stream", ["closed", None])
def test_a_note_is_dropped_where_a_program_took_stderr_away(
    stream: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Outside the command, where nothing guards the streams."""
    file = (tmp_path / "log").open("w")
    file.close()
    monkeypatch.setattr(sys, "stderr", file if stream else None)
    terminal.note("a note")


def test_a_letter_that_the_terminal_lacks_is_escaped(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as file:
        stream = guarded(file.fileno(), file, str, lossy=False)
        stream.write("26 °C \udcff")
        stream.close()
    assert (tmp_path / "out").read_bytes() == rb"26 \xb0C \udcff"


def test_everything_goes_through_what_hides_secrets(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as file:
        stream = guarded(file.fileno(), file, lambda text: text.replace("pw", "***"), lossy=False)
        assert print("a pw", json.dumps(["pw"]), file=stream, flush=True) is None
        stream.close()
    assert (tmp_path / "out").read_text() == 'a *** ["***"]\n'


def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    stream = guarded(writing, None, str, lossy=False)
    sent, received = "x" * 300_000, bytearray()
    child = os.fork()
    if child == 0:  # reads slowly enough for the pipe to be full
        os.close(writing)
        while part := os.read(reading, 4096):
            received += part
        os._exit(0 if len(received) == len(sent) else 1)
    stream.write(sent)
    stream.close()
    os.close(writing)
    os.close(reading)
    assert os.waitpid(child, 0)[1] == 0


def test_what_a_users_code_prints_stays_out_of_the_one_document() -> None:
    app = typer.Typer()

    @app.command()
    def command(as_json: Json = False) -> None:
        print("building the network")
        terminal.print_json({"json": as_json})

    result = CliRunner().invoke(app, ["--json"])
    assert json.loads(result.stdout) == {"json": True}
    assert result.stderr == "building the network\n"
    result = CliRunner().invoke(app, [])  # standard output is everybody's again
    assert result.stdout.startswith("building the network\n")
