"""Parts of the page of an explanation that other pages do not have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from ...runtime.labels import LabelSpace
from ...runtime.reporting.html import Picture, text
from .frame_figures import Figure


def picture(file: PurePosixPath, figure: Figure) -> Picture:
    """A figure that lies in a file beside the page."""
    return Picture(str(file), figure.title, figure.caption, figure.alt)


def classes_legend(classes: Iterable[int], space: LabelSpace) -> str:
    """Colours and names of classes."""
    shown = "".join(
        f"<span><i style='background:#{bytes(space.colours[c]).hex()}'></i>"
        f"{text(space.classes[c])}</span>"
        for c in classes
    )
    return f"<p class='classes'>{shown}</p>\n"
