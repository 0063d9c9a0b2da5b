"""The papers' data sets in miniature, with their true folders, names, formats and ids.

Expected labels come by class name from other tables: cityscapesscripts, and SYNTHIA's README.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as cityscapes_labels
from PIL import Image
from roadshift.runtime.errors import ConfigError, FrameError, LabelError, LabelSpaceError
from roadshift.runtime.folders.folder_contents import folder_contents
from roadshift.runtime.folders.label_pairs import labelled_pairs
from roadshift.runtime.frames.images import write_image
from roadshift.runtime.labels import label_space, read_labels
from roadshift.runtime.labels.layouts import LAYOUTS, layout

SPACES = ("cityscapes19", "synthia16", "synthia13", "crosscity13")
RAW_NAMES = {label.id: label.name for label in cityscapes_labels if label.id >= 0}
TRAIN_NAMES = {label.trainId: label.name for label in cityscapes_labels if 0 <= label.trainId < 19}
SYNTHIA_NAMES = dict(
    enumerate(
        (
            *("void", "sky", "building", "road", "sidewalk", "fence", "vegetation", "pole", "car"),
            *("traffic sign", "person", "bicycle", "motorcycle", "parking-slot", "road-work"),
            *("traffic light", "terrain", "rider", "truck", "bus", "train", "wall", "lanemarking"),
        )
    )
)

IdMap = dict[int, str]


@dataclass(frozen=True)
class Miniature:
    """One labelled image of a data set, and one to adapt on, as the data set names them."""

    frame: str
    image: str
    labels: str
    names: IdMap  # of the ids that its label files may hold
    write: Callable[[Path, np.ndarray], None]


def write_grey(path: Path, ids: np.ndarray) -> None:
    assert cv2.imwrite(str(path), ids)


def write_gta5(path: Path, ids: np.ndarray) -> None:
    """Palette indices; the palette paints raw ids in Cityscapes' colours."""
    palette = np.zeros((256, 3), np.uint8)
    for label in cityscapes_labels:
        if label.id >= 0:
            palette[label.id] = label.color
    picture = Image.fromarray(ids)
    picture.putpalette(palette.tobytes())
    picture.save(path)
    assert path.read_bytes()[24:26] == bytes([8, 3])


def write_synthia(path: Path, ids: np.ndarray) -> None:
    """16 bits a channel: class in red, instance in green."""
    wide = ids.astype(np.uint16)
    instances = np.full_like(wide, 7)
    assert cv2.imwrite(str(path), np.stack([np.zeros_like(wide), instances, wide], axis=-1))
    assert path.read_bytes()[24:26] == bytes([16, 2])


MINIATURES = {
    "gta5": Miniature(
        "images/00001.png", "images/00001.png", "labels/00001.png", RAW_NAMES, write_gta5
    ),
    "synthia": Miniature(
        "RGB/0000000.png",
        "RGB/0000000.png",
        "GT/LABELS/0000000.png",
        SYNTHIA_NAMES,
        write_synthia,
    ),
    "cityscapes": Miniature(
        "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png",
        "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png",
        "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png",
        RAW_NAMES,
        write_grey,
    ),
    "foggy_cityscapes": Miniature(
        "leftImg8bit_foggy/train/aachen/aachen_000000_000019_leftImg8bit_foggy_beta_0.02.png",
        "leftImg8bit_foggy/val/lindau/lindau_000000_000019_leftImg8bit_foggy_beta_0.02.png",
        "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png",
        RAW_NAMES,
        write_grey,
    ),
    "crosscity": Miniature(
        "Images/Train/pano_00002_2_0.jpg",
        "Images/Test/pano_00001_2_180.png",
        "Labels/Test/pano_00001_2_180_eval.png",
        RAW_NAMES,
        write_grey,
    ),
    "acdc": Miniature(
        "rgb_anon/fog/train/GOPR0475/GOPR0475_frame_000041_rgb_anon.png",
        "rgb_anon/fog/val/GOPR0476/GOPR0476_frame_000854_rgb_anon.png",
        "gt/fog/val/GOPR0476/GOPR0476_frame_000854_gt_labelTrainIds.png",
        TRAIN_NAMES,
        write_grey,
    ),
    "bdd100k": Miniature(
        "images/10k/train/0004a4c0-d4dff0ad.jpg",
        "images/10k/val/7d2f7975-e0c1c5a7.jpg",
        "labels/sem_seg/masks/val/7d2f7975-e0c1c5a7.png",
        TRAIN_NAMES,
        write_grey,
    ),
}
BESIDE = {  # what else lies there and is no camera image
    "synthia": ["Depth/0000000.png", "GT/COLOR/0000000.png"],
    "cityscapes": ["gtFine/val/lindau/lindau_000000_000019_gtFine_color.png"],
    "foggy_cityscapes": ["gtFine/val/lindau/lindau_000000_000019_gtFine_color.png"],
    "acdc": ["rgb_anon/fog/val_ref/GOPR0476/GOPR0476_frame_000854_rgb_ref_anon.png"],
    "bdd100k": ["labels/sem_seg/colormaps/val/7d2f7975-e0c1c5a7.png"],
}
every_data_set = pytest.mark.parametrize("name", MINIATURES)
every_space = pytest.mark.parametrize("space_name", SPACES)


