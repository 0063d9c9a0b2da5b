"""Wrong arguments of the promised functions: an error that names the one, before any work."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roadshift
from roadshift import ConfigError, EngineError, FrameError
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.given import above_zero, whole_of

MakeBundle = Callable[..., Bundle]
NO_PATHS = [None, 3, b"x", [], {}, "a\0b"]


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A folder of one picture."""
    import cv2

    (tmp_path / "frames").mkdir()
    assert cv2.imwrite(str(tmp_path / "frames" / "0.png"), np.zeros((16, 32, 3), np.uint8))
    return tmp_path / "frames"


@pytest.mark.parametrize("value", NO_PATHS)
@pytest.mark.parametrize(
    ("name", "argument", "others"),
    [
        ("open_bundle", "path", {}),
        ("open_engine", "bundle", {}),
        ("open_trust", "folder", {}),
        ("open_slots", "path", {}),
        ("create_slots", "path", {}),
        ("create_trust", "folder", {"makers": {}}),
        ("generate_key", "path", {}),
        ("load_private_key", "path", {}),
        ("sign_bundle", "bundle", {"key": None}),
        ("verify_bundle", "bundle", {"trust": None}),
        ("evaluate", "bundle", {"images": "i", "labels": "l"}),
        ("evaluate", "images", {"bundle": "b", "labels": "l"}),
        ("evaluate", "labels", {"bundle": "b", "images": "i"}),
        ("evaluate", "label_space", {"bundle": "b", "images": "i", "labels": "l"}),
        ("write_report", "path", {"results": {"eval": {}}}),
    ],
)
def test_what_is_no_path_is_refused_by_its_name(
    name: str, argument: str, others: dict[str, Any], value: Any
) -> None:
    if argument == "label_space" and value is None:
        return  # the model's own
    with pytest.raises(ConfigError, match="is no path") as caught:
        getattr(roadshift, name)(**{argument: value}, **others)
    assert caught.value.argument == argument


def test_what_is_not_there_is_an_error_of_its_argument(
    make_bundle: MakeBundle, frames: Path, tmp_path: Path
) -> None:
    there, nowhere = make_bundle(), tmp_path / "nowhere"
    calls: dict[str, Callable[[], Any]] = {
        "bundle": lambda: roadshift.open_engine(nowhere),
        "bundles": lambda: roadshift.write_report(tmp_path / "a.html", [there, nowhere]),
        "out": lambda: roadshift.collect_frames(
            roadshift.open_frames(frames), nowhere / "out", budget=10_000_000
        ),
        "path": lambda: roadshift.write_report(nowhere / "a.html", [there]),
    }
    for argument, call in calls.items():
        with pytest.raises(roadshift.RoadshiftError) as caught:
            call()
        assert caught.value.argument == argument


def test_a_bundle_is_verified_or_not(make_bundle: MakeBundle) -> None:
    with pytest.raises(ConfigError, match="'no' is neither True nor False") as caught:
        roadshift.open_bundle(make_bundle().path, verify="no")  # type: ignore[arg-type]
    assert caught.value.argument == "verify"


@pytest.mark.parametrize("value", [None, 3, [None], ["a\0b"]])
def test_sources_of_frames_are_paths(value: Any) -> None:
    with pytest.raises(ConfigError, match="is no path") as caught:
        roadshift.open_frames(value)
    assert caught.value.argument == "source"


