"""Frames found, cached and drawn: what a step sees depends on the seed and the step alone."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from bag_cases import pictures, stamp_of, write_ros2
from damaged_videos import damage_pictures, write_mpeg4
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from roadshift.adapt.data import dataset, labelled
from roadshift.adapt.data.dataset import (
    Batch,
    Crop,
    CropSampler,
    in_batches,
    resize_window,
    stacked,
    target_frames,
)
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.data.input_hashes import learned_from
from roadshift.adapt.data.labelled import labelled_frames
from roadshift.adapt.data.prefetching import Prefetcher
from roadshift.adapt.run.budget import Deadline
from roadshift.adapt.run.config import AugmentConfig, TrainingConfig
from roadshift.adapt.run.events import Events
from roadshift.adapt.run.work import Work
from roadshift.runtime.arguments import ProgressUpdate
from roadshift.runtime.errors import FrameError, LabelError, OutputError, RunInterrupted
from roadshift.runtime.frames import open_frames
from roadshift.runtime.frames.images import write_image
from roadshift.runtime.frames.preprocess import fit_frame
from roadshift.runtime.labels import LabelSpace
from roadshift.runtime.spacing import evenly_spaced

pytestmark = pytest.mark.usefixtures("same_threads")

WIDTH, HEIGHT = 32, 20
SPACE = LabelSpace(name="two", classes=("road", "sky"), colours=((1, 2, 3), (4, 5, 6)))
PLAIN = AugmentConfig(policy="none")

Array = NDArray[np.uint8]


def picture(seed: int, width: int = WIDTH, height: int = HEIGHT) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def folder_of(path: Path, count: int, width: int = WIDTH, height: int = HEIGHT) -> Path:
    path.mkdir(parents=True)
    for i in range(count):
        write_image(path / f"frame_{i}.png", picture(i, width, height))
    return path


def video(path: Path, count: int) -> Path:
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (WIDTH, HEIGHT), isColor=True
    )
    assert writer.isOpened()
    for i in range(count):
        writer.write(np.full((HEIGHT, WIDTH, 3), 20 * i, np.uint8))
    writer.release()
    return path


def frame_set(count: int, width: int = WIDTH, height: int = HEIGHT) -> FrameSet:
    images = [picture(i, width, height) for i in range(count)]
    return FrameSet([f"f{i}" for i in range(count)], width, height, images.__getitem__)


def sampler(
    frames: FrameSet, seed: int = 0, augment: AugmentConfig = PLAIN, **training: Any
) -> CropSampler:
    return CropSampler(frames, TrainingConfig(**training), augment, seed)


def same(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.clean, other.clean)
        and torch.equal(one.augmented, other.augmented)
        and one.frames == other.frames
        and one.crops == other.crops
    )


# --- target frames ------------------------------------------------------------------------------


def test_frames_are_decoded_once_and_found_again(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", 3, width=64, height=40)
    frames = target_frames([source], WIDTH, HEIGHT, tmp_path)
    assert frames.names == ("frame_0", "frame_1", "frame_2")
    assert frames.labels is None
    for i in range(3):
        assert np.array_equal(frames.image(i), fit_frame(picture(i, 64, 40), WIDTH, HEIGHT))
    (source / "frame_1.png").unlink()  # a resumed run does not read the sources again
    again = target_frames([source], WIDTH, HEIGHT, tmp_path)
    assert again.names == frames.names
    assert np.array_equal(again.image(1), frames.image(1))


def test_another_size_limit_or_source_is_decoded_anew(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", 4)
    other = folder_of(tmp_path / "other", 1, width=80)
    assert len(target_frames([source], WIDTH, HEIGHT, tmp_path)) == 4
    assert target_frames([source], 16, 10, tmp_path).image(0).shape == (10, 16, 3)
    assert target_frames([source], 16, 10, tmp_path, limit=2).names == ("frame_0", "frame_3")
    assert len(target_frames([source, other], 16, 10, tmp_path, limit=9)) == 5


@pytest.mark.parametrize("folder", ["road_mask", "x/y"])
def test_label_maps_beside_the_frames_are_not_learned(tmp_path: Path, folder: str) -> None:
    rng = np.random.default_rng(0)
    for name in ("road", folder):
        (tmp_path / "data" / name).mkdir(parents=True)
    for i in range(3):
        small = rng.integers(0, 256, (5, 8, 3), dtype=np.uint8)
        write_image(tmp_path / f"data/road/{i}.png", cv2.resize(small, (WIDTH, HEIGHT)))
        ids = cv2.resize(small[..., 0] % 5, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
        assert cv2.imwrite(str(tmp_path / f"data/{folder}/{i}.png"), ids)
    said: list[str] = []
    frames = target_frames(
        [tmp_path / "data"], WIDTH, HEIGHT, tmp_path, work=Work(events=Events(said.append))
    )
    assert frames.names == ("0", "1", "2")
    assert "taken 3 pictures of road/; left out 3 label maps and the like" in said[0]


def test_a_damaged_frame_is_reported_before_the_first_step_and_left_out(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", 3)
    (source / "frame_1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    notes: list[str] = []
    frames = target_frames(
        [source], WIDTH, HEIGHT, tmp_path, work=Work(events=Events(notes.append))
    )
    assert frames.names == ("frame_0", "frame_2")
    assert len(notes) == 1
    assert "frame_1.png" in notes[0]


def test_a_limit_takes_frames_evenly_and_says_so(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", 7)
    notes: list[str] = []
    frames = target_frames(
        [source], WIDTH, HEIGHT, tmp_path, limit=3, work=Work(events=Events(notes.append))
    )
    assert frames.names == ("frame_0", "frame_3", "frame_6")
    assert notes == ["using 3 of 7 frames, evenly spaced (max_frames)"]


def test_videos_and_folders_of_videos_are_sources(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    clip = video(clips / "clip.avi", 5)
    work = [tmp_path / name for name in ("a", "b", "c")]
    for folder in work:
        folder.mkdir()
    whole = target_frames([clip], WIDTH, HEIGHT, work[0])
    assert [round(whole.image(i).mean() / 20) for i in range(5)] == [0, 1, 2, 3, 4]
    assert target_frames([clips], WIDTH, HEIGHT, work[1]).names == whole.names
    images = folder_of(tmp_path / "images", 2)
    mixed = target_frames([images, clips], WIDTH, HEIGHT, work[2], limit=3)
    assert mixed.names == ("frame_0", "clip_000001", "clip_000004")


def test_a_source_that_is_missing_or_empty_is_a_frame_error(tmp_path: Path) -> None:
    full, empty = folder_of(tmp_path / "in", 1), tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FrameError, match="does not exist"):
        target_frames([tmp_path / "nowhere"], WIDTH, HEIGHT, tmp_path)
    with pytest.raises(FrameError, match="empty is a folder without images"):
        target_frames([full, empty], WIDTH, HEIGHT, tmp_path)


def test_a_disk_that_cannot_hold_the_frames_is_an_output_error(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", 1)
    with pytest.raises(OutputError, match=r"cannot hold the decoded frames .*max_frames"):
        target_frames([source], WIDTH, HEIGHT, tmp_path / "not_there")


def test_a_cache_cut_short_is_a_frame_error(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", 2)
    target_frames([source], WIDTH, HEIGHT, tmp_path)
    data = tmp_path / "frames.rgb"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(FrameError, match=r"frames\.rgb: .* damaged; delete"):
        target_frames([source], WIDTH, HEIGHT, tmp_path)


def test_a_run_killed_while_decoding_other_frames_leaves_no_index_of_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = folder_of(tmp_path / "one", 2), tmp_path / "other"
    other.mkdir()
    for i in range(2):
        write_image(other / f"frame_{i}.png", picture(50 + i))
    target_frames([one], WIDTH, HEIGHT, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            target_frames([other], WIDTH, HEIGHT, tmp_path)
    frames = target_frames([one], WIDTH, HEIGHT, tmp_path)
    assert np.array_equal(frames.image(1), picture(1))


def test_folders_above_the_cache_limit_are_decoded_when_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_of(tmp_path / "in", 3, width=64, height=40)
    monkeypatch.setattr(dataset, "CACHE_LIMIT_BYTES", 3 * WIDTH * HEIGHT * 3 - 1)
    notes: list[str] = []
    frames = target_frames(
        [source], WIDTH, HEIGHT, tmp_path, work=Work(events=Events(notes.append))
    )
    assert "do not fit the frame cache" in notes[0]
    assert not (tmp_path / "frames.rgb").exists()
    assert np.array_equal(frames.image(2), fit_frame(picture(2, 64, 40), WIDTH, HEIGHT))


def test_the_cache_index_names_what_it_was_made_from(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", 1)
    target_frames([source], WIDTH, HEIGHT, tmp_path, limit=4)
    stored = json.loads((tmp_path / "frames.json").read_text(encoding="utf-8"))
    expected = {"sources": [str(source)], "size": [WIDTH, HEIGHT], "limit": 4}
    content = hashlib.sha256((tmp_path / "frames.rgb").read_bytes()).hexdigest()
    checksum = stored.pop("sha256")
    assert stored == expected | {"names": ["frame_0"], "content": content}
    assert len(checksum) == 64


# --- labelled frames ----------------------------------------------------------------------------


def labelled_files(folder: Path, count: int = 3) -> list[tuple[Path, Path]]:
    pairs = []
    for i in range(count):
        image, labels = folder / f"i{i}.png", folder / f"l{i}.png"
        write_image(image, picture(i))
        write_image(labels, (picture(i)[..., 0] > 128).astype(np.uint8))
        pairs.append((image, labels))
    return pairs


def test_a_dark_frame_of_sixteen_bits_is_adapted_on_dark(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i, value in enumerate((60_000, 2470, 50_000)):
        picture = np.full((HEIGHT, WIDTH), value, np.uint16)
        assert cv2.imwrite(str(tmp_path / f"images/{i}.png"), picture)
    label = tmp_path / "label.png"
    write_image(label, np.zeros((HEIGHT, WIDTH), np.uint8))
    pairs = [(tmp_path / "images/1.png", label)]
    assert labelled_frames(pairs, SPACE, WIDTH, HEIGHT).image(0).max() == 10


def test_labels_are_fitted_by_nearest_neighbour_and_stay_with_their_image(tmp_path: Path) -> None:
    frames = labelled_frames(labelled_files(tmp_path), SPACE, 2 * WIDTH, 2 * HEIGHT)
    assert frames.labels is not None
    for i in (2, 0, 1):
        truth = (picture(i)[..., 0] > 128).astype(np.uint8)
        assert np.array_equal(frames.labels(i), truth.repeat(2, axis=0).repeat(2, axis=1))
        assert np.array_equal(frames.image(i), fit_frame(picture(i), 2 * WIDTH, 2 * HEIGHT))


def test_decoded_pairs_are_kept_up_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelled, "CACHE_LIMIT_BYTES", 2 * WIDTH * HEIGHT * 4)
    pairs = labelled_files(tmp_path)
    frames = labelled_frames(pairs, SPACE, WIDTH, HEIGHT)
    for i in range(3):
        frames.image(i)
    for image, _ in pairs:
        image.unlink()
    assert np.array_equal(frames.image(1), picture(1))
    with pytest.raises(FrameError, match=r"i2\.png"):
        frames.image(2)


def test_labels_of_another_size_are_a_label_error(tmp_path: Path) -> None:
    pairs = labelled_files(tmp_path, 1)
    write_image(pairs[0][1], np.zeros((HEIGHT, WIDTH - 1), np.uint8))
    frames = labelled_frames(pairs, SPACE, WIDTH, HEIGHT)
    with pytest.raises(LabelError, match=r"l0\.png"):
        frames.image(0)


def test_labels_follow_their_images_crop(tmp_path: Path) -> None:
    frames = labelled_frames(labelled_files(tmp_path), SPACE, WIDTH, HEIGHT)
    batch = sampler(frames, crop_size=(16, 16)).batch(3)
    assert batch.labels is not None
    assert batch.labels.dtype == torch.int64
    assert torch.equal(batch.labels, (batch.clean[..., 0] > 128).long())


# --- crops --------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    step=st.integers(0, 10**6),
    crop=st.tuples(st.integers(16, 32), st.integers(16, 20)),
    scale=st.tuples(st.floats(0.05, 40), st.floats(0.05, 40)).map(sorted),
)
def test_every_crop_lies_in_its_frame_and_fills_the_batch(
    seed: int, step: int, crop: tuple[int, int], scale: Any
) -> None:
    draws = sampler(frame_set(3), seed, crop_size=crop, scale=tuple(scale), batch_size=2)
    batch = draws.batch(step)
    assert batch.clean.shape == (2, crop[1], crop[0], 3)
    assert batch.clean.dtype == torch.uint8
    for one in batch.crops:
        assert 0 <= one.left <= one.left + one.width <= WIDTH
        assert 0 <= one.top <= one.top + one.height <= HEIGHT
        assert min(one.width, one.height) >= 1


def test_a_crop_at_scale_1_is_a_window_of_its_frame_perhaps_mirrored() -> None:
    frames = frame_set(4)
    draws = sampler(frames, crop_size=(17, 16), batch_size=16)
    batch = draws.batch(0)
    for pixels, index, crop in zip(batch.clean.numpy(), batch.frames, batch.crops, strict=True):
        assert (crop.width, crop.height) == (17, 16)
        window = frames.image(index)[crop.top :, crop.left :][:16, :17]
        assert np.array_equal(pixels, window[:, ::-1] if crop.flip else window)
    assert {crop.flip for crop in batch.crops} == {True, False}
    assert len({(crop.left, crop.top) for crop in batch.crops}) > 4


def test_zoom_is_within_the_scale_and_never_leaves_the_frame() -> None:
    draws = sampler(frame_set(2), crop_size=(16, 16), scale=(0.5, 2.0), batch_size=64)
    widths = {crop.width for crop in draws.batch(0).crops}
    assert min(widths) >= 8
    assert max(widths) <= 16 / (16 / HEIGHT)  # zooming out further would not fit the height
    assert len(widths) > 5


def test_zooms_of_a_list_are_drawn_each_as_often() -> None:
    frames = FrameSet(["a"], 1440, 720, lambda _: np.zeros((720, 1440, 3), np.uint8))
    zooms = (0.5, 0.75, 1.0, 1.25, 1.5)
    draws = sampler(frames, crop_size=(600, 600), scale_values=zooms, batch_size=500)
    rng = np.random.default_rng(4)
    widths = [draws._crop(rng, 0).width for _ in range(500)]
    counts = {width: widths.count(width) for width in set(widths)}
    assert set(counts) == {720, 600, 480, 400}  # the first two do not fit: the height of the frame
    assert counts[720] == pytest.approx(200, abs=50)
    assert all(counts[width] == pytest.approx(100, abs=40) for width in (600, 480, 400))


@pytest.mark.parametrize(
    ("size", "share", "expected"),
    [((480, 360), 2 / 3, (320, 240)), ((1024, 512), 0.5, (512, 256)), ((33, 17), 0.1, (16, 16))],
)
def test_crop_share_is_of_each_side_in_multiples_of_eight(
    size: tuple[int, int], share: float, expected: tuple[int, int]
) -> None:
    frames = FrameSet(["a"], *size, lambda _: picture(0, *size))
    batch = sampler(frames, crop_share=share, batch_size=1).batch(0)
    assert (batch.clean.shape[2], batch.clean.shape[1]) == expected


def test_without_crop_size_or_flip_a_batch_is_whole_frames() -> None:
    frames = frame_set(3)
    batch = sampler(frames, flip=False, batch_size=3).batch(0)
    assert sorted(batch.frames) == [0, 1, 2]
    for pixels, index in zip(batch.clean.numpy(), batch.frames, strict=True):
        assert np.array_equal(pixels, frames.image(index))


def test_a_window_is_resized_smoothly_for_images_and_by_nearest_for_labels() -> None:
    crop = Crop(left=2, top=3, width=8, height=6, flip=True)
    image, labels = picture(0), picture(1)[..., 0]
    small = resize_window(image, crop, 4, 3, nearest=False)
    means = image[3:9, 2:10].reshape(3, 2, 4, 2, 3).mean(axis=(1, 3))[:, ::-1]
    assert np.abs(small - means).max() <= 0.5 + 1e-9
    large = resize_window(labels, crop, 16, 12, nearest=True)
    assert np.array_equal(large, labels[3:9, 2:10].repeat(2, 0).repeat(2, 1)[:, ::-1])


def test_the_strongest_zoom_is_one_pixel() -> None:
    batch = sampler(frame_set(1), crop_size=(16, 16), scale=(90, 90)).batch(0)
    assert {(crop.width, crop.height) for crop in batch.crops} == {(1, 1)}


def test_a_crop_larger_than_the_frames_names_both_sizes() -> None:
    with pytest.raises(FrameError, match=r"crop_size 64x16 is larger than the frames \(32x20\)"):
        sampler(frame_set(1), crop_size=(64, 16))


# --- draws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["none", "jitter", "autoaugment"])
def test_a_batch_depends_on_seed_and_step_and_on_nothing_drawn_before(policy: Any) -> None:
    augment = AugmentConfig(policy=policy)
    settings_of_run: dict[str, Any] = {"crop_size": (16, 16), "scale": (0.8, 1.2), "batch_size": 3}
    one = sampler(frame_set(5), 3, augment, **settings_of_run)
    in_order = [one.batch(step) for step in range(6)]
    other = sampler(frame_set(5), 3, augment, **settings_of_run)
    for step in (5, 2, 2, 0):
        assert same(other.batch(step), in_order[step])
    assert not same(in_order[0], in_order[5])
    another_seed = sampler(frame_set(5), 4, augment, **settings_of_run)
    assert not same(another_seed.batch(0), in_order[0])


def test_every_frame_comes_once_an_epoch_in_another_order() -> None:
    draws = sampler(frame_set(6), batch_size=4)
    drawn = [index for step in range(6) for index in draws.batch(step).frames]
    epochs = [tuple(drawn[i : i + 6]) for i in range(0, 24, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len(set(epochs)) == 4


def test_fewer_frames_than_a_batch_are_drawn_again_with_other_crops() -> None:
    batch = sampler(frame_set(2), crop_size=(16, 16), batch_size=6).batch(0)
    assert Counter(batch.frames) == {0: 3, 1: 3}
    assert len(set(batch.crops)) > 2


@pytest.mark.parametrize("policy", ["jitter", "autoaugment"])
def test_noise_changes_the_augmented_view_alone(policy: Any) -> None:
    plain = sampler(frame_set(5), 1, PLAIN, batch_size=8).batch(0)
    noisy = sampler(frame_set(5), 1, AugmentConfig(policy=policy), batch_size=8).batch(0)
    assert plain.augmented is plain.clean
    assert torch.equal(noisy.clean, plain.clean)
    assert noisy.augmented.shape == noisy.clean.shape
    assert not torch.equal(noisy.augmented, noisy.clean)


def test_cached_frames_cannot_be_changed_by_noise(tmp_path: Path) -> None:
    frames = target_frames([folder_of(tmp_path / "in", 2)], WIDTH, HEIGHT, tmp_path)
    for policy in ("jitter", "autoaugment"):
        draws = sampler(frames, 0, AugmentConfig(policy=policy), flip=False, batch_size=8)
        draws.batch(0)
    assert np.array_equal(frames.image(1), picture(1))


def test_frames_without_labels_give_batches_without() -> None:
    assert sampler(frame_set(2)).batch(0).labels is None


def test_parts_of_a_batch_are_its_rows(tmp_path: Path) -> None:
    frames = labelled_frames(labelled_files(tmp_path), SPACE, WIDTH, HEIGHT)
    batch = sampler(frames, augment=AugmentConfig(), batch_size=5).batch(0)
    part = batch.part(2, 4).to(torch.device("cpu"))
    assert torch.equal(part.clean, batch.clean[2:4])
    assert torch.equal(part.augmented, batch.augmented[2:4])
    assert part.labels is not None
    assert batch.labels is not None
    assert torch.equal(part.labels, batch.labels[2:4])
    assert (part.frames, part.crops) == (batch.frames[2:4], batch.crops[2:4])


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [
        (5, 3, [3, 2]),
        (5, 2, [2, 3]),
        (9, 8, [9]),
        (2, 1, [1, 1]),
        (1, 8, [1]),
        (4, 2, [2, 2]),
        (0, 2, []),
    ],
)
def test_whole_frames_come_in_order_and_clean_and_none_is_alone_in_the_last_batch(
    count: int, batch_size: int, sizes: list[int]
) -> None:
    frames = frame_set(5)
    chosen = frames.only([i % 5 for i in range(count)])
    batches = [stacked(chosen, rows) for rows in in_batches(count, batch_size)]
    assert [len(images) for images in batches] == sizes
    expected = [frames.image(i % 5) for i in range(count)]
    assert np.array_equal(torch.cat(batches) if batches else [], expected)


# --- prefetching --------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("depth", [0, 1, 2, 9])
def test_prefetched_items_come_in_order_from_start_to_stop(depth: int, workers: int) -> None:
    items = Prefetcher(lambda i: i * i, 3, 9, depth=depth, workers=workers)
    assert list(items) == [9, 16, 25, 36, 49, 64]
    items.close()


def test_an_error_in_the_background_reaches_the_loop() -> None:
    def make(i: int) -> int:
        if i == 2:
            raise FrameError("frame 2 is damaged")
        return i

    items = Prefetcher(make, 0, 5)
    seen: list[int] = []
    with pytest.raises(FrameError, match="frame 2"):
        seen.extend(items)
    items.close()
    assert seen == [0, 1]


def test_several_workers_make_several_items_at_a_time_and_keep_their_order() -> None:
    together = threading.Barrier(3)

    def make(i: int) -> int:
        together.wait(timeout=20)  # breaks unless three come
        return i

    items = Prefetcher(make, 0, 9, depth=3, workers=3)
    assert list(items) == list(range(9))
    items.close()


def test_with_no_depth_nothing_is_made_ahead() -> None:
    before, made = threading.active_count(), []
    items = iter(Prefetcher(lambda i: made.append(i) or i, 0, 1000, depth=0))
    assert [next(items), next(items)] == made == [0, 1]
    assert threading.active_count() == before


def test_closing_drops_what_was_not_drawn_and_ends_the_thread() -> None:
    before = threading.active_count()
    made = []
    items = Prefetcher(lambda i: made.append(i) or i, 0, 1000, depth=4)
    assert next(iter(items)) == 0
    items.close()
    assert len(made) <= 4
    assert threading.active_count() == before


@pytest.mark.parametrize("limit", [1, 7, 16, 39, 40, 100])
def test_videos_whose_headers_lie_give_as_many_evenly_spaced_frames(
    tmp_path: Path, limit: int
) -> None:
    """A Matroska header has no count; OpenCV computes one from a duration and a nominal rate."""
    av = pytest.importorskip("av")
    path = tmp_path / "clip.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=1000)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(40):
            pixels = np.full((HEIGHT, WIDTH, 3), 5 * index, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = 33 * index, stream.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) > 1000
    (tmp_path / "work").mkdir()
    frames = target_frames([path], WIDTH, HEIGHT, tmp_path / "work", limit=limit)
    wanted = evenly_spaced(40, limit)
    assert len(frames) == min(limit, 40)
    found = [frames.image(i).mean() / 5 for i in range(len(frames))]
    np.testing.assert_allclose(found, wanted, atol=0.9)


def test_frames_that_were_decoded_with_errors_are_not_learned_from(tmp_path: Path) -> None:
    path, notes = damage_pictures(write_mpeg4(tmp_path / "drive.mp4"), [7, 15]), list[str]()
    work = tmp_path / "work"
    work.mkdir()
    frames = target_frames([path], WIDTH, HEIGHT, work, work=Work(events=Events(notes.append)))
    kept = [i for i in range(24) if i not in (7, 15)]
    assert list(frames.names) == [f"drive_{i:06d}" for i in kept]
    assert notes == [
        f"{path}: 2 of 24 frames were decoded with errors, first at frame 7 (0.7 s): the recording "
        "is damaged there, and these frames are left out"
    ]
    whole = [fit_frame(frame.image, WIDTH, HEIGHT) for frame in open_frames(path)]
    again = target_frames([path], WIDTH, HEIGHT, work)  # what a resumed run finds, with its hash
    for i, at in enumerate(kept):
        np.testing.assert_array_equal(again.image(i), frames.image(i))
        if at < 7:  # how FFmpeg's threads mend what follows differs from time to time
            np.testing.assert_array_equal(frames.image(i), whole[at])


def test_frames_of_a_video_are_counted_without_decoding_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = video(tmp_path / "clip.avi", 9)
    monkeypatch.setattr("roadshift.runtime.frames.source.count_frames", None)
    frames = target_frames([clip], WIDTH, HEIGHT, tmp_path, limit=3)
    assert frames.names == tuple(f"clip_{i:06d}" for i in evenly_spaced(9, 3))


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A video that counts as too large to look its compressed pictures up."""
    monkeypatch.setattr("roadshift.runtime.video.video_file._COUNTED_AHEAD_BYTES", 0)
    return video(tmp_path / "clip.avi", 9)