def all_ids(name: str) -> np.ndarray:
    """Every id of the data set, "not labelled" too, twice as high as wide."""
    ids = [*MINIATURES[name].names, 255]
    return np.tile(np.array(ids, np.uint8), (2 * len(ids), 1))


@pytest.fixture
def data(tmp_path: Path) -> Callable[[str], Path]:
    """``data(name)``: the root of that data set, with one image to adapt on and one labelled."""

    def make(name: str) -> Path:
        small, root = MINIATURES[name], tmp_path / "data" / name
        ids = all_ids(name)
        for file in (small.frame, small.image, small.labels, *BESIDE.get(name, [])):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            write_image(root / file, np.zeros((*ids.shape, 3), np.uint8))
        small.write(root / small.labels, ids)
        return root

    return make


def expected(name: str, space_name: str) -> list[int]:
    """Class index of each of `all_ids`, by the class's name."""
    classes = label_space(space_name).classes
    names = [*MINIATURES[name].names.values(), "not labelled"]
    return [classes.index(n) if n in classes else 255 for n in names]


@every_data_set
@every_space
def test_a_data_set_by_name_gives_the_classes_that_its_ids_name(
    data: Callable[[str], Path], name: str, space_name: str
) -> None:
    root = data(name)
    ((image, labels),) = layout(name).labelled_pairs(root)
    assert (image, labels) == (root / MINIATURES[name].image, root / MINIATURES[name].labels)
    read = read_labels(labels, label_space(space_name), ids=layout(name).ids)
    assert read[0].tolist() == expected(name, space_name)
    assert (read == read[0]).all()
    assert len({*read[0].tolist()} - {255}) == label_space(space_name).num_classes


@every_data_set
@every_space
def test_a_data_set_found_by_itself_gives_the_same(
    data: Callable[[str], Path], name: str, space_name: str
) -> None:
    root, small = data(name), MINIATURES[name]
    folders = {  # as people give --images and --labels
        (root / small.image, root / small.labels),
        ((root / small.image).parent, (root / small.labels).parent),
        (root / layout(name).images.replace("*", "fog"), root / layout(name).labels),
        (root / layout(name).images.replace("*", "fog"), root),
    }
    for images, labels in folders:
        if images.is_file():
            continue
        pairs = labelled_pairs(images, labels)
        assert pairs == [(root / small.image, root / small.labels)], (images, labels)
    read = read_labels(root / small.labels, label_space(space_name))
    assert read[0].tolist() == expected(name, space_name)


@every_data_set
def test_a_root_lists_its_camera_images_and_nothing_else(
    data: Callable[[str], Path], name: str
) -> None:
    root, small = data(name), MINIATURES[name]
    found = {str(path.relative_to(root)) for path in folder_contents(root, videos=False).files}
    assert found == {small.frame, small.image}


@every_data_set
def test_the_frames_to_adapt_on_are_the_training_images_alone(
    data: Callable[[str], Path], name: str
) -> None:
    root = data(name)
    folders = layout(name).frame_folders(root)
    found = [path for folder in folders for path in folder_contents(folder).files]
    assert found == [root / MINIATURES[name].frame]


@pytest.mark.parametrize("name", ["gta5", "synthia", "cityscapes", "crosscity"])
@every_space
def test_an_id_that_no_map_names_is_ignored_never_class_0(
    tmp_path: Path, name: str, space_name: str
) -> None:
    unknown = np.array([[i for i in range(256) if i not in MINIATURES[name].names]], np.uint8)
    path = tmp_path / "labels.png"
    MINIATURES[name].write(path, unknown)
    ids = layout(name).ids or "raw"
    assert set(read_labels(path, label_space(space_name), ids=ids).ravel()) == {255}