def test_the_empty_name_is_not_the_current_folder(
    frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(frames)
    with pytest.raises(FrameError, match="a variable that is not set"):
        roadshift.open_frames("")
    assert sum(1 for _ in roadshift.open_frames(".")) == 1


@pytest.mark.parametrize("argument", ["frames", "out", "duration_s", "max_frames", "budget"])
@pytest.mark.parametrize("value", [-1, 0, "x", []])
def test_collecting_refuses_what_it_cannot_do(
    argument: str, value: Any, frames: Path, tmp_path: Path
) -> None:
    if argument == "out" and value == "x":
        return
    given: dict[str, Any] = {"out": tmp_path / "out", "budget": 10_000_000}
    given |= {"frames": roadshift.open_frames(frames)} | {argument: value}
    if argument == "frames":
        given["frames"] = str(frames)
    with pytest.raises(ConfigError) as caught:
        roadshift.collect_frames(**given)
    assert caught.value.argument == argument
    assert not (tmp_path / "out").exists()


def test_a_path_is_no_substitute_for_what_is_made_of_it(
    make_bundle: MakeBundle, frames: Path, tmp_path: Path
) -> None:
    bundle = make_bundle()
    engine = roadshift.open_engine(bundle)
    found = roadshift.open_frames(frames)
    calls: dict[str, Callable[[], Any]] = {
        "key": lambda: roadshift.sign_bundle(bundle, "maker.key"),  # type: ignore[arg-type]
        "trust": lambda: roadshift.verify_bundle(bundle, "keys"),  # type: ignore[arg-type]
        "makers": lambda: roadshift.create_trust(tmp_path / "keys", {"a": "a.pub"}),  # type: ignore[dict-item]
        "store": lambda: roadshift.SlotEngine("slots", "keys"),  # type: ignore[arg-type]
        "slots": lambda: roadshift.write_report(tmp_path / "a.html", slots="slots"),  # type: ignore[arg-type]
        "frames": lambda: roadshift.Pipeline(str(frames), engine),  # type: ignore[arg-type]
        "engine": lambda: roadshift.Pipeline(found, bundle.path),  # type: ignore[arg-type]
    }
    for argument, call in calls.items():
        with pytest.raises(ConfigError, match="is a path; give what") as caught:
            call()
        assert caught.value.argument == argument
    with pytest.raises(ConfigError, match="give a list of bundles") as caught:
        roadshift.write_report(tmp_path / "a.html", bundle)  # type: ignore[arg-type]
    assert caught.value.argument == "bundles"
    engine.close()


@pytest.mark.parametrize("value", [0, -1, 3.5, "x", None, True])
def test_counts_are_whole_numbers(value: Any, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    key = roadshift.generate_key(tmp_path / "key")
    calls: dict[str, Callable[[], Any]] = {
        "starts": lambda: roadshift.create_slots(tmp_path / "slots", starts=value),
        "maker_threshold": lambda: roadshift.create_trust(
            tmp_path / "keys", {"a": key}, maker_threshold=value
        ),
        "garage_threshold": lambda: roadshift.create_trust(
            tmp_path / "keys", {"a": key}, garage_threshold=value
        ),
    }
    for argument, call in calls.items():
        with pytest.raises(ConfigError, match="is no whole number from 1 up") as caught:
            call()
        assert caught.value.argument == argument
    assert not (tmp_path / "slots").exists()
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("value", [np.int64(3), np.float32(0.5), 10**400])
def test_numbers_of_numpy_are_numbers(value: Any) -> None:
    above_zero("budget", value)
    whole_of("count", np.int64(3))


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), "x", True, np.complex64(1)])
def test_the_longest_time_of_a_trial_is_above_zero(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no finite number above 0") as caught:
        roadshift.create_slots(tmp_path / "slots", p99_ms=value)
    assert caught.value.argument == "p99_ms"


@pytest.mark.parametrize("value", [-1, 1.5, "x"])
def test_versions_of_signatures_are_whole_numbers(
    value: Any, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography")
    roadshift.generate_key(tmp_path / "key")
    key = roadshift.load_private_key(tmp_path / "key")
    with pytest.raises(ConfigError, match="must be from 0 to") as caught:
        roadshift.sign_bundle(make_bundle(), key, version=value)
    assert caught.value.argument == "version"
    expires = datetime(2030, 1, 1, tzinfo=timezone.utc)
    assert roadshift.sign_bundle(make_bundle("other"), key, version=7, expires=expires).exists()


@pytest.mark.parametrize(
    ("argument", "value"),
    [("threads", "x"), ("threads", []), ("backend", None), ("backend", []), ("device", 3)],
)
def test_options_of_an_engine_are_refused_by_name(
    argument: str, value: Any, make_bundle: MakeBundle
) -> None:
    with pytest.raises(EngineError) as caught:
        roadshift.open_engine(make_bundle(), **{argument: value})
    assert caught.value.argument == argument