def test_counting_frames_leaves_time_to_decode_them(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each frame that is counted takes a second here, of 10: there are 3 for all of them."""
    now, notes = [0.0], list[str]()
    monkeypatch.setattr("roadshift.adapt.run.budget.time.monotonic", lambda: now[0])

    def pass_time(update: ProgressUpdate) -> None:
        now[0] += update.task == "counting frames" and update.done > 0

    work = Work(Deadline(10.0), Events(notes.append, report_phase=pass_time))
    frames = target_frames([large], WIDTH, HEIGHT, tmp_path, limit=2, work=work)
    assert notes[0] == "counting the frames of the videos, to use evenly spaced ones (max_frames)"
    assert notes[1].startswith("counting frames: the first 3 frames, for more the time budget")
    assert frames.names == ("clip_000000", "clip_000002")


def test_a_signal_stops_the_counting_of_frames(large: Path, tmp_path: Path) -> None:
    counts = list[int]()

    def stop_requested() -> bool:
        return bool(counts) and counts[-1] == 4

    def report(update: ProgressUpdate) -> None:
        counts.append(update.done)

    work = Work(events=Events(report_phase=report, stop_requested=stop_requested))
    with pytest.raises(RunInterrupted):
        target_frames([large], WIDTH, HEIGHT, tmp_path, limit=2, work=work)
    assert counts[-1] == 4


# ---- bags ---------------------------------------------------------------------------------------


def test_frames_of_a_bag_keep_their_stamps_in_the_folder_of_the_run(tmp_path: Path) -> None:
    bag = write_ros2(tmp_path / "drive", pictures(9, WIDTH, HEIGHT))
    work = tmp_path / "work"
    work.mkdir()
    first = target_frames([bag], WIDTH, HEIGHT, work, limit=5)
    again = target_frames([bag], WIDTH, HEIGHT, work, limit=5)
    for found in (first, again):
        assert found.stamps_ns == tuple(stamp_of(i) for i in (0, 2, 4, 6, 8))
        assert found.names == tuple(f"drive_{i:06d}" for i in (0, 2, 4, 6, 8))
    assert target_frames([f"{bag}#/front/image"], WIDTH, HEIGHT, work, limit=2).stamps_ns == (
        stamp_of(0),
        stamp_of(8),
    )
    assert learned_from([f"{bag}#/front/image", tmp_path], 3) == [
        bag / "drive.mcap",
        bag / "drive.mcap",
    ]


def test_frames_of_which_some_have_no_stamp_have_none(tmp_path: Path) -> None:
    write_ros2(tmp_path / "drive", pictures(3, WIDTH, HEIGHT))
    write_image(tmp_path / "still.png", picture(0))
    (tmp_path / "work").mkdir()
    found = target_frames(
        [tmp_path / "drive", tmp_path / "still.png"], WIDTH, HEIGHT, tmp_path / "work"
    )
    assert len(found) == 4
    assert found.stamps_ns is None
