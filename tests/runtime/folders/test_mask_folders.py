"""Pictures and label maps in one folder: label maps are left out, pictures never, doubt refused."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_folders import camera, make, regions, soft
from roadshift.runtime.errors import FrameError
from roadshift.runtime.folders.folder_contents import folder_contents
from roadshift.runtime.frames import open_frames

Files = list[tuple[str, str]]

# name: the camera's pictures, the rest. As the data sets' own pages and toolkits name them.
LAYOUTS: dict[str, tuple[Files, Files]] = {
    "mapillary v1.2": (
        [("training/images/{}.jpg", "camera")],
        [
            ("training/labels/{}.png", "colours"),
            ("training/instances/{}.png", "instances"),
            ("training/panoptic/{}.png", "colours"),
        ],
    ),
    "mapillary v2.0": (
        [("training/images/{}.jpg", "camera")],
        [
            ("training/v1.2/labels/{}.png", "colours"),
            ("training/v2.0/labels/{}.png", "colours"),
            ("training/v2.0/instances/{}.png", "instances"),
        ],
    ),
    "mmsegmentation": (
        [("img_dir/train/{}.jpg", "camera")],
        [("ann_dir/train/{}.png", "ids")],
    ),
    "ade20k challenge": (
        [("images/training/ADE_train_{}.jpg", "camera")],
        [("annotations/training/ADE_train_{}.png", "ids")],
    ),
    "ade20k": (
        [("training/street/ADE_train_{}.jpg", "camera")],
        [
            ("training/street/ADE_train_{}_seg.png", "colours"),
            ("training/street/ADE_train_{}_parts_1.png", "colours"),
            ("training/street/instance_000_ADE_train_{}.png", "binary"),
        ],
    ),
    "pascal voc": (
        [("JPEGImages/2007_{}.jpg", "camera")],
        [
            ("SegmentationClass/2007_{}.png", "colours"),
            ("SegmentationObject/2007_{}.png", "colours"),
        ],
    ),
    "kitti": (
        [("training/image_2/{}_10.png", "camera")],
        [
            ("training/semantic/{}_10.png", "ids"),
            ("training/semantic_rgb/{}_10.png", "colours"),
            ("training/instance/{}_10.png", "instances"),
        ],
    ),
    "kitti road": (
        [("training/image_2/um_{}.png", "camera")],
        [("training/gt_image_2/um_road_{}.png", "colours")],
    ),
    "camvid of segnet": (
        [("train/{}.png", "camera"), ("val/v{}.png", "camera")],
        [("trainannot/{}.png", "ids"), ("valannot/v{}.png", "ids")],
    ),
    "camvid": (
        [("701_StillsRaw_full/0001TP_{}.png", "camera")],
        [("LabeledApproved_full/0001TP_{}_L.png", "colours")],
    ),
    "camvid in one folder": (
        [("0001TP_{}.png", "camera")],
        [("0001TP_{}_L.png", "colours")],
    ),
    "supervisely": (
        [("ds0/img/{}.png", "camera")],
        [("ds0/masks_machine/{}.png", "ids"), ("ds0/masks_human/{}.png", "colours")],
    ),
    "roboflow": (
        [("train/{}_jpg.rf.0a1b2c.jpg", "camera")],
        [("train/{}_jpg.rf.0a1b2c_mask.png", "ids")],
    ),
    "carla challenge": (
        [("dataA/CameraRGB/{}.png", "camera")],
        [("dataA/CameraSeg/{}.png", "colours")],
    ),
    "carla": (
        [("rgb/{}.png", "camera")],
        [("semantic_segmentation/{}.png", "colours"), ("depth/{}.png", "camera")],
    ),
    "comma10k": (
        [("imgs/{}_a.png", "camera"), ("imgs2/{}_b.png", "camera")],
        [("masks/{}_a.png", "colours"), ("masks2/{}_b.png", "colours")],
    ),
    "cityscapes": (
        [("leftImg8bit/val/lindau/lindau_{}_leftImg8bit.png", "camera")],
        [
            ("gtFine/val/lindau/lindau_{}_gtFine_labelIds.png", "ids"),
            ("disparity/val/lindau/lindau_{}_disparity.png", "depth"),
        ],
    ),
    "idd in one folder": (
        [("{}_leftImg8bit.png", "camera")],
        [
            ("{}_gtFine_labellevel3Ids.png", "ids"),
            ("{}_gtFine_instancelevel3Ids.png", "instances"),
        ],
    ),
    "acdc": (
        [("rgb_anon/fog/train/G1/G1_{}_rgb_anon.png", "camera")],
        [("gt/fog/train/G1/G1_{}_gt_labelTrainIds.png", "ids")],
    ),
    "bdd100k of 2018": (
        [("seg/images/train/{}-a1.jpg", "camera")],
        [
            ("seg/labels/train/{}-a1_train_id.png", "ids"),
            ("seg/color_labels/train/{}-a1_train_color.png", "colours"),
        ],
    ),
    "synthia": (
        [("RGB/{}.png", "camera")],
        [
            ("GT/LABELS/{}.png", "ids"),
            ("GT/COLOR/{}.png", "colours"),
            ("Depth/{}.png", "depth"),
        ],
    ),
    "a2d2": (
        [("s1/camera/cam_front_center/2018_camera_frontcenter_{}.png", "camera")],
        [("s1/label/cam_front_center/2018_label_frontcenter_{}.png", "colours")],
    ),
    "apolloscape": (
        [("ColorImage/Record001/Camera 5/17_{}_Camera_5.jpg", "camera")],
        [
            ("Label/Record001/Camera 5/17_{}_Camera_5_bin.png", "ids"),
            ("Label/Record001/Camera 5/17_{}_Camera_5_instanceIds.png", "instances"),
        ],
    ),
    "apolloscape in one folder": (
        [("17_{}_Camera_5.jpg", "camera")],
        [("17_{}_Camera_5_bin.png", "ids"), ("17_{}_Camera_5_instanceIds.png", "instances")],
    ),
    "railsem19": (
        [("jpgs/rs19_val/rs{}.jpg", "camera")],
        [("uint8/rs19_val/rs{}.png", "ids")],
    ),
    "wilddash": (
        [("images/{}_100000.jpg", "camera")],
        [("labels/{}_100000.png", "ids"), ("instances/{}_100000.png", "instances")],
    ),
    "cvat camvid": (
        [("default/{}.png", "camera")],
        [("defaultannot/{}.png", "colours")],
    ),
    "label-studio": (
        [("{}.jpg", "camera")],
        [("task-{}-annotation-1-by-1-tag-road-0.png", "binary")],
    ),
    "virtual kitti": (
        [("S1/clone/frames/rgb/Camera_0/rgb_{}.jpg", "camera")],
        [
            ("S1/clone/frames/classSegmentation/Camera_0/classgt_{}.png", "colours"),
            ("S1/clone/frames/depth/Camera_0/depth_{}.png", "depth"),
        ],
    ),
    "viper": (
        [("train/img/001/001_{}.jpg", "camera")],
        [("train/cls/001/001_{}.png", "ids"), ("train/inst/001/001_{}.png", "colours")],
    ),
    "rugd": (
        [("RUGD_frames-with-annotations/creek/creek_{}.png", "camera")],
        [("RUGD_annotations/creek/creek_{}.png", "colours")],
    ),
    "rellis": (
        [("00000/pylon_camera_node/frame{}.jpg", "camera")],
        [("00000/pylon_camera_node_label_id/frame{}.png", "ids")],
    ),
    "realsense": (
        [("color/{}.png", "camera")],
        [("depth/{}.png", "depth")],
    ),
    "predictions beside": (
        [("{}.png", "camera")],
        [
            ("predictions/{}.png", "ids"),
            ("overlays/{}.jpg", "camera"),
            ("disparity/{}.png", "grey"),
        ],
    ),
    "roadshift's results": (
        [("drive/{}.png", "camera")],
        [("drive/out/labels/{}.png", "ids"), ("drive/out/overlays/{}.jpg", "camera")],
    ),
    "two kinds beside": (
        [("{}.png", "camera")],
        [("{}_label.png", "ids"), ("{}_color.png", "colours")],
    ),
    "one stem, two suffixes": ([("{}.jpg", "camera")], [("{}.png", "ids")]),
    "names that say nothing": ([("x/{}.png", "camera")], [("y/{}.png", "colours")]),
    "numbered folders": ([("0/{}.png", "camera")], [("1/{}.png", "ids")]),
    "empty masks": ([("0/img_{}.png", "camera")], [("0/img_{}-mask.png", "covered")]),
    "cityscapes as unpacked": (
        [("leftImg8bit_trainvaltest/leftImg8bit/val/ulm/ulm_{}_leftImg8bit.png", "camera")],
        [("gtFine_trainvaltest/gtFine/val/ulm/ulm_{}_gtFine_color.png", "colours")],
    ),
    "kitti-360": (
        [("data_2d_raw/d1_sync/image_00/data_rect/{}.png", "camera")],
        [
            ("data_2d_semantics/train/d1_sync/image_00/semantic/{}.png", "ids"),
            ("data_2d_semantics/train/d1_sync/image_00/confidence/{}.png", "grey"),
        ],
    ),
    "coco-stuff": (
        [("train2017/{}.jpg", "camera")],
        [("stuffthingmaps_trainvaltest2017/train2017/{}.png", "ids")],
    ),
    "culane": (
        [("driver_23_30frame/05151640_0419.MP4/{}.jpg", "camera")],
        [("laneseg_label_w16/driver_23_30frame/05151640_0419.MP4/{}.png", "ids")],
    ),
    "nuscenes": (
        [("samples/CAM_FRONT/n015-2018__CAM_FRONT__15{}.jpg", "camera")],
        [("maps/53992ee3023e5494b90c316c183be829{}.png", "binary")],
    ),
    "labelme": (
        [("frame{}_json/img.png", "camera")],
        [
            ("frame{}_json/label.png", "colours"),
            ("frame{}_json/label_viz.png", "camera"),
        ],
    ),
    "labelme to voc": (
        [("JPEGImages/{}.jpg", "camera")],
        [
            ("SegmentationClassPNG/{}.png", "colours"),
            ("SegmentationClassVisualization/{}.jpg", "camera"),
        ],
    ),
    "woodscape": (
        [("rgb_images/{}_FV.png", "camera")],
        [
            ("semantic_annotations/gtLabels/{}_FV.png", "ids"),
            ("semantic_annotations/rgbLabels/{}_FV.png", "colours"),
        ],
    ),
    "segments.ai": (
        [("{}.jpg", "camera")],
        [
            ("{}_label_ground-truth.png", "instances"),
            ("{}_label_ground-truth_semantic_colored.png", "colours"),
        ],
    ),
    "masks as JPEG": ([("road/{}.jpg", "camera")], [("road_mask/{}.jpg", "ids")]),
    "soft maps beside": (
        [("x/{}.png", "camera")],
        [
            ("uncertainty/{}.png", "soft"),
            ("heatmap/{}.png", "soft colours"),
            ("probs/{}.png", "blurred"),
            ("events/{}.png", "soft"),
            ("confidence/{}.png", "grey"),
        ],
    ),
    "soft maps whose names say nothing": (
        [("x/{}.png", "camera"), ("z/{}.png", "infrared")],
        [("y/{}.png", "soft"), ("w/{}.png", "soft colours")],
    ),
    "soft maps among their pictures": ([("0/{}.png", "grey")], [("1/{}.png", "soft")]),
    "kind in front": (
        [("rgb_{}.png", "camera")],
        [("seg_{}.png", "ids"), ("depth_{}.png", "depth")],
    ),
}


def taken(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in folder_contents(root, videos=False).files}


def named(files: Files, count: int = 4) -> set[str]:
    return {pattern.format(f"{i:04d}") for pattern, _ in files for i in range(count)}


@pytest.mark.parametrize("name", LAYOUTS)
def test_label_maps_of_a_layout_are_left_out_and_counted(tmp_path: Path, name: str) -> None:
    pictures, others = LAYOUTS[name]
    make(tmp_path, pictures + others)
    assert taken(tmp_path) == named(pictures)
    said: list[str] = []
    open_frames(tmp_path, on_skip=said.append)
    (sentence,) = said
    assert f"taken {4 * len(pictures)} pictures" in sentence
    assert f"left out {4 * len(others)} label maps and the like" in sentence


NAMES_OF_PICTURES = (
    "images",
    "img",
    "imgs",
    "rgb",
    "frames",
    "JPEGImages",
    "image_2",
    "drive",
    "a",
)
NAMES_OF_MASKS = (
    *("masks", "mask", "labels", "label", "annotations", "ann", "gt", "ground_truth", "seg"),
    *("SegmentationClass", "semantic", "road_masks", "labelIds", "images_labels", "panoptic"),
)
ENDINGS = ("_mask", "-mask", ".mask", "_label", "_labels", "_seg", "_gt", "_L", "_color", "_bin")


@settings(max_examples=60, deadline=None)
@given(
    pictures=st.sampled_from(NAMES_OF_PICTURES),
    masks=st.sampled_from(NAMES_OF_MASKS),
    above=st.sampled_from(("", "train/", "seq 1/cam_front/", "дорога/")),
    below=st.sampled_from(("", "/val", "/val/berlin", "/2024-01-01_12-00-00")),
    suffix=st.sampled_from((".jpg", ".png", ".JPG", ".bmp")),
    ending=st.sampled_from(("", *ENDINGS)),
    kind=st.sampled_from(("ids", "binary", "colours", "instances", "covered")),
)
def test_folders_of_masks_are_left_out_wherever_they_lie(
    pictures: str, masks: str, above: str, below: str, suffix: str, ending: str, kind: str
) -> None:
    camera_files = [(f"{above}{pictures}{below}/{{}}{suffix}", "camera")]
    mask_files = [(f"{above}{masks}{below}/{{}}{ending}.png", kind)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        make(root, camera_files + mask_files, count=2)
        assert taken(root) == named(camera_files, count=2)


@settings(max_examples=40, deadline=None)
@given(
    ending=st.sampled_from(ENDINGS),
    suffix=st.sampled_from((".jpg", ".png")),
    stem=st.sampled_from(("{}", "frame_{}", "2024-01-01T12.00.{}", "a b-{}", "{}_leftImg8bit")),
    kind=st.sampled_from(("ids", "binary", "colours", "instances")),
)
def test_masks_among_their_pictures_are_left_out(
    ending: str, suffix: str, stem: str, kind: str
) -> None:
    camera_files = [(f"{stem}{suffix}", "camera")]
    base = stem.removesuffix("_leftImg8bit")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        make(root, [*camera_files, (f"{base}{ending}.png", kind)], count=3)
        assert taken(root) == named(camera_files, count=3)


PICTURES = ("camera", "grey", "night", "night grey", "covered", "infrared", "dark infrared")


@pytest.mark.parametrize("kind", [*PICTURES, "depth", "soft", "blurred"])
@pytest.mark.parametrize("folder", ["", "images", "drive_7", "cam_front/rain", "thermal", "events"])
def test_pictures_alone_are_pictures(tmp_path: Path, kind: str, folder: str) -> None:
    make(tmp_path / "data" / folder, [("{}.png", kind)])
    assert len(taken(tmp_path / "data")) == 4
    assert folder_contents(tmp_path / "data").sentence is None


@pytest.mark.parametrize(
    "folders",
    [
        ("front", "rear"),
        ("image_2", "image_3"),
        ("seg_0", "seg_1"),
        ("drive", "drive2"),
        ("day", "night"),
        ("rgb", "thermal"),
        ("vis", "ir"),
        ("seg_3", "video1"),
        ("GT86", "left"),
        ("map_drive", "image_3"),
        ("x", "y"),
        ("rgb", "ir"),
        ("left", "right"),
    ],
)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        *itertools.product(("camera", "grey"), repeat=2),
        ("camera", "infrared"),
        ("infrared", "dark infrared"),
    ],
)
def test_cameras_whose_pictures_have_the_same_names_are_all_read(
    tmp_path: Path, folders: tuple[str, str], first: str, second: str
) -> None:
    make(tmp_path, [(f"{folders[0]}/{{}}.png", first), (f"{folders[1]}/{{}}.png", second)])
    assert len(taken(tmp_path)) == 8


@pytest.mark.parametrize("kind", ["night", "night grey", "covered", "depth"])
def test_night_thermal_and_covered_cameras_beside_others_are_read(
    tmp_path: Path, kind: str
) -> None:
    make(tmp_path, [("day/{}.jpg", "camera"), ("night/{}.png", kind)])
    assert len(taken(tmp_path)) == 8


def test_drawn_pictures_are_read_and_it_is_said(tmp_path: Path) -> None:
    make(tmp_path / "drive", [("{}.png", "colours")])
    contents = folder_contents(tmp_path / "drive")
    assert len(contents.files) == 4
    assert "4 of them have few flat colours" in str(contents.sentence)


@pytest.mark.parametrize("folder", ["labels_2024", "masks/img", "labels_2024/ir"])
@pytest.mark.parametrize("kind", [kind for kind in PICTURES if kind != "covered"])
def test_pictures_in_a_folder_named_like_label_maps_are_read(
    tmp_path: Path, folder: str, kind: str
) -> None:
    make(tmp_path / folder, [("{}.png", kind)])
    assert len(taken(tmp_path / folder)) == 4


@pytest.mark.parametrize("name", ["images", "labelled_images", "annotated_frames"])
def test_pictures_that_have_labels_are_pictures(tmp_path: Path, name: str) -> None:
    make(tmp_path, [(f"{name}/{{}}.jpg", "camera"), ("unlabeled_images/{}x.jpg", "camera")])
    assert len(taken(tmp_path)) == 8


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ([("a/{}.jpg", "camera"), ("b/k{}q8.png", "ids")], "no picture has their names"),
        ([("a/{}.jpg", "camera"), ("b/k{}q8.png", "colours")], "no picture has their names"),
        ([("a/{}.jpg", "camera"), ("a_mask/{}.png", "camera")], "named like label maps, and hold"),
        ([("a/{}.jpg", "camera"), ("result/{}.jpg", "camera")], "could be made of them"),
        ([("a/{}.jpg", "camera"), ("vis/{}.png", "camera")], "could be made of them"),
        ([("{}.png", "camera"), ("{}_vis.png", "camera")], "could be made of them"),
        ([("a/{}.jpg", "camera"), ("b/{}.jpg", "colours")], "could be maps"),
        ([("front/{}.jpg", "camera"), ("rear/{}.png", "colours")], "named like pictures, and look"),
        ([("a/{}.jpg", "camera"), ("b/{}.png", "covered")], "could be maps"),
        ([("{}.jpg", "camera"), ("{}.png", "grey")], "pictures beside them"),
        ([("a/{}.jpg", "camera"), ("b/{}.jpg", "soft")], "could be maps"),
        ([("a/{}.jpg", "camera"), ("b/{}.png", "blurred")], "could be maps"),
        ([("a/{}.jpg", "camera"), ("b/{}.jpg", "blurred")], "could be maps"),
        ([("a/{}.png", "blurred"), ("b/{}.png", "soft")], "could be maps"),
        ([("a/{}.jpg", "camera"), ("labels_2024/{}.png", "blurred")], "could be blurred pictures"),
        ([("rgb/{}.jpg", "camera"), ("ir/{}.png", "soft")], "named like pictures, and look"),
        ([("a/{}.jpg", "camera"), ("b/k{}q8.png", "soft")], "no picture has their names"),
        ([("a/{}.png", "camera"), ("a/x{}.png", "ids")], "partly pictures and partly"),
        ([("q/{}.jpg", "camera"), ("images/{}.png", "ids")], "named like pictures, and look"),
    ],
)
def test_doubt_is_refused_with_what_to_give(tmp_path: Path, files: Files, why: str) -> None:
    make(tmp_path, files)
    with pytest.raises(FrameError, match=rf"[48] files .*{why}.*give the folder of the frames"):
        open_frames(tmp_path)
    each = sorted(path for path in tmp_path.rglob("*.*g"))
    assert len(open_frames(each)) == 8  # the way out: files are read whatever they hold


@settings(max_examples=40, deadline=None)
@given(
    blur=st.floats(1.5, 40),
    contrast=st.sampled_from((1.0, 0.5, 0.25)),
    name=st.sampled_from(("y", "out", "events", "uncertainty", "scores_2", "heatmaps/val")),
    suffix=st.sampled_from((".png", ".bmp", ".jpg")),
)
def test_soft_maps_beside_pictures_are_never_taken(
    blur: float, contrast: float, name: str, suffix: str
) -> None:
    pictures: Files = [("x/{}.png", "camera")]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        make(root, pictures)
        (root / name).mkdir(parents=True)
        for i in range(4):
            path = root / name / f"{i:04d}{suffix}"
            of_suffix = 1.0 if suffix == ".jpg" else contrast  # a flat JPEG's noise is a camera's
            assert cv2.imwrite(str(path), soft(i, blur, of_suffix))
        try:
            found = taken(root)
        except FrameError as refusal:
            assert "give the folder of the frames alone" in str(refusal)  # noqa: PT017
        else:
            assert found == named(pictures)


@pytest.mark.parametrize("kind", ["ids", "binary", "colours", "covered", "soft"])
@pytest.mark.parametrize("name", ["masks", "SegmentationClass/val", "trainannot", "data/ann"])
def test_a_folder_of_label_maps_alone_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    make(tmp_path / name, [("{}.png", kind)])
    with pytest.raises(FrameError, match=r"holds label maps and no pictures: its 4 .*\*\.png\."):
        open_frames(tmp_path / name)
    assert len(open_frames(sorted((tmp_path / name).iterdir()))) == 4


@pytest.mark.parametrize("name", ["drive", "images", "x"])
def test_ids_alone_are_refused_whatever_the_folder_is_called(tmp_path: Path, name: str) -> None:
    make(tmp_path / name, [("{}.png", "ids")])
    with pytest.raises(FrameError, match="holds label maps and no pictures"):
        open_frames(tmp_path / name)


def test_masks_beside_a_damaged_or_missing_picture_are_still_left_out(tmp_path: Path) -> None:
    make(tmp_path, [("a/{}.png", "camera"), ("b/{}.png", "ids")], count=8)
    (tmp_path / "a/0003.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "a/0004.png").unlink()
    (tmp_path / "b/0002.png").write_bytes(b"")
    assert {name[0] for name in taken(tmp_path)} == {"a"}
    assert len(taken(tmp_path)) == 7


def test_named_label_maps_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, [("images/{}.png", "camera"), ("masks/{}.png", "ids")])
    opened: list[str] = []
    real = Path.open

    def spy(self: Path, *args: object, **kwargs: object) -> object:
        if self.is_relative_to(tmp_path):  # an engine's thread of another test reads /proc
            opened.append(self.parent.name)
        return real(self, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", spy)
    assert len(folder_contents(tmp_path, videos=False).files) == 4
    assert set(opened) == {"images"}


def test_few_files_are_looked_at_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = cv2.imencode(".png", camera(0))[1].tobytes(), cv2.imencode(".png", regions(0))[1]
    for folder, content in zip(("a", "b"), data, strict=True):
        (tmp_path / folder).mkdir()
        for i in range(200):
            (tmp_path / folder / f"{i}.png").write_bytes(bytes(content))
    decoded: list[int] = []
    real = cv2.imdecode

    def spy(data: np.ndarray, flags: int) -> np.ndarray:
        decoded.append(len(data))
        return real(data, flags)

    monkeypatch.setattr(cv2, "imdecode", spy)
    assert len(folder_contents(tmp_path, videos=False).files) == 200
    assert len(decoded) <= 14
