"""LogitCache: a teacher that is asked once a frame, and windows that are the crops."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import Batch, Crop
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.losses.backends.taps import upsample_map
from roadshift.adapt.methods import resolve_config
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import SegmentationNetwork, build_network
from roadshift.adapt.pseudo_labels.logit_cache import LogitCache
from roadshift.adapt.run.config import RunConfig
from roadshift.runtime.bundle import Bundle, InputSpec
from roadshift.runtime.errors import ConfigError, OutputError
from run_cases import adapted, history_of, stage_context

WIDTH, HEIGHT, FRAMES, K = 48, 32, 3, 4
SPEC = InputSpec(width=WIDTH, height=HEIGHT, mean=(110, 115, 120), std=(60, 58, 57))


class Counting(torch.nn.Module):
    """A teacher that counts its frames."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network: SegmentationNetwork = build_network("tiny_network:build", K).eval()
        self.frames = 0

    def forward(self, images: torch.Tensor) -> Any:
        self.frames += len(images)
        return self.network(images)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    torch.manual_seed(1)
    images = torch.randint(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=torch.uint8).numpy()
    frames = FrameSet([f"f{i}" for i in range(FRAMES)], WIDTH, HEIGHT, images.__getitem__)
    return stage_context(tmp_path, frames, Normalise(SPEC), RunConfig(method="iapc"))


def batch(*crops: Crop) -> Batch:
    nothing = torch.zeros(len(crops), HEIGHT, WIDTH, 3, dtype=torch.uint8)
    return Batch(nothing, nothing, None, tuple(range(len(crops))), crops)


def test_crops_are_windows_of_their_frames_logits(context: Context) -> None:
    teacher: Any = Counting()
    crops = (Crop(0, 0, 48, 32, False), Crop(5, 9, 30, 17, True), Crop(20, 3, 24, 16, False))
    found = upsample_map(
        LogitCache(teacher, context).maps(batch(*crops)),
        (HEIGHT, WIDTH),
        align_corners=False,
    )
    with torch.no_grad():
        logits = torch.cat([teacher(images).logits for images in context.whole_frames()])
    for i, crop in enumerate(crops):
        # The crop in the frame's coordinates from -1 to 1, as `affine_grid` wants it.
        across = crop.width / WIDTH * (-1 if crop.flip else 1)
        x, y = (2 * crop.left + crop.width) / WIDTH - 1, (2 * crop.top + crop.height) / HEIGHT - 1
        affine = torch.tensor([[[across, 0.0, x], [0.0, crop.height / HEIGHT, y]]])
        grid = F.affine_grid(affine, [1, 1, HEIGHT, WIDTH], align_corners=False)
        expected = F.grid_sample(
            logits[i : i + 1].half().float(), grid, padding_mode="border", align_corners=False
        )
        assert torch.allclose(found[i], expected[0], atol=1e-4)


def test_the_teacher_is_asked_once_and_the_size_is_told_first(context: Context) -> None:
    notes: list[str] = []
    object.__setattr__(context, "note", notes.append)
    teacher: Any = Counting()
    LogitCache(teacher, context)
    LogitCache(teacher, context)
    assert teacher.frames == FRAMES
    (note,) = notes
    assert note == "teacher cache: 0 MiB on disk, 3 frames of 4x8x12 logits in float16"
    assert (context.workdir / "teacher.f16").stat().st_size == 2 * FRAMES * K * 8 * 12


@pytest.mark.parametrize("damage", ["short", "no data", "no index", "index is no list"])
def test_what_was_not_written_whole_is_written_again(context: Context, damage: str) -> None:
    teacher: Any = Counting()
    crop = Crop(0, 0, WIDTH, HEIGHT, False)
    expected = LogitCache(teacher, context).maps(batch(crop)).values.clone()
    data, index = (context.workdir / f"teacher{end}" for end in (".f16", ".json"))
    if damage == "short":
        data.write_bytes(data.read_bytes()[:-8])
    elif damage == "index is no list":
        index.write_text("7")
    else:
        (data if damage == "no data" else index).unlink()
    found = LogitCache(teacher, context).maps(batch(crop)).values
    assert teacher.frames == 2 * FRAMES
    assert torch.equal(found, expected)


def test_what_was_left_half_written_counts_as_free(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    (context.workdir / "teacher.f16").write_bytes(b"x" * 100)
    usage = namedtuple("usage", "free")

    def free(_: Path) -> Any:
        return usage(0 if (context.workdir / "teacher.f16").exists() else 1 << 30)

    monkeypatch.setattr("shutil.disk_usage", free)
    LogitCache(Counting(), context)  # type: ignore[arg-type]


def test_a_method_without_a_frozen_teacher_refuses_the_cache() -> None:
    with pytest.raises(ConfigError, match=r"nightshift asks no frozen teacher .* iapc, pseudo"):
        resolve_config("nightshift", assignments=["teacher_cache=true"])


def test_a_disk_without_room_is_an_error_before_anything_is_written(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(100))
    with pytest.raises(OutputError, match=r"teacher cache takes 0.0 GiB .* teacher_cache=false"):
        LogitCache(Counting(), context)  # type: ignore[arg-type]
    assert not list(context.workdir.glob("teacher*"))


@pytest.mark.parametrize("method", ["iapc", "pseudo"])
def test_a_run_with_the_cache_is_a_run_without_it_where_crops_are_whole_frames(
    method: str, source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    common = ("training.steps=3", "training.flip=false", "training.crop_share=1.0", "tone=none")
    losses = []
    for cached in ("false", "true"):
        config = resolve_config(method, assignments=[*common, f"teacher_cache={cached}"])
        adapted(source, frames_dir, config, tmp_path / cached)
        losses.append([line["losses"]["total"] for line in history_of(tmp_path / cached)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
