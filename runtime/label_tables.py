"""Published class tables, as data; `labels` builds the label spaces from them."""

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
