"""Tubs of Donkey cars: pictures in the order of their numbers, without those that were deleted."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from roadshift.runtime.frames import open_frames


def write_tub(folder: Path, deleted: object) -> Path:
    """A tub of twelve records in two catalogs, as version 2 writes it."""
    (folder / "images").mkdir(parents=True)
    for number in range(12):
        picture = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}_cam_image_array_.jpg"), picture)
    for first in (0, 10):
        records = [
            {"_index": i, "_timestamp_ms": 50 * i, "cam/image_array": f"{i}_cam_image_array_.jpg"}
            for i in range(first, min(first + 10, 12))
        ]
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"catalog_{first // 10}.catalog").write_text(lines)
        (folder / f"catalog_{first // 10}.catalog_manifest").write_text("{}")
    last = {"paths": ["catalog_0.catalog"], "current_index": 12, "deleted_indexes": deleted}
    lines = '["cam/image_array"]', '["image_array"]', "{}", '{"created_at": 1.0}', json.dumps(last)
    (folder / "manifest.json").write_text("\n".join(lines))
    return folder


def test_deleted_records_are_left_out_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    tub = write_tub(tmp_path / "tub", [3, 10])
    names = [one.name for one in open_frames(tub, on_skip=said.append)]
    assert names == [f"{i}_cam_image_array_" for i in range(12) if i not in (3, 10)]
    assert "left out 2 pictures that the car's driver deleted" in said[0]


@pytest.mark.parametrize("deleted", [[], None, "3", [{"a": 1}]])
def test_a_tub_without_deleted_records_is_whole(tmp_path: Path, deleted: object) -> None:
    assert len(open_frames(write_tub(tmp_path / "tub", deleted), on_skip=lambda _: None)) == 12


def test_a_folder_of_tubs(tmp_path: Path) -> None:
    write_tub(tmp_path / "tub_10", [0])
    write_tub(tmp_path / "tub_2", [0])
    names = [one.name for one in open_frames(tmp_path, on_skip=lambda _: None)]
    assert names == [
        f"{tmp_path.name}_{tub}_images_{i}_cam_image_array_"
        for tub in ("tub_2", "tub_10")
        for i in range(1, 12)
    ]


def test_frames_have_the_times_of_their_records(tmp_path: Path) -> None:
    write_tub(tmp_path / "tub", [3])
    frames = open_frames(tmp_path / "tub", on_skip=lambda _: None)
    wanted = [(i, 50_000_000 * i) for i in range(12) if i != 3]
    found = [(int(one.name.partition("_")[0]), one.timestamp_ns) for one in frames]
    assert found == wanted
    assert [one.timestamp_ns for one in frames.at([4])] == [250_000_000]


def test_each_drive_of_a_tub_begins_at_0_and_odd_times_are_none(tmp_path: Path) -> None:
    tub = write_tub(tmp_path / "tub", [])
    sessions = [{"_session_id": "a"}] * 5 + [{"_session_id": ["b"], "_index": []}] * 7
    odd: list[object] = [None, "7", 2**60, -1, True]
    times = [*range(1_700_000_000_000, 1_700_000_000_005), 9000, 9020, *odd]
    records = [
        {"_timestamp_ms": time_ms, "cam/image_array": f"{i}_cam_image_array_.jpg", **sessions[i]}
        for i, time_ms in enumerate(times)
    ]
    for catalog in tub.glob("*.catalog"):
        catalog.unlink()
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tub / "catalog_0.catalog").write_text(lines + '{"cut')
    frames = open_frames(tub, on_skip=lambda _: None)
    in_ms = [one.timestamp_ns / 1e6 for one in frames]
    assert in_ms == [0, 1, 2, 3, 4, 0, 20, 0, 0, 0, 0, 0]
