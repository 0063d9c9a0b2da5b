"""Figures of one frame: what each shows, in words and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...runtime.frames.images import Image
from ...runtime.labels import LabelSpace
from ..methods.ld_config import LdConfig
from .frame_maps import NEGATIVE_BELOW, POSITIVE_SHARE, ModelMaps, complementary_rank
from .pictures import (
    class_mask,
    heat_row,
    label_panels,
    rows,
    side_by_side,
    small_multiples,
)

METHODS = ("iapc", "ld", "atp")
POSITIVE_SHARES = {"atp": POSITIVE_SHARE, "ld": LdConfig().class_share}  # eq. 4, eq. 2
Maps = Mapping[str, ModelMaps]  # by model: "source" and "adapted", or "model"


@dataclass(frozen=True)
class Figure:
    """One picture of the page.

    Attributes:
        key: names its file.
        title, caption: for people.
        alt: says what the picture shows to who does not see it.
    """

    key: str
    title: str
    caption: str
    alt: str


Drawn = tuple[Figure, Image]


def frame_figures(frame: Image, maps: Maps, method: str, space: LabelSpace) -> Iterator[Drawn]:
    """The figures of a frame that need no other frame, in the order of the page.

    Args:
        frame: RGB (H, W, 3), at the size of the maps.
        maps: of the teacher first.
        method: one of `METHODS`, or "all".
    """
    yield (
        Figure(
            "frame", "Frame", "The frame at the size that the model sees.", "The camera's picture"
        ),
        frame,
    )
    yield _labels(frame, maps, space)
    yield _two_largest(maps)
    yield _entropy(maps)
    own: dict[str, Callable[[], Iterator[Drawn]]] = {
        "iapc": lambda: _iapc(maps, space),
        "ld": lambda: iter([_complementary(maps, space)]),
        "atp": lambda: iter([_negatives(maps, space)]),
    }
    for name in METHODS:
        if method in (name, "all"):
            yield from own[name]()


def positive_figure(
    method: str, labels: Mapping[str, Image], chosen: Mapping[str, NDArray[np.bool_]],
    space: LabelSpace,
) -> Drawn:  # fmt: skip
    """The pseudo-labels that reach the threshold of their class, as "atp" or "ld" has it.

    Args:
        labels: (H, W), by model.
        chosen: the pixels that have a positive label.
    """
    share, equation = POSITIVE_SHARES[method], {"atp": "ATP eq. 4", "ld": "LD eq. 2"}[method]
    said = _percents(chosen)
    figure = Figure(
        f"{method}-positive",
        f"Positive pseudo-labels, {method.upper()}",
        f"Pixels among the most confident {100 * share:g} % of their class over the frames of this "
        f"page ({equation}), in the colour of the class; the others are hatched. Share: {said}.",
        f"Pixels with a positive pseudo-label: {said}",
    )
    return figure, side_by_side(
        [(name, class_mask(labels[name], chosen[name], space)) for name in labels]
    )


# --- figures of every method ---


def _labels(frame: Image, maps: Maps, space: LabelSpace) -> Drawn:
    labels = {name: one.labels for name, one in maps.items()}
    if len(labels) == 1:
        caption = alt = "Label map of the model over the frame"
    else:
        before, after = labels.values()
        alt = "Label maps of the source and of the adapted model over the frame"
        caption = (
            f"{alt}; right, the pixels on which they differ in the colour of the adapted model's "
            f"class: {_percent(before != after)}"
        )
        alt += f"; they differ on {_percent(before != after)} of the pixels"
    return Figure("labels", "Label maps", f"{caption}.", alt), label_panels(frame, labels, space)


def _two_largest(maps: Maps) -> Drawn:
    means = ", ".join(
        f"{name} {one.first.mean():.2f} and {one.second.mean():.2f}" for name, one in maps.items()
    )
    figure = Figure(
        "top2",
        "The two largest probabilities",
        f"First and second probability of each pixel; means: {means}.",
        f"Heat maps of the first and the second probability; means: {means}",
    )
    drawn = [
        heat_row({f"{name}: first": one.first, f"{name}: second": one.second}, (0.0, 1.0))
        for name, one in maps.items()
    ]
    return figure, rows(drawn)


def _entropy(maps: Maps) -> Drawn:
    means = ", ".join(f"{name} {one.entropy.mean():.3f}" for name, one in maps.items())
    figure = Figure(
        "entropy",
        "Entropy",
        f"Entropy of the probabilities, divided by that of all classes alike; means: {means}.",
        f"Heat maps of the entropy; means: {means}",
    )
    return figure, heat_row({name: one.entropy for name, one in maps.items()}, (0.0, 1.0))


# --- IAPC ---


def _iapc(maps: Maps, space: LabelSpace) -> Iterator[Drawn]:
    teacher, importance = next((name, one.importance) for name, one in maps.items())
    figure = Figure(
        "importance",
        "Importance map, IAPC",
        f"1 - second / first probability of the teacher ({teacher}), the weight of its "
        f"pseudo-labels (IAPC eq. 4); mean {importance.mean():.2f}.",
        f"Heat map of the importance of each pseudo-label, mean {importance.mean():.2f}",
    )
    yield figure, heat_row({f"{teacher}: importance": importance}, (0.0, 1.0))
    if all(one.prototypes is not None for one in maps.values()):
        yield _consistency(maps, space)
    name, student = list(maps.items())[-1]
    if student.prototypes is not None:
        yield _similarity(name, student, space)


def _consistency(maps: Maps, space: LabelSpace) -> Drawn:
    masks = {
        name: one.labels == one.prototypes.labels
        for name, one in maps.items()
        if one.prototypes is not None
    }
    said = _percents(masks)
    figure = Figure(
        "consistency",
        "Consistency of student and prototypes, IAPC",
        "Pixels whose class is also that of the likest prototype of the frame (y = y' of IAPC "
        f"eq. 13), in its colour; the others are hatched. Share: {said}.",
        f"Pixels on which the class and the likest prototype agree: {said}",
    )
    drawn = [(name, class_mask(maps[name].labels, mask, space)) for name, mask in masks.items()]
    return figure, side_by_side(drawn)


def _similarity(name: str, maps: ModelMaps, space: LabelSpace) -> Drawn:
    assert maps.prototypes is not None
    found = np.flatnonzero(maps.prototypes.present).tolist()
    similarity = {space.classes[c]: maps.prototypes.similarity[c] for c in found}
    values = maps.prototypes.similarity[found]
    span = float(values.min()), float(values.max())
    figure = Figure(
        "similarity",
        "Likeness to the prototype of each class, IAPC",
        f"Cosine of the features of {name} and the mean feature of each class that occurs in the "
        "frame. (Eq. 10 has dot products, the authors' code cosines, which have one scale.)",
        f"Heat maps of the likeness to the prototypes of {', '.join(similarity)}",
    )
    return figure, small_multiples(similarity, span)


# --- negative labels ---


def _complementary(maps: Maps, space: LabelSpace) -> Drawn:
    rank = complementary_rank(space.num_classes)
    spread = LdConfig().rank_spread
    everywhere = np.ones_like(next(iter(maps.values())).labels, dtype=bool)
    figure = Figure(
        "ld-complementary",
        "Complementary labels, LD",
        f"The class of rank {rank} of {space.num_classes}, which the pixel is said not to be (LD "
        f"Algorithm 1, which draws the rank up to {spread} higher or lower).",
        f"The class of rank {rank} of each pixel, in its colour",
    )
    return figure, side_by_side(
        [(name, class_mask(one.complementary, everywhere, space)) for name, one in maps.items()]
    )


def _negatives(maps: Maps, space: LabelSpace) -> Drawn:
    means = ", ".join(f"{name} {one.negatives.mean():.1f}" for name, one in maps.items())
    figure = Figure(
        "atp-negative",
        "Negative pseudo-labels, ATP",
        f"Number of the {space.num_classes} classes whose probability is below {NEGATIVE_BELOW:g}, "
        f"which the pixel is said not to be (ATP eq. 6); means: {means}.",
        f"Heat maps of the number of negative labels of each pixel; means: {means}",
    )
    span = (0.0, float(space.num_classes))
    counts = {name: one.negatives.astype(np.float32) for name, one in maps.items()}
    return figure, heat_row(counts, span)


def _percents(masks: Mapping[str, NDArray[np.bool_]]) -> str:
    return ", ".join(f"{name} {_percent(mask)}" for name, mask in masks.items())


def _percent(mask: NDArray[np.bool_]) -> str:
    return f"{100 * float(mask.mean()):.1f} %"
