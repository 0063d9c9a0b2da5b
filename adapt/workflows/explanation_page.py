"""The page of `roadshift explain`: figures over all frames, tables, and each frame's section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from ... import __version__
from ...runtime.atomic import write_whole
from ...runtime.bundle import Bundle
from ...runtime.errors import MissingDependencyError
from ...runtime.frames.images import Image, write_image
from ...runtime.reporting.html import Section, facts, page, paragraphs, table
from ...runtime.words import counted
from ..explaining.feature_plane import check_scikit_learn, plane_of, why_not
from ..explaining.frame_figures import Figure
from ..explaining.page import classes_legend, picture
from ..explaining.pictures import ascii_of, scatter
from ..explaining.totals import Totals, percent_of
from ..models.loading import device_name
from ..run.events import Events
from ..run.work import Work
from .bar_chart import Bar, bar_chart

FromAll = list[tuple[PurePosixPath, Figure]]  # figures over all frames, by their file
_GREY, _BLUE = (160, 160, 160), (76, 114, 176)  # of the first model, of the last
_LEAST_SHARE = 0.05  # percent; a class with less is left out of the chart


@dataclass
class FiguresOfFrame:
    """A frame's pictures.

    Attributes:
        folder: of them, in the folder of the page.
        name: of the frame.
        differ: percent of the pixels on which the models differ.
        consistent: percent of the pixels on which each model agrees with its prototypes.
    """

    folder: str
    name: str
    differ: float | None
    consistent: Mapping[str, float]
    figures: list[Figure] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """The frame as JSON values."""
        return {
            "name": self.name,
            "differ": self.differ,
            "consistent": dict(self.consistent),
            "figures": {one.key: str(self.file(one)) for one in self.figures},
            "captions": {one.key: f"{one.title}. {one.caption}" for one in self.figures},
        }

    def file(self, figure: Figure) -> PurePosixPath:
        """Path of a picture from the page."""
        return PurePosixPath(self.folder, f"{figure.key}.png")


def overall_figures(
    totals: Totals, bundle: Bundle, method: str, seed: int, folder: Path, events: Events
) -> tuple[FromAll, dict[str, str]]:
    """Write the figures over all frames.

    Returns:
        the figures, and why others are missing, by figure.
    """
    figures: FromAll = []

    def write(figure: Figure, picture: Image) -> None:
        file = PurePosixPath(f"{figure.key}.png")
        write_image(folder / file, picture)
        figures.append((file, figure))

    write(*_class_shares(totals, bundle.label_space.classes))
    missing = {}
    if len(totals.pixels) > 1:
        write(*_rank_histogram(totals))
    else:
        missing["rank histogram"] = "it takes a source model to rank the classes"
    without = " and ".join(sorted(totals.without_features))
    if without and method in ("iapc", "all"):
        missing["prototypes"] = f"the network of {without} gives no features"
    reason = _plane(totals, bundle, seed, events, write)
    if reason:
        missing["t-SNE"] = reason
    for figure, why in missing.items():
        events.note(f"without {figure}: {why.rstrip('.')}")
    return figures, missing


def _class_shares(totals: Totals, classes: Sequence[str]) -> tuple[Figure, Image]:
    shares = {name: percent_of(counts) for name, counts in totals.pixels.items()}
    last, bars = list(shares)[-1], []
    for i, label in enumerate(classes):
        if max(share[i] for share in shares.values()) >= _LEAST_SHARE:
            bars += [
                Bar(
                    ascii_of(f"{label}: {name}" if len(shares) > 1 else label),
                    share[i],
                    colour=_BLUE if name == last else _GREY,
                )
                for name, share in shares.items()
            ]
    figure = Figure(
        "class-share",
        "Share of the pixels",
        f"Percent of all pixels that each class gets; classes below {_LEAST_SHARE:g} % are in the "
        "table alone.",
        f"Bars of the percent of all pixels for each class, by {' and '.join(shares)}; the table "
        "has the numbers",
    )
    return figure, bar_chart(bars, "Percent of all pixels", None)


def _rank_histogram(totals: Totals) -> tuple[Figure, Image]:
    ranks = percent_of(totals.ranks)
    last = max(i for i, share in enumerate(ranks) if share > 0)
    figure = Figure(
        "ranks",
        "Rank of the adapted model's class with the source model",
        "Percent of all pixels whose class by the adapted model is the first, second, ... "
        "likeliest of the source model. A histogram of the kind of LD's Fig. 2; that one has the "
        "rank of the true class, and no label is used here.",
        "Bars of the percent of all pixels by rank: "
        + ", ".join(f"rank {i + 1} {share:.1f}" for i, share in enumerate(ranks[: last + 1])),
    )
    bars = [Bar(f"rank {i + 1}", share, colour=_BLUE) for i, share in enumerate(ranks[: last + 1])]
    return figure, bar_chart(bars, "Percent of all pixels, by the source model's rank", None)


def _plane(totals: Totals, bundle: Bundle, seed: int, events: Events, write: Any) -> str:
    """Write the figure of t-SNE; give the reason where it cannot be made."""
    sampled = {n: s for n, s in totals.samples.items() if n not in totals.without_features}
    if not sampled:
        return f"the network of {' and '.join(totals.samples)} gives no features"
    try:
        check_scikit_learn()
    except MissingDependencyError as error:
        return str(error)
    clouds = {}
    with Work(events=events).phase("t-SNE", len(sampled), "models") as done:
        for name, sample in sampled.items():
            events.stop_if_requested()
            reason = why_not(sample.features)
            if reason:
                return f"{name}: {reason}"
            clouds[name] = plane_of(sample.features, seed), sample.labels
            done(len(clouds))
    points = ", ".join(f"{name} {len(labels)}" for name, (_, labels) in clouds.items())
    figure = Figure(
        "features",
        "Features in a plane",
        f"t-SNE of features at positions drawn from all frames ({points}; seed {seed}), in the "
        "colour of the class that the model predicts there. Each model has a plane of its own; "
        "distances between groups say little.",
        f"Dots in a plane, in the colours of their predicted classes: {points}",
    )
    write(figure, scatter(clouds, bundle.label_space))
    return ""


def write_page(
    path: Path,
    record: Mapping[str, Any],
    bundles: Mapping[str, Bundle],
    frames: Sequence[FiguresOfFrame],
    figures: FromAll,
    *,
    device: torch.device,
) -> None:
    """Write the page.

    Args:
        record: of the `Explanation`.
        bundles: by the names of their models.
        figures: over all frames.
    """
    space = next(iter(bundles.values())).label_space
    models = list(bundles)
    shares = record["class_share"]
    rows = [[label, *(shares[label][name] for name in models)] for label in space.classes]
    columns = ["class", *(f"{name}, %" for name in models)]
    in_numbers = table("Percent of all pixels by class", columns, rows)
    sections = [
        Section("Models and frames", body=_facts(record, bundles, frames, device)),
        *_missing(record),
        Section("Classes", body=classes_legend(range(space.num_classes), space)),
        Section("Over all frames", pictures=[picture(*one) for one in figures], name="all"),
        Section("Share of the pixels, in numbers", body=in_numbers, name="share"),
        *(
            Section(
                f"Frame {one.name}",
                pictures=[picture(one.file(figure), figure) for figure in one.figures],
                name=one.folder,
                of_a_frame=True,
            )
            for one in frames
        ),
    ]
    title = f"{Path(record['bundle']).resolve().name}, explained on {counted(len(frames), 'frame')}"
    write_whole(path, page(title, sections).encode())


def _facts(
    record: Mapping[str, Any],
    bundles: Mapping[str, Bundle],
    frames: Sequence[FiguresOfFrame],
    device: torch.device,
) -> str:
    rows = [
        (
            name,
            f"{one.path}, {one.manifest.network.name} by {one.manifest.provenance.method}, "
            f"{one.hash[:12]}, sees {one.manifest.input.width}x{one.manifest.input.height}",
        )
        for name, one in bundles.items()
    ]
    if len(bundles) == 1:
        rows.append(("teacher", "the model itself, since no source model was given"))
    rows += [
        ("frames", f"{len(frames)}: {', '.join(one.name for one in frames)}"),
        ("labels", "none was read"),
        (
            "models' roles",
            "Importance is the teacher's. Prototypes are each model's own, of its own features "
            "and labels, where IAPC takes those of a moving average, which no bundle keeps.",
        ),
        ("made by", f"roadshift {__version__} explain, torch {torch.__version__}, "
                    f"{device_name(device)}, {record['seconds']:.1f} s"),
    ]  # fmt: skip
    return facts(rows)


def _missing(record: Mapping[str, Any]) -> list[Section]:
    sentences = [f"Without {figure}: {why}" for figure, why in record["missing"].items()]
    sentences += record["skipped"]
    return [Section("Not on this page", body=paragraphs(sentences))] if sentences else []
