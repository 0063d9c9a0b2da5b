"""Published class tables, as data; `spaces` builds the label spaces from them."""

Rgb = tuple[int, int, int]

# Cityscapes (Cordts et al., CVPR 2016), cityscapesscripts/helpers/labels.py, in train-id order;
# SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016), ids of its README.
CITYSCAPES: tuple[tuple[str, Rgb, int, int], ...] = (
    # class, colour, Cityscapes id, SYNTHIA id
    ("road", (128, 64, 128), 7, 3),
    ("sidewalk", (244, 35, 232), 8, 4),
    ("building", (70, 70, 70), 11, 2),
    ("wall", (102, 102, 156), 12, 21),
    ("fence", (190, 153, 153), 13, 5),
    ("pole", (153, 153, 153), 17, 7),
    ("traffic light", (250, 170, 30), 19, 15),
    ("traffic sign", (220, 220, 0), 20, 9),
    ("vegetation", (107, 142, 35), 21, 6),
    ("terrain", (152, 251, 152), 22, 16),
    ("sky", (70, 130, 180), 23, 1),
    ("person", (220, 20, 60), 24, 10),
    ("rider", (255, 0, 0), 25, 17),
    ("car", (0, 0, 142), 26, 8),
    ("truck", (0, 0, 70), 27, 18),
    ("bus", (0, 60, 100), 28, 19),
    ("train", (0, 80, 100), 31, 20),
    ("motorcycle", (0, 0, 230), 32, 12),
    ("bicycle", (119, 11, 32), 33, 11),
)

# The last output of networks with 20 (ESPNet, ESPNetv2), for pixels that Cityscapes does not label;
# its colour is ours, since black means "not labelled" in label pictures.
BACKGROUND: tuple[str, Rgb] = ("background", (64, 64, 64))

# Cityscapes classes that SYNTHIA does not label, and those that mIoU* leaves out as well.
NOT_IN_SYNTHIA = ("terrain", "truck", "train")
NOT_IN_13 = (*NOT_IN_SYNTHIA, "wall", "fence", "pole")

# Colours of Cityscapes' *_color.png that stand for no class: dynamic, ground, parking, rail track,
# guard rail, bridge, tunnel, caravan, trailer (polegroup, license plate have those of pole, car).
CITYSCAPES_VOID_COLOURS: tuple[Rgb, ...] = (
    (111, 74, 0),
    (81, 0, 81),
    (250, 170, 160),
    (230, 150, 140),
    (180, 165, 180),
    (150, 100, 100),
    (150, 120, 90),
    (0, 0, 90),
    (0, 0, 110),
)

# CamVid (Brostow et al., Pattern Recognition Letters 2009); the 11 classes of the SegNet tutorial,
# whose label maps hold 11 where nothing is labelled.
CAMVID: tuple[tuple[str, Rgb], ...] = (
    ("sky", (128, 128, 128)),
    ("building", (128, 0, 0)),
    ("pole", (192, 192, 128)),
    ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)),
    ("tree", (128, 128, 0)),
    ("signsymbol", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)),
    ("pedestrian", (64, 64, 0)),
    ("bicyclist", (0, 128, 192)),
)

# IDD-Lite (Mishra et al., NCVPRIPG 2019): level 1 of the classes of IDD (Varma et al., WACV 2019),
# in the colours of the data set's own example code.
IDD: tuple[tuple[str, Rgb], ...] = (
    ("drivable", (128, 64, 18)),
    ("non-drivable", (244, 35, 232)),
    ("living things", (220, 20, 60)),
    ("vehicles", (0, 0, 230)),
    ("roadside objects", (220, 190, 40)),
    ("far objects", (70, 70, 70)),
    ("sky", (70, 130, 180)),
)

# Which Cityscapes classes make up each class of a coarser label space; each is in one at most.
CAMVID_OF_CITYSCAPES: dict[str, tuple[str, ...]] = {
    "sky": ("sky",),
    "building": ("building",),
    "pole": ("pole",),
    "road": ("road",),
    "pavement": ("sidewalk",),
    "tree": ("vegetation", "terrain"),
    "signsymbol": ("traffic light", "traffic sign"),
    "fence": ("wall", "fence"),
    "car": ("car", "truck", "bus", "train"),
    "pedestrian": ("person",),
    "bicyclist": ("rider", "motorcycle", "bicycle"),
}
IDD_OF_CITYSCAPES: dict[str, tuple[str, ...]] = {
    "drivable": ("road",),
    "non-drivable": ("sidewalk", "terrain"),
    "living things": ("person", "rider"),
    "vehicles": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
    "roadside objects": ("wall", "fence", "pole", "traffic light", "traffic sign"),
    "far objects": ("building", "vegetation"),
    "sky": ("sky",),
}
