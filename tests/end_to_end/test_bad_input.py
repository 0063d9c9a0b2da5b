"""Bad input: one sentence with what, where and what to do, exit code 1, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from payload import Payload
from roadshift.runtime.bundle import open_bundle
from roadshift.runtime.frames.images import read_image

Command = Callable[..., Any]
Refused = Callable[..., str]
Unchanged = Callable[..., Any]

SPACE, NETWORK = ("--label-space", "cityscapes19"), ("--network", "fast_scnn")
SIZE = ("--input-size", "96x64")
# The shortest run there is: a share of the statistics that is given need not be found.
BN_ONLY = ("--method", "bn_stats", "--gate", "off", "--set", "statistics_share=0.5")


def label_maps(folder: Path) -> dict[str, np.ndarray]:
    return {
        path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        for path in (folder / "labels").iterdir()
    }


@pytest.fixture
def images(world: Any, tmp_path: Path) -> Path:
    """A copy of the dusk frames to spoil."""
    return Path(shutil.copytree(world.dusk / "images", tmp_path / "images"))


@pytest.fixture
def labels(world: Any, tmp_path: Path) -> Path:
    """A copy of their label maps."""
    return Path(shutil.copytree(world.dusk / "labels", tmp_path / "labels"))


@pytest.fixture
def bundle(world: Any, tmp_path: Path) -> Path:
    """A copy of the exported bundle."""
    return Path(shutil.copytree(world.adapted, tmp_path / "bundle"))


# ---- frames --------------------------------------------------------------------------------------


def spoil(folder: Path) -> Path:
    """Cut the second file of a folder short."""
    file = sorted(folder.iterdir())[1]
    file.write_bytes(file.read_bytes()[:500])
    return file


def test_run_skips_a_corrupt_image_and_says_so(
    world: Any, command: Command, images: Path, tmp_path: Path
) -> None:
    damaged = spoil(images)
    done = command("run", world.adapted, images, "--out", tmp_path / "out", "--json")
    assert done.code == 0
    assert done.json["frames"] == 3
    (skipped,) = done.json["skipped"]
    assert f"{damaged} is damaged" in skipped
    assert done.err.count(skipped) == 1
    assert damaged.name not in label_maps(tmp_path / "out")


def test_adapt_skips_a_corrupt_image_and_says_so(
    world: Any, command: Command, images: Path, tmp_path: Path
) -> None:
    damaged = spoil(images)
    done = command("adapt", world.source, images, *BN_ONLY, "--out", tmp_path / "out", "--json")
    assert (done.code, done.json["frames"]) == (0, 3)
    assert done.err.count(f"{damaged} is damaged") == 1


def test_eval_refuses_a_corrupt_image(world: Any, refused: Refused, images: Path) -> None:
    """A figure over fewer frames than were asked for would not be the figure that was asked for."""
    damaged = spoil(images)
    refused(
        "eval", world.adapted, "--images", images, "--labels", world.dusk / "labels",
        says=[f"{damaged} is damaged", "copy the file again or remove it"],
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["empty", "missing", "all damaged"])
def test_a_folder_without_a_frame_is_refused(
    world: Any, refused: Refused, unchanged: Unchanged, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "frames"
    if kind != "missing":
        folder.mkdir()
    if kind == "all damaged":
        for name in ("a.png", "b.png"):
            (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    with unchanged():
        refused("run", world.adapted, folder, "--out", tmp_path / "out", says=[str(folder)])
        refused("run", world.adapted, folder, "--out", tmp_path / "out.mp4", says=[str(folder)])
        refused(
            "adapt", world.source, folder, *BN_ONLY, "--out", tmp_path / "out", says=[str(folder)]
        )
        refused("bench", world.adapted, "--frames", folder, says=[str(folder)])
        refused(
            "eval", world.adapted, "--images", folder, "--labels", world.dusk / "labels",
            says=[str(folder)],
        )  # fmt: skip
    with unchanged(world.adapted):
        refused("export", world.adapted, "--frames", folder, says=[str(folder)])


def test_frames_of_mixed_sizes_come_back_each_at_its_own(
    world: Any, command: Command, images: Path, labels: Path, tmp_path: Path
) -> None:
    first, second, *_ = sorted(images.iterdir())
    for path, size in ((first, (48, 80)), (second, (193, 127))):
        for file in (path, labels / path.name):
            pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            resized = cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST)
            assert cv2.imwrite(str(file), resized)
    assert command("run", world.adapted, images, "--out", tmp_path / "out").code == 0
    sizes = {name: found.shape for name, found in label_maps(tmp_path / "out").items()}
    others = dict.fromkeys((path.name for path in images.iterdir()), (64, 96))
    assert sizes == {**others, first.name: (80, 48), second.name: (127, 193)}
    pairs = ("--images", images, "--labels", labels, "--json")
    assert command("eval", world.adapted, *pairs).json["frames"] == 4
    done = command("adapt", world.source, images, *BN_ONLY, "--out", tmp_path / "bn", "--json")
    assert done.json["frames"] == 4


def test_grey_alpha_and_16_bit_images_give_the_labels_of_their_8_bit_rgb(
    world: Any, command: Command, images: Path, tmp_path: Path
) -> None:
    rgb = read_image(sorted(images.iterdir())[0])
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    bgr = rgb[..., ::-1]
    odd, plain = tmp_path / "odd", tmp_path / "plain"
    for folder, files in (
        (odd, {"grey": grey, "alpha": np.dstack([bgr, grey]), "deep": bgr.astype(np.uint16) * 257}),
        (plain, {"grey": np.dstack([grey] * 3), "alpha": bgr, "deep": bgr}),
    ):
        folder.mkdir()
        for name, pixels in files.items():
            assert cv2.imwrite(str(folder / f"{name}.png"), pixels)
        assert (
            command("run", world.adapted, folder, "--out", tmp_path / f"{folder.name}.out").code
            == 0
        )
    found, expected = (label_maps(tmp_path / f"{name}.out") for name in ("odd", "plain"))
    assert sorted(found) == ["alpha.png", "deep.png", "grey.png"]
    for name, labels in expected.items():
        np.testing.assert_array_equal(found[name], labels)


def test_a_video_that_ends_early_is_segmented_as_far_as_it_goes_and_reported(
    world: Any, command: Command, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    random = np.random.default_rng(0)
    for _ in range(10):
        writer.write(random.integers(0, 256, (64, 96, 3), dtype=np.uint8))
    writer.release()
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    done = command("run", world.adapted, clip, "--out", tmp_path / "out", "--json")
    assert done.code == 0
    (sentence,) = done.json["skipped"]
    assert 0 < done.json["frames"] < 10
    assert f"{clip} ends early: {done.json['frames']} of 10 frames were read" in sentence
    assert sentence in done.err
    assert len(label_maps(tmp_path / "out")) == done.json["frames"]


# ---- labels --------------------------------------------------------------------------------------


def test_labels_that_do_not_fit_are_refused_by_eval_and_train(
    world: Any, refused: Refused, labels: Path, tmp_path: Path
) -> None:
    first = sorted(labels.iterdir())[0]
    good = first.read_bytes()
    for pixels, says in (
        (np.zeros((10, 20), np.uint8), ["labels are 20x10 and their frame is 96x64"]),
        (np.full((64, 96), 77, np.uint8), ["holds ids 77", "'cityscapes19'"]),
    ):
        assert cv2.imwrite(str(first), pixels)
        pairs = ("--images", world.dusk / "images", "--labels", labels)
        refused("eval", world.adapted, *pairs, says=[str(first), *says])
        refused(
            "train", *pairs, *SPACE, *NETWORK, *SIZE, "--out", tmp_path / "new", "--overwrite",
            says=[str(first), *says],
        )  # fmt: skip
        assert not (tmp_path / "new").exists()
    first.write_bytes(good[:-30])
    refused("eval", world.adapted, *pairs, says=[str(first)])
    first.unlink()
    refused("eval", world.adapted, *pairs, says=["1 of 4 images", first.name, "no label map"])


def test_labels_of_classes_that_no_label_map_reaches_are_refused(
    world: Any, refused: Refused, tmp_path: Path
) -> None:
    few = {"name": "few", "classes": ["a", "b"], "colours": [[0, 0, 1], [0, 0, 2]]}
    (tmp_path / "few.json").write_text(json.dumps(few))
    refused(
        "eval", world.adapted, *world.labelled, "--label-space", tmp_path / "few.json",
        says=["few (2 classes)", "cityscapes19 (19 classes)", "--label-map"],
    )  # fmt: skip


def test_label_files_of_another_space_than_was_named_are_refused(
    world: Any, refused: Refused
) -> None:
    refused(
        "eval", world.adapted, *world.labelled, "--label-space", "camvid11",
        says=["dusk_000100.png: holds ids ", "label space 'camvid11' has classes 0 to 10"],
    )  # fmt: skip


# ---- bundles -------------------------------------------------------------------------------------


def test_a_manifest_that_is_truncated_tampered_with_or_newer_is_refused_by_every_command(
    world: Any, refused: Refused, bundle: Path, tmp_path: Path
) -> None:
    manifest = bundle / "manifest.json"
    whole = manifest.read_text()
    for text, says in (
        (whole[: len(whole) // 2], ["truncated or not JSON", "restore the bundle"]),
        (whole.replace('"schema_version": 1', '"schema_version": 2'), ["newer", "upgrade"]),
        (whole.replace('"width": 96', '"width": -96'), ["input.width"]),
        (whole.replace('"colour": "rgb"', '"color": "rgb"'), ["input.color"]),
    ):
        manifest.write_text(text)
        frames = world.dusk / "images"
        for arguments in (
            ("info", bundle),
            ("eval", bundle, *world.labelled),
            ("run", bundle, frames, "--out", tmp_path / "out"),
            ("bench", bundle),
            ("export", bundle),
            ("adapt", bundle, frames, "--out", tmp_path / "out"),
        ):
            refused(*arguments, says=[str(manifest), *says])
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_a_file_changed_after_it_was_written_is_refused(
    world: Any, refused: Refused, bundle: Path, name: str
) -> None:
    file = bundle / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    refused("eval", bundle, *world.labelled, says=[str(file), "was changed after it was written"])
    file.write_bytes(content[:-1])
    refused("info", bundle, says=[str(file), "bytes"])
    file.unlink()
    refused("info", bundle, says=[str(file), "missing"])


def test_what_is_not_a_bundle_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    refused("info", tmp_path / "nope", says=["nope", "does not exist"])
    refused("info", tmp_path / "file", says=["file", "a bundle is a folder"])
    refused("bench", tmp_path / "folder", says=["folder", "no manifest.json"])


# ---- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_checkpoint_that_carries_code_is_refused_and_not_run(
    refused: Refused, unchanged: Unchanged, tmp_path: Path, wrapped: bool
) -> None:
    payload = Payload(tmp_path / "ran")
    weights = tmp_path / "evil.pth"
    torch.save(
        {"state_dict": {"weight": torch.zeros(1), "extra": payload}} if wrapped else payload,
        weights,
    )
    with unchanged():
        refused(
            "import", weights, *NETWORK, *SPACE, "--out", tmp_path / "new",
            says=["evil.pth", "mkdir", "would run code"],
        )  # fmt: skip


def test_a_file_that_is_no_checkpoint_is_refused(
    refused: Refused, unchanged: Unchanged, tmp_path: Path
) -> None:
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(b"not a checkpoint")
    with unchanged():
        for name in ("a.pth", "a.safetensors", "missing.pth"):
            refused(
                "import", tmp_path / name, *NETWORK, *SPACE, "--out", tmp_path / "new", says=[name]
            )


def test_weights_of_another_class_count_or_network_are_refused(
    world: Any, refused: Refused, unchanged: Unchanged, tmp_path: Path
) -> None:
    weights, out = world.source / "model.safetensors", ("--out", tmp_path / "new")
    with unchanged():
        refused(
            "import", weights, *NETWORK, "--label-space", "camvid11", *out,
            says=[str(weights), "19 classes", "camvid11 has 11"],
        )  # fmt: skip
        refused(
            "import", weights, "--network", "deeplab_v2_resnet101", *SPACE, *out,
            says=[str(weights), "DeepLabV2"],
        )  # fmt: skip
        refused(
            "train", "--images", world.day / "images", "--labels", world.day / "labels",
            "--label-space", "camvid11", *NETWORK, *SIZE, "--init", weights, *out,
            says=[str(weights), "19 classes", "camvid11 has 11"],
        )  # fmt: skip


def test_a_bundle_whose_label_space_does_not_match_its_weights_is_refused(
    world: Any, refused: Refused, unchanged: Unchanged, bundle: Path, tmp_path: Path
) -> None:
    """A manifest edited by hand: two classes fewer than the network has."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for key in ("classes", "colours"):
        del manifest["label_space"][key][-2:]
    for key in ("raw_ids", "synthia_ids"):
        del manifest["label_space"][key]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    out = ("--out", tmp_path / "new")
    with unchanged():
        refused(
            "adapt", bundle, world.dusk / "images", *out,
            says=["19 classes", "cityscapes19 has 17"],
        )  # fmt: skip
        refused("export", bundle, says=["19 classes", "cityscapes19 has 17"])