def test_of_foggy_cityscapes_three_fogs_the_thick_one_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "leftImg8bit_foggy/val/lindau"
    folder.mkdir(parents=True)
    for beta in ("0.005", "0.01", "0.02"):
        write_image(
            folder / f"lindau_1_leftImg8bit_foggy_beta_{beta}.png", np.zeros((4, 4, 3), "u1")
        )
    assert [path.stem[-4:] for path in folder_contents(tmp_path, videos=False).files] == ["0.02"]
    (folder / "lindau_1_leftImg8bit_foggy_beta_0.02.png").unlink()
    assert {path.stem[-5:] for path in folder_contents(tmp_path).files} == {"0.005", "_0.01"}


def test_cityscapes_beside_its_fog_is_cityscapes(data: Callable[[str], Path]) -> None:
    root = data("cityscapes")
    fog = root / "leftImg8bit_foggy/val/lindau"
    fog.mkdir(parents=True)
    clear = (root / MINIATURES["cityscapes"].image).read_bytes()
    (fog / "lindau_000000_000019_leftImg8bit_foggy_beta_0.02.png").write_bytes(clear)
    assert all("foggy" not in path.name for path in folder_contents(root, videos=False).files)
    assert layout("foggy_cityscapes").labelled_pairs(root)[0][1].name.endswith("_labelIds.png")


def test_all_conditions_of_acdc_are_taken_together(data: Callable[[str], Path]) -> None:
    root = data("acdc")
    for condition in ("night", "rain"):
        for folder in ("rgb_anon", "gt"):
            source, copy = root / folder / "fog/val", root / folder / condition / "val"
            for path in source.rglob("*.png"):
                target = copy / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    pairs = layout("acdc").labelled_pairs(root)
    assert [image.relative_to(root).parts[1] for image, _ in pairs] == ["fog", "night", "rain"]
    for image, labels in pairs:
        assert image.relative_to(root).parts[1:4] == labels.relative_to(root).parts[1:4]


def test_a_palette_of_train_ids_stays_plain(tmp_path: Path) -> None:
    """A label map as AdaptSegNet's evaluation writes it holds class indices, painted."""
    palette = np.zeros((256, 3), np.uint8)
    palette[:19] = label_space("cityscapes19").colours
    picture = Image.fromarray(np.array([[0, 7, 18]], np.uint8))
    picture.putpalette(palette.tobytes())
    picture.save(tmp_path / "a.png")
    assert read_labels(tmp_path / "a.png", label_space("cityscapes19")).tolist() == [[0, 7, 18]]


def test_what_the_caller_says_comes_before_what_the_file_says(tmp_path: Path) -> None:
    """GTA5's labels saved again without their palette; SYNTHIA's with one channel."""
    space, path = label_space("synthia16"), tmp_path / "00001.png"
    write_grey(path, np.array([[7, 8]], np.uint8))
    assert read_labels(path, space).tolist() == [[7, 8]]
    assert read_labels(path, space, ids="raw").tolist() == [[0, 1]]
    write_grey(path, np.array([[3, 22, 0]], np.uint8))
    assert read_labels(path, space, ids="synthia").tolist() == [[0, 255, 255]]
    write_gta5(path, np.array([[7, 8]], np.uint8))
    assert read_labels(path, space, ids="plain").tolist() == [[7, 8]]


def test_synthia_ids_need_a_label_space_that_maps_them(tmp_path: Path) -> None:
    write_synthia(tmp_path / "a.png", np.array([[3]], np.uint8))
    with pytest.raises(LabelSpaceError, match="camvid11' has no synthia_ids"):
        read_labels(tmp_path / "a.png", label_space("camvid11"))


def test_a_root_of_another_layout_is_refused_with_what_is_missing(
    data: Callable[[str], Path],
) -> None:
    root = data("cityscapes")
    with pytest.raises(FrameError, match=r"cityscapes holds no Images/Test, where NTHU Cross-City"):
        layout("crosscity").labelled_pairs(root)
    with pytest.raises(FrameError, match=r"holds no rgb_anon/\*/train, where ACDC"):
        layout("acdc").frame_folders(root)
    (root / MINIATURES["cityscapes"].labels).unlink()
    with pytest.raises(LabelError, match="1 of 1 images"):
        layout("cityscapes").labelled_pairs(root)


def test_an_unknown_layout_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no layout 'kitti'; choose one of gta5, .*bdd100k"):
        layout("kitti")
    assert set(LAYOUTS) == set(MINIATURES)
