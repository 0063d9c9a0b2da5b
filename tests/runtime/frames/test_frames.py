"""Frames: image kinds, folder layouts, label pairs, videos, damaged files, names."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from roadshift.runtime.errors import FrameError, LabelError, OutputError
from roadshift.runtime.folders.folder_contents import folder_contents
from roadshift.runtime.folders.label_pairs import find_labels, labelled_pairs
from roadshift.runtime.frames import Frame, open_frames
from roadshift.runtime.frames.images import read_image, write_image


def texture(seed: int = 0, height: int = 24, width: int = 32) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height))


def touch_images(root: Path, names: Sequence[str]) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, texture())


def write_video(path: Path, frames: int, codec: str = "mp4v", fps: float = 10.0) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (64, 48))
    for index in range(frames):
        writer.write(texture(index, 48, 64))
    writer.release()


def names(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in folder_contents(root, videos=False).files]


# ---- reading and writing images ---------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm"])
def test_lossless_files_come_back_as_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    write_image(path, texture())
    np.testing.assert_array_equal(read_image(path), texture())


def test_jpeg_comes_back_in_rgb(tmp_path: Path) -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    write_image(tmp_path / "red.jpg", red)
    assert np.abs(read_image(tmp_path / "red.jpg").astype(int) - red).max() < 8


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = texture()[..., 0]
    write_image(tmp_path / "grey.png", grey)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([grey] * 3, axis=-1))


def test_alpha_is_dropped(tmp_path: Path) -> None:
    alpha = np.full((24, 32, 1), 17, np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), np.concatenate([texture()[..., ::-1], alpha], axis=-1))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), texture())


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_divided_by_257(tmp_path: Path, suffix: str) -> None:
    path = str(tmp_path / f"deep{suffix}")
    cv2.imwrite(path, texture()[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(path), texture())
    cv2.imwrite(path, np.array([[0, 128, 129, 385, 386, 65535]], np.uint16))
    np.testing.assert_array_equal(read_image(path)[0, :, 0], [0, 0, 1, 1, 2, 255])


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "f.tiff"), np.zeros((4, 4), np.float32))
    with pytest.raises(FrameError, match=r"f\.tiff is damaged, or no image of 8 or 16 bits"):
        read_image(tmp_path / "f.tiff")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.mp4", "a.ts"])
def test_a_git_lfs_pointer_is_said_to_be_one(tmp_path: Path, name: str) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"
    (tmp_path / name).write_text(pointer)
    with pytest.raises(FrameError, match=rf"{name} is a Git LFS pointer, .*`git lfs pull`\.$"):
        list(open_frames(tmp_path / name))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    _, data = cv2.imencode(".jpg", texture(height=24, width=32))
    # APP1: "Exif", a little-endian TIFF with one tag, Orientation (0x112) = 6: turn clockwise
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    body = b"Exif\0\0" + tiff
    exif = b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
    (tmp_path / "turned.jpg").write_bytes(data.tobytes()[:2] + exif + data.tobytes()[2:])
    (tmp_path / "plain.jpg").write_bytes(data.tobytes())
    upright = np.rot90(read_image(tmp_path / "plain.jpg"), k=-1)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.jpg"), upright)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_file_cut_short_is_refused_by_name(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"cut{suffix}"
    write_image(path, texture(height=96, width=128))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(FrameError, match=rf"cut\{suffix} is damaged"):
        read_image(path)


def test_a_png_with_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flipped.png"
    write_image(path, texture())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(FrameError, match=r"flipped\.png is damaged: a PNG checksum is wrong"):
        read_image(path)


def test_a_text_file_and_a_missing_file_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("no image")
    with pytest.raises(FrameError, match=r"note\.png is damaged, or no image"):
        read_image(tmp_path / "note.png")
    with pytest.raises(FrameError, match=r"gone\.png cannot be read: No such file"):
        read_image(tmp_path / "gone.png")


def test_damaged_files_print_nothing_of_the_decoders(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg", ".tiff", ".webp"):
        path = tmp_path / f"cut{suffix}"
        write_image(path, texture(height=96, width=128))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    write_video(tmp_path / "cut.mp4", 10)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "cut.mp4").read_bytes()[:2000])
    code = (
        "import sys\n"
        "from roadshift.runtime.frames import open_frames\n"
        "said = []\n"
        "try:\n"
        "    list(open_frames([sys.argv[1], sys.argv[1] + '/cut.mp4'], on_skip=said.append))\n"
        "except Exception as error: said.append(error)\n"
        # of the folder, of each file, of the video given once more, and the error
        "assert len(said) == 8, said\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_writing_leaves_no_temporary_file_and_replaces_the_old_one(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", texture(0))
    write_image(tmp_path / "a.png", texture(1))
    assert os.listdir(tmp_path) == ["a.png"]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), texture(1))


def test_writing_does_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", pytest.fail)
    write_image(tmp_path / "a.png", texture(0))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), texture(0))


def test_writing_nowhere_or_to_an_unknown_format_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.png: .*missing is not an existing folder"):
        write_image(tmp_path / "missing" / "a.png", texture())
    with pytest.raises(OutputError, match=r"no encoder for '\.xyz'"):
        write_image(tmp_path / "a.xyz", texture())
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(OutputError, match=r"taken\.png: cannot be written"):
        write_image(tmp_path / "taken.png", texture())
    assert os.listdir(tmp_path) == ["taken.png"]


# ---- folders and labels -----------------------------------------------------------------------


def test_frame_2_comes_before_frame_10_in_nested_folders(tmp_path: Path) -> None:
    wanted = ["drive_2/frame_2.png", "drive_2/frame_10.jpg", "drive_10/frame_1.PNG"]
    touch_images(tmp_path, [name.replace(".PNG", ".png") for name in reversed(wanted)])
    (tmp_path / "drive_10/frame_1.png").rename(tmp_path / "drive_10/frame_1.PNG")
    (tmp_path / "notes.txt").write_text("")
    touch_images(tmp_path, [".hidden/a.png", "drive_2/._frame_2.png"])
    assert names(tmp_path) == wanted


def test_a_linked_folder_is_followed_and_a_loop_of_links_ends(tmp_path: Path) -> None:
    touch_images(tmp_path / "disk", ["a.png"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "data")
    assert names(tmp_path / "data") == ["link/a.png"]


def test_cityscapes_root_gives_its_images_only(tmp_path: Path) -> None:
    frame = "leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png"
    touch_images(
        tmp_path,
        [
            frame,
            "gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png",
            "disparity/val/frankfurt/frankfurt_000000_000294_disparity.png",
        ],
    )
    assert names(tmp_path) == [frame]


def test_acdc_gives_adverse_images_without_references_and_flattened_ones(tmp_path: Path) -> None:
    frame = "rgb_anon/night/train/GOPR0351/GOPR0351_frame_000159_rgb_anon.png"
    reference = "rgb_anon/night/train_ref/GOPR0351/GOPR0351_frame_000159_rgb_ref_anon.png"
    touch_images(tmp_path, [frame, reference, "gt/night/train/GOPR0351/x_gt_labelTrainIds.png"])
    assert names(tmp_path) == [frame]
    assert names(tmp_path / "rgb_anon/night/train_ref") == [reference.split("train_ref/")[1]]
    flat = ["GOPR0351_frame_000159_rgb_anon.png", "GOPR0351_frame_000159_gt_labelColor.png"]
    touch_images(tmp_path / "flat", flat)
    assert names(tmp_path / "flat") == flat[:1]


def test_labels_beside_images_are_no_frames_at_any_depth(tmp_path: Path) -> None:
    touch_images(tmp_path, ["day/images/a.png", "day/labels/a.png", "labels/b.png"])
    assert names(tmp_path) == ["day/images/a.png", "labels/b.png"]
    touch_images(tmp_path / "flat", ["7.png", "7_labelIds.png", "7_labelTrainIds.png"])
    assert names(tmp_path / "flat") == ["7.png"]


@pytest.mark.parametrize(
    ("image", "labels", "images_root", "labels_root"),
    [
        ("leftImg8bit/val/b/b_1_leftImg8bit.png", "gtFine/val/b/b_1_gtFine_labelIds.png", *pair)
        for pair in [("leftImg8bit", "gtFine"), (".", "."), (".", "gtFine")]
    ]
    + [
        ("leftImg8bit/val/b/b_1_leftImg8bit.png", "gtFine/val/b/b_1_gtFine_labelIds.png", *pair)
        for pair in [("leftImg8bit/val/b", "gtFine/val/b"), ("leftImg8bit/val", "gtFine")]
    ]
    + [
        ("rgb_anon/fog/val/G/G_1_rgb_anon.png", "gt/fog/val/G/G_1_gt_labelTrainIds.png", *pair)
        for pair in [("rgb_anon", "gt"), (".", "."), ("rgb_anon/fog", "gt")]
    ]
    + [
        ("flat/G_1_rgb_anon.png", "flat/G_1_gt_labelTrainIds.png", "flat", "flat"),
        ("images/seq/7.jpg", "labels/seq/7.png", "images", "labels"),
        ("images/seq/7.jpg", "labels/seq/7.png", ".", "."),
        ("images/seq/7.jpg", "labels/7.png", "images", "labels"),
        ("images/7.png", "labels/7_labelIds.png", "images", "labels"),
        ("images/7.png", "labels/7_labelTrainIds.png", ".", "."),
    ],
)
def test_labels_are_found(
    tmp_path: Path, image: str, labels: str, images_root: str, labels_root: str
) -> None:
    touch_images(tmp_path, [image, labels])
    found = find_labels(tmp_path / image, tmp_path / images_root, tmp_path / labels_root)
    assert found is not None
    assert found.samefile(tmp_path / labels)


def test_train_ids_come_before_raw_ids(tmp_path: Path) -> None:
    touch_images(
        tmp_path,
        ["b_1_leftImg8bit.png", "b_1_gtFine_labelIds.png", "b_1_gtFine_labelTrainIds.png"],
    )
    found = find_labels(tmp_path / "b_1_leftImg8bit.png", tmp_path, tmp_path)
    assert found == tmp_path / "b_1_gtFine_labelTrainIds.png"


def test_an_image_is_not_its_own_label_map(tmp_path: Path) -> None:
    touch_images(tmp_path, ["a.png"])
    assert find_labels(tmp_path / "a.png", tmp_path, tmp_path) is None


def test_labelled_pairs_are_in_time_order(tmp_path: Path) -> None:
    touch_images(tmp_path, [f"{kind}/{i}.png" for i in (10, 9) for kind in ("images", "labels")])
    pairs = labelled_pairs(tmp_path / "images", tmp_path / "labels")
    assert [(image.name, labels.name) for image, labels in pairs] == [
        ("9.png", "9.png"),
        ("10.png", "10.png"),
    ]


def test_images_without_labels_are_named_and_counted(tmp_path: Path) -> None:
    touch_images(tmp_path, ["labels/0.png", *(f"images/{i}.png" for i in range(6))])
    with pytest.raises(LabelError, match=r"5 of 6 images .* 1\.png, 2\.png, 3\.png, \.\.\.;"):
        labelled_pairs(tmp_path / "images", tmp_path / "labels")
    with pytest.raises(LabelError, match="nowhere is not a folder"):
        labelled_pairs(tmp_path / "images", tmp_path / "nowhere")


# ---- sources ----------------------------------------------------------------------------------


def test_a_folder_can_be_read_twice_and_frames_keep_their_sizes(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png", texture(1, 20, 30))
    write_image(tmp_path / "2.png", texture(2, 10, 40))
    source = open_frames(tmp_path)
    first, second = list(source), list(source)
    assert len(source) == source.length == 2
    assert [frame.name for frame in first] == ["1", "2"]
    for frame, again, original in zip(first, second, [(1, 20, 30), (2, 10, 40)], strict=True):
        np.testing.assert_array_equal(frame.image, texture(*original))
        np.testing.assert_array_equal(frame.image, again.image)


def test_a_corrupt_image_among_good_ones_is_reported_once_and_skipped(tmp_path: Path) -> None:
    touch_images(tmp_path, ["1.png", "2.png", "3.png"])
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:60])
    said: list[str] = []
    source = open_frames(tmp_path, on_skip=said.append)
    for _ in range(2):
        assert [frame.name for frame in source] == ["1", "3"]
    assert said == source.skipped
    assert len(said) == 1
    assert "2.png is damaged: the PNG data ends early, after 60 bytes" in said[0]


def test_a_damaged_file_that_is_given_twice_counts_twice(tmp_path: Path) -> None:
    touch_images(tmp_path, ["1.png"])
    bad = tmp_path / "2.png"
    bad.write_bytes(b"\x89PNG")
    said: list[str] = []
    source = open_frames([tmp_path / "1.png", bad, bad], on_skip=said.append)
    for _ in range(2):
        assert len(list(source)) == 1
    assert said == source.skipped
    assert (len(said), source.frames_skipped) == (2, 2)


def test_skips_go_to_the_log_by_default(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch_images(tmp_path, ["1.png"])
    (tmp_path / "2.png").write_bytes(b"")
    list(open_frames(tmp_path))
    assert "2.png is damaged: it is empty" in caplog.text


def test_a_source_without_a_good_frame_is_an_error(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(FrameError, match=r"None of the 2 files .* the first: .*1\.png is damaged"):
        list(open_frames(tmp_path, on_skip=lambda _: None))
    said: list[str] = []
    with pytest.raises(FrameError, match=r"1\.png is damaged"):
        list(open_frames(tmp_path / "1.png", on_skip=said.append))
    assert said == []


def test_an_empty_folder_and_a_missing_source_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="without images or videos"):
        open_frames(tmp_path)
    os.mkfifo(tmp_path / "clip.mp4")
    with pytest.raises(FrameError, match=r"clip\.mp4 is a named pipe, not a regular file; give"):
        open_frames(tmp_path / "clip.mp4")
    with pytest.raises(FrameError, match="nowhere does not exist"):
        open_frames(tmp_path / "nowhere")
    with pytest.raises(FrameError, match="give at least one"):
        open_frames([])
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FrameError, match=r"notes\.txt is of a kind that is not read here"):
        open_frames(tmp_path / "notes.txt")


@pytest.mark.parametrize("source", ["camera:0", "rtsp://10.0.0.2/front"])
def test_a_live_stream_is_refused_with_a_way_to_record_it(source: str) -> None:
    with pytest.raises(FrameError, match=r"live stream.*ffmpeg -i"):
        open_frames(source)


def test_what_is_only_called_a_bag_is_refused(tmp_path: Path) -> None:
    bag = tmp_path / "drive"
    bag.mkdir()
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: {}")
    (bag / "drive_0.db3").write_bytes(b"")
    for source in (bag, bag / "drive_0.db3"):
        with pytest.raises(FrameError, match="cannot be read as a bag"):
            open_frames(source)
    for missing in ("drive.mcap", "drive.bag"):
        with pytest.raises(FrameError, match=f"{missing} does not exist"):
            open_frames(tmp_path / missing)


@pytest.mark.parametrize("count", [1, 7])
def test_a_bag_s_folder_without_its_files_names_them(tmp_path: Path, count: int) -> None:
    files = [f"drive 1_{number}.mcap" for number in range(count)]
    listed = "".join(f"    - '{file}'\n" for file in files)
    metadata = f"rosbag2_bagfile_information:\n  version: 5\n  relative_file_paths:\n{listed}"
    (tmp_path / "metadata.yaml").write_text(metadata + "  duration:\n    nanoseconds: 0\n")
    with pytest.raises(FrameError, match="bag without its files") as caught:
        open_frames(tmp_path)
    named = ", ".join(files[:3]) + (" and 4 more;" if count > 3 else ";")
    assert f"names {named} copy them there" in str(caught.value)


def test_another_metadata_yaml_is_no_bag(tmp_path: Path) -> None:
    (tmp_path / "metadata.yaml").write_text("title: x\nkeywords:\n  - road\n")
    with pytest.raises(FrameError, match="folder without images or videos"):
        open_frames(tmp_path)


def test_names_are_stems_and_collisions_get_their_folders(tmp_path: Path) -> None:
    touch_images(tmp_path, ["a/1.png", "b/1.png", "b/in/1.png", "b/2.png", "b/front view.png"])
    frames = [frame.name for frame in open_frames([tmp_path / "a", tmp_path / "b"])]
    assert frames == ["a_1", "b_1", "2", "front_view", "b_in_1"]
    twice = [frame.name for frame in open_frames([tmp_path / "a", tmp_path / "a/1.png"])]
    assert twice == ["a_1", "a_1_2"]


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "mp4v"), (".avi", "MJPG"), (".mkv", "mp4v")]
)
def test_a_video_gives_its_frames_with_times(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"clip{suffix}"
    write_video(path, 5, codec)
    source = open_frames(path)
    frames = list(source)
    assert [frame.name for frame in frames] == [f"clip_{i:06d}" for i in range(5)]
    assert [frame.timestamp_ns for frame in frames] == [i * 100_000_000 for i in range(5)]
    assert len(source) == 5
    original = texture(3, 48, 64)[..., ::-1].astype(float)  # written as BGR
    assert np.abs(frames[3].image - original).mean() < 15
    assert source.skipped == []


@pytest.mark.parametrize(("suffix", "codec"), [(".avi", "MJPG"), (".mkv", "mp4v")])
def test_a_video_that_ends_early_is_reported_with_both_counts(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    path = tmp_path / f"clip{suffix}"
    write_video(path, 20, codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said: list[str] = []
    frames = list(open_frames(path, on_skip=said.append))
    assert 0 < len(frames) < 19
    assert len(said) == 1
    assert f"clip{suffix} ends early: {len(frames)} of 20 frames were read" in said[0]


def test_a_video_without_an_index_is_an_error_alone_and_a_skip_among_others(
    tmp_path: Path,
) -> None:
    for name in ("1.mp4", "2.mp4"):
        write_video(tmp_path / name, 5)
    cut = tmp_path / "2.mp4"
    cut.write_bytes(cut.read_bytes()[:-200])
    with pytest.raises(FrameError, match=r"2\.mp4 has no frame .*ffmpeg"):
        list(open_frames(cut))
    said: list[str] = []
    frames = list(open_frames(tmp_path, on_skip=said.append))  # a folder of videos
    assert [frame.name for frame in frames] == [f"1_{i:06d}" for i in range(5)]
    assert len(said) == 1
    assert "2.mp4 has no frame" in said[0]


def test_frames_and_videos_chain(tmp_path: Path) -> None:
    touch_images(tmp_path, ["still.png"])
    write_video(tmp_path / "clip.mp4", 2)
    source = open_frames([tmp_path / "still.png", tmp_path / "clip.mp4"])
    assert [frame.name for frame in source] == ["still", "clip_000000", "clip_000001"]
    assert all(isinstance(frame, Frame) and frame.image.dtype == np.uint8 for frame in source)
