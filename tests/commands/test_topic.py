"""`--topic`: on every command that reads frames, and what it does there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from roadshift.adapt.workflows import asking
from roadshift.cli import app
from roadshift.commands.ask import ask
from roadshift.commands.report import report
from roadshift.commands.slot import commit
from roadshift.runtime import frames, signing, slots
from roadshift.runtime.reporting import pictures
from roadshift.runtime.slots import examination


class ReachedError(Exception):
    """Raised with the frames that a command hands on."""


def reached(*given: Any, **_: Any) -> None:
    raise ReachedError(*given)


def commands(group: typer.Typer) -> Iterator[Callable[..., Any]]:
    yield from (one.callback for one in group.registered_commands if one.callback is not None)
    for one in group.registered_groups:
        assert one.typer_instance is not None
        yield from commands(one.typer_instance)


def test_every_command_that_reads_frames_takes_a_topic() -> None:
    parameters = [inspect.signature(command).parameters for command in commands(app)]
    reading = [names for names in parameters if "frames" in names]
    assert len(reading) > 8
    assert all("topic" in names for names in reading)


def test_ask_reads_bags_at_the_topic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(asking, "ask_black_box", reached)
    with pytest.raises(ReachedError) as found:
        ask("box.onnx", ["a.mcap", "b.mcap"], tmp_path / "said", topic="/front")
    assert found.value.args[1] == ["a.mcap#/front", "b.mcap#/front"]


@pytest.mark.parametrize(("topic", "behind"), [(None, ""), ("/front", "#/front")])
def test_commit_and_report_read_several_sources_at_the_topic(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, topic: str | None, behind: str
) -> None:
    monkeypatch.setattr(frames, "open_frames", lambda sources, **_: reached(sources))
    for module, name in ((slots, "open_slots"), (signing, "open_trust")):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(examination, "examine", reached)
    monkeypatch.setattr(pictures, "picture_sections", reached)
    expected = [f"{name}{behind}" for name in ("a.mcap", "b.mcap")]
    with pytest.raises(ReachedError) as found:
        commit(tmp_path, tmp_path, ["a.mcap", "b.mcap"], topic=topic)
    assert found.value.args == (expected,)
    with pytest.raises(ReachedError) as found:
        report([], tmp_path / "page.html", ["a.mcap", "b.mcap"], topic=topic)
    assert found.value.args == (expected,)
