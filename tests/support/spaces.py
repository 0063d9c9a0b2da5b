"""Small label spaces."""

from __future__ import annotations

from roadshift.runtime.labels import LabelSpace

TWO = LabelSpace(name="two", classes=("dark", "light"), colours=((0, 0, 0), (255, 255, 255)))
FOUR = LabelSpace(
    name="four",
    classes=("road", "building", "sky", "car"),
    colours=((128, 64, 128), (70, 70, 70), (70, 130, 180), (0, 0, 142)),
)