# ---- where results go ----------------------------------------------------------------------------


@pytest.fixture
def import_to(world: Any) -> Callable[..., tuple[object, ...]]:
    """The shortest command that writes a bundle."""
    weights = world.source / "model.safetensors"
    return lambda out, *more: ("import", weights, *NETWORK, *SPACE, *SIZE, "--out", out, *more)


def test_a_missing_or_impossible_output_folder_is_refused_before_any_work(
    world: Any,
    refused: Refused,
    unchanged: Unchanged,
    import_to: Callable[..., tuple[object, ...]],
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("a file, not a folder")
    frames = world.dusk / "images"
    labelled = ("--images", frames, "--labels", world.dusk / "labels")
    with unchanged():
        for parent in (tmp_path / "file", tmp_path / "no/such"):
            out = parent / "new"
            for arguments in (
                import_to(out),
                ("adapt", world.source, frames, "--out", out),
                ("train", *labelled, *SPACE, *NETWORK, *SIZE, "--out", out),
                ("run", world.adapted, frames, "--out", out),
                ("run", world.adapted, frames, "--out", parent / "clip.mp4"),
                ("demo", "--out", out),
            ):
                refused(*arguments, says=[f"{parent} is not an existing folder; create it first"])


def test_an_existing_bundle_is_replaced_only_with_overwrite(
    world: Any,
    command: Command,
    refused: Refused,
    unchanged: Unchanged,
    import_to: Callable[..., tuple[object, ...]],
    bundle: Path,
    tmp_path: Path,
) -> None:
    frames = world.dusk / "images"
    before = open_bundle(bundle).hash
    with unchanged():
        refused(*import_to(bundle), says=[str(bundle), "already exists", "--overwrite"])
        refused(
            "adapt", world.source, frames, "--out", bundle, says=["already exists", "--overwrite"]
        )
    assert command(*import_to(bundle, "--overwrite")).code == 0
    assert open_bundle(bundle).hash != before
    assert open_bundle(bundle).manifest.provenance.method == "import"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_is_no_bundle_is_never_replaced(
    refused: Refused,
    unchanged: Unchanged,
    import_to: Callable[..., tuple[object, ...]],
    tmp_path: Path,
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.jpg").write_bytes(b"precious")
    with unchanged():
        refused(*import_to(tmp_path / "photos", "--overwrite"), says=["never overwritten"])
        refused("demo", "--out", tmp_path / "photos", "--overwrite", says=["already exists"])


def test_run_refuses_an_existing_output_and_a_kind_of_file_that_it_does_not_write(
    world: Any, command: Command, refused: Refused, unchanged: Unchanged, tmp_path: Path
) -> None:
    run = ("run", world.adapted, world.dusk / "images", "--out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/keep.txt").write_text("x")
    (tmp_path / "clip.mp4").write_bytes(b"x")
    (tmp_path / "folder.mp4").mkdir()
    with unchanged():
        refused(*run, tmp_path / "out", says=["out: already exists", "--overwrite"])
        refused(*run, tmp_path / "clip.mp4", says=["clip.mp4: already exists", "--overwrite"])
        refused(*run, tmp_path / "clip.gif", says=["no .gif file is written"])
        refused(*run, tmp_path / "labels.PNG", says=["no .png file is written"])
        refused(*run, tmp_path / "clip.webm", says=["clip.webm", ".mp4"])
        refused(*run, tmp_path / "folder.mp4", "--overwrite", says=["folder.mp4: is a folder"])
    assert command(*run, tmp_path / "out", "--overwrite").code == 0
    assert (tmp_path / "out/keep.txt").exists()
    assert command(*run, tmp_path / "clip.mp4", "--overwrite").code == 0
    assert (tmp_path / "clip.mp4").stat().st_size > 1


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing reaches the disk: flushing a file fails as it does where there is no space."""

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_nothing_half_written(
    world: Any,
    refused: Refused,
    unchanged: Unchanged,
    import_to: Callable[..., tuple[object, ...]],
    bundle: Path,
    tmp_path: Path,
) -> None:
    frames = world.dusk / "images"
    says = ["free some space"]
    with unchanged():
        refused(*import_to(tmp_path / "new"), says=["new: the disk is full", *says])
        refused(*import_to(bundle, "--overwrite"), says=["bundle: the disk is full", *says])
        refused("adapt", world.source, frames, *BN_ONLY, "--out", tmp_path / "new", says=says)


def test_a_full_disk_stops_a_run_over_frames(
    world: Any,
    refused: Refused,
    unchanged: Unchanged,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    opened = Path.open

    def on_a_full_disk(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if mode == "wb":
            path.touch()
            path = Path("/dev/full")  # every write to it fails with ENOSPC
        return opened(path, mode, *more, **named)

    monkeypatch.setattr(Path, "open", on_a_full_disk)
    with unchanged():
        refused(
            "run", world.adapted, world.dusk / "images", "--out", tmp_path / "out",
            says=["the disk is full", "free some space"],
        )  # fmt: skip


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "tent2"], ["method 'tent2' is unknown", "iapc", "bn_stats"]),
        (["--set", "training.stepz=3"], ["training.stepz", "steps"]),
        (["--method", "iapc", "--set", "iapc.weight=1"], ["'weight'", "weight_pe"]),
        (["--set", "iapc.weight_pe=1"], ["settings of iapc", "--method iapc", "nightshift"]),
        (["--set", "training.steps=many"], ["training.steps", "'many'"]),
        (["--set", "training.lr=-1"], ["training.lr", "greater than 0"]),
        (["--set", "training.steps"], ["'training.steps'", "section.key=value"]),
        (["--method", "iapc", "--set", "iapc.variant=mine"], ["iapc.variant 'mine'", "paper"]),
        (["--config", "nope.toml"], ["nope.toml", "cannot be read"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--time-budget", "soon"], ["--time-budget 'soon'", "20m"]),
        (["--memory-budget", "lots"], ["--memory-budget 'lots'", "6GB"]),
        (["--checkpoint-every", "often"], ["--checkpoint-every 'often'", "90s"]),
        (["--device", "tpu"], ["'tpu'", "auto, cpu or cuda"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_adapt_names_the_argument_that_it_cannot_use(
    world: Any,
    refused: Refused,
    unchanged: Unchanged,
    tmp_path: Path,
    arguments: list[str],
    says: list[str],
) -> None:
    with unchanged():
        refused(
            "adapt", world.source, world.dusk / "images", "--out", tmp_path / "new", *arguments,
            says=says,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--network", "unet"], ["'unet'", "fast_scnn", "package.module:factory"]),
        (["--network", "nowhere:build"], ["'nowhere'", "install it"]),
        (["--label-space", "kitti"], ["'kitti'", "cityscapes19", "JSON"]),
        (["--input-size", "96 by 64"], ["--input-size '96 by 64'", "1024x512"]),
        (["--input-size", "16x16"], ["--input-size '16x16'", "at least 32x32"]),
        (["--colour", "grey"], ["--colour 'grey'", "rgb or bgr"]),
        (["--mean", "1,2"], ["--mean '1,2'", "a,b,c"]),
        (["--mean", "nan,1,2"], ["--mean 'nan,1,2'", "finite"]),
        (["--std", "1,0,1"], ["--std '1,0,1'", "positive"]),
        (["--std", ""], ["--std ''", "a,b,c"]),
        (["--argument", "width"], ["--argument 'width'", "key=value"]),
        (["--argument", "width=2"], ["'fast_scnn'", "'width'"]),
        (["--argument", "num_classes=2"], ["--argument 'num_classes=2'", "--label-space"]),
        (["--argument", "name=x"], ["'fast_scnn'", "argument 'name'"]),
        (["--argument", "when=2024-01-01"], ["--argument when=2024-01-01"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_import_names_the_argument_that_it_cannot_use(
    refused: Refused,
    unchanged: Unchanged,
    import_to: Callable[..., tuple[object, ...]],
    tmp_path: Path,
    arguments: list[str],
    says: list[str],
) -> None:
    with unchanged():
        refused(*import_to(tmp_path / "new", *arguments), says=says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--backend", "tvm"], ["'tvm'", "onnxruntime"]),
        (["--artefact", "model.plan"], ["'model.plan'", "model.onnx"]),
        (["--device", "tpu"], ["'tpu'", "auto, cpu or cuda"]),
        (["--label-space", "kitti"], ["'kitti'", "cityscapes19"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_eval_names_the_argument_that_it_cannot_use(
    world: Any, refused: Refused, arguments: list[str], says: list[str]
) -> None:
    refused("eval", world.adapted, *world.labelled, *arguments, says=says)


def test_export_and_bench_name_the_argument_that_they_cannot_use(
    world: Any, refused: Refused, unchanged: Unchanged
) -> None:
    with unchanged(world.adapted):
        refused("export", world.adapted, "--to", "onnx,tflite", says=["'onnx,tflite'", "onnx"])
        refused("export", world.adapted, "--to", "", says=["--to ''"])
    refused("bench", world.adapted, "--labels", world.dusk / "labels", says=["--frames"])


@pytest.mark.no_gpu
def test_cuda_is_refused_where_there_is_none(
    world: Any, refused: Refused, unchanged: Unchanged, tmp_path: Path
) -> None:
    frames, cuda = world.dusk / "images", ("--device", "cuda")
    labelled = ("--images", frames, "--labels", world.dusk / "labels")
    with unchanged():
        for arguments in (
            ("adapt", world.source, frames, "--out", tmp_path / "new", *cuda),
            ("train", *labelled, *SPACE, *NETWORK, "--out", tmp_path / "new", *cuda),
            ("eval", world.adapted, *labelled, *cuda),
            ("eval", world.source, *labelled, *cuda),
            ("run", world.adapted, frames, "--out", tmp_path / "new", *cuda),
            ("bench", world.adapted, *cuda),
        ):
            refused(*arguments, says=["cuda".upper(), "`roadshift doctor`"])
