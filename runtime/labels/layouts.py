"""Layouts of the papers' data sets on disk: their folders, and which ids their label files hold.

Facts from the data sets' own pages and READMEs: GTA5 (Richter et al., ECCV 2016),
SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016), Cityscapes (Cordts et al., CVPR 2016), NTHU
Cross-City (Chen et al., ICCV 2017), Foggy Cityscapes (Sakaridis et al., IJCV 2018), ACDC (Sakaridis
et al., ICCV 2021) and BDD100K (Yu et al., CVPR 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, FrameError
from ..folders.label_pairs import labelled_pairs
from ..words import shortened
from .file_ids import LabelIds


@dataclass(frozen=True)
class Layout:
    """Places of a data set's files, relative to its root; `*` stands for any folder.

    Attributes:
        name: of the layout, see `LAYOUTS`.
        title: of the data set.
        frames: folders of the images to adapt on.
        images: folders of the images to measure on.
        labels: the folder below which their label maps lie.
        ids: what the label files hold; None: their names say.
    """

    name: str
    title: str
    frames: str
    images: str
    labels: str
    ids: LabelIds | None = None

    def frame_folders(self, root: Path) -> list[Path]:
        """The folders of the images to adapt on.

        Raises:
            FrameError: there are none below ``root``.
        """
        return self._folders(root, self.frames)

    def labelled_pairs(self, root: Path) -> list[tuple[Path, Path]]:
        """The images to measure on, each with its label map.

        Raises:
            FrameError: there are none below ``root``.
            LabelError: images lack labels.
        """
        folders = self._folders(root, self.images)
        return [pair for images in folders for pair in labelled_pairs(images, root / self.labels)]

    def _folders(self, root: Path, pattern: str) -> list[Path]:
        if not root.is_dir():
            raise FrameError(f"{root} is no folder; give the one that holds {self.title}.")
        found = sorted(path for path in root.glob(pattern) if path.is_dir())
        if not found:
            raise FrameError(
                f"{root} holds no {pattern}, where {self.title} keeps its images; give the folder "
                "that this lies in."
            )
        return found


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("gta5", "GTA5", "images", "images", "labels", "raw"),
        Layout("synthia", "SYNTHIA-RAND-CITYSCAPES", "RGB", "RGB", "GT/LABELS", "synthia"),
        Layout("cityscapes", "Cityscapes", "leftImg8bit/train", "leftImg8bit/val", "gtFine"),
        Layout(
            "foggy_cityscapes",
            "Foggy Cityscapes",
            "leftImg8bit_foggy/train",
            "leftImg8bit_foggy/val",
            "gtFine",
        ),
        Layout("crosscity", "NTHU Cross-City", "Images/Train", "Images/Test", "Labels", "raw"),
        Layout("acdc", "ACDC", "rgb_anon/*/train", "rgb_anon/*/val", "gt"),
        Layout(
            "bdd100k",
            "BDD100K",
            "images/10k/train",
            "images/10k/val",
            "labels/sem_seg/masks",
            "train",
        ),
    )
}


def layout(name: str) -> Layout:
    """A layout by name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in LAYOUTS:
        raise ConfigError(
            f"there is no layout {shortened(name)!r}; choose one of {', '.join(LAYOUTS)}."
        )
    return LAYOUTS[name]
