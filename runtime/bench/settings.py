"""Settings of a bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, arg
from ..given import above_zero, whole_of
from ..labels import LabelSpace
from .loop import Limit
from .targets import choose_backends

QUERIES = 200


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """Settings of `bench_bundle`: what is measured, and how.

    Attributes:
        frames: a folder, an image or a video; random textures unless given.
        labels: the folder of the frames' label maps.
        label_space: of the label maps; each bundle's own unless given.
        label_map: a JSON file, from the bundles' classes to those of ``label_space``; a built-in
            one unless given, see `LabelSpace.map_to`.
        queries: timed frames of a row, at least; 200 if ``duration_s`` is not given either.
        duration_s: seconds of a row, at least.
        warmup: queries of a row that are not counted; None: until they get no faster.
        camera_fps: frames arrive at this rate; None is a closed loop.
        rounds: rows take turns so many times; with 1 they run one after the other, and no engine is
            open while another is measured, for machines with little memory.
        backends: "auto", "all", a name or several, see `choose_backends`.
        device: "cpu", "cuda" or "auto", which is both.
        threads: CPU threads of each engine; None takes the cores of this process.

    Raises:
        ConfigError: a value is out of range, or there are labels without frames, a label space
            without labels or a label map without a label space.
    """

    frames: str | Path | None = None
    labels: str | Path | None = None
    label_space: LabelSpace | None = None
    label_map: str | Path | None = None
    queries: int | None = None
    duration_s: float | None = None
    warmup: int | None = None
    camera_fps: float | None = None
    rounds: int = 5
    backends: str | Sequence[str] = "auto"
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        check_limits(self.queries, self.warmup, self.duration_s, self.camera_fps)
        if self.labels is not None and self.frames is None:
            raise ConfigError(
                f"Labels need the frames that they belong to; give {arg('frames')} as well."
            )
        if self.label_space is not None and self.labels is None:
            raise ConfigError(f"A label space is that of label maps; give {arg('labels')} as well.")
        if self.label_map is not None and self.label_space is None:
            raise ConfigError(
                f"The label map {self.label_map} leads to classes of labels; say which these are "
                f"with {arg('label_space')}."
            )
        whole_of("rounds", self.rounds)
        choose_backends(self.backends)

    @property
    def limit(self) -> Limit:
        """Limit at which a row is done."""
        default = QUERIES if self.duration_s is None else None
        return Limit(self.queries or default, self.duration_s)


def check_limits(
    queries: int | None, warmup: int | None, duration_s: float | None, camera_fps: float | None
) -> None:
    """Raise `ConfigError` for a number that no bench can run with."""
    if queries is not None:
        whole_of("queries", queries)
    if warmup is not None:
        whole_of("warmup", warmup, least=0)
    above_zero("duration_s", duration_s)
    above_zero("camera_fps", camera_fps)
