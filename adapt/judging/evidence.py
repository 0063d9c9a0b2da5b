"""Both models over the same frames, once: the scores that a verdict is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from ...runtime.errors import FrameError
from .distinct import DistinctFrames
from .resampling import Sums, Weights, interval
from .scores import (
    CONFIDENT,
    SND_PIXELS,
    area_lost,
    consistency,
    histogram_divergence,
    information_maximisation,
    soft_neighbourhood_density,
)
from .views import Image, Model, Said, Viewer, area, sums_of

BATCH = 4  # frames that batch norm's own statistics are taken over


@dataclass(frozen=True)
class Score:
    """A score of both models, or of the candidate against the incumbent.

    Attributes:
        incumbent: None where the score is of the pair.
        candidate: the candidate's, or the pair's.
        low, high: 95 % of the bootstrap over frames of the candidate's, or of its difference from
            the incumbent's; equal to it where a score is not a mean over frames.
    """

    incumbent: float | None
    candidate: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """Candidate's minus incumbent's; the pair's own where there is no such thing."""
        return self.candidate - (self.incumbent or 0.0)


@dataclass(frozen=True)
class Evidence:
    """What was seen of both models, without labels.

    Attributes:
        frames: how many, that are nearly the same picture counted once and looked at once.
        finite: whether all of the candidate's probabilities are numbers; if not, nothing else is.
        scores: by name, see `gather`.
        copies: frames left out, for they are nearly the same picture as one before.
        lost: share of its area that each class lost, of those that the incumbent and its second
            opinion both see, by class index.
    """

    frames: int
    finite: bool
    scores: dict[str, Score]
    lost: dict[int, float]
    copies: int = 0


@torch.no_grad()
def gather(
    incumbent: Model,
    candidate: Model,
    frames: Iterable[Image],
    device: torch.device,
    *,
    stop: Callable[[], None] = lambda: None,
    due: Callable[[], bool] = lambda: False,
    seed: int = 0,
) -> Evidence:
    """Scores of both models on the same frames and pixels; memory does not grow with the frames.

    Of both models: ``density``, ``information``, ``entropy``, ``flip``, ``zoom``, ``divergence``
    (of batch norm) and ``opinion``: the share of pixels on which the model agrees with the second
    opinion, the incumbent with batch norm's statistics of these very frames. Of the pair:
    ``histogram``, ``agreement`` (on pixels of which incumbent and second opinion are confident and
    of one mind), ``largest`` (the candidate's largest class, share of all pixels).

    Args:
        frames: uint8 RGB (H, W, 3), any size.
        stop: called before every batch; may raise.
        due: whether the time is over; asked after every batch.

    Raises:
        FrameError: there is no frame.
    """
    viewers = Viewer(incumbent, device), Viewer(candidate, device)
    gathered = _Gathered(incumbent.network.num_classes, seed)
    distinct, zoom = _Distinct(), True
    for batch in _batches(distinct.of(frames), BATCH):
        stop()
        inputs = [viewer.images(batch) for viewer in viewers]
        if not gathered.frames:
            pairs = zip(viewers, inputs, strict=True)
            zoom = all(viewer.takes_zoom(images) for viewer, images in pairs)
        images = inputs[0]
        old = viewers[0].say(images, zoom=zoom)
        grid = old.plain.shape[1], old.plain.shape[2]
        new = viewers[1].say(inputs[1], grid, zoom=zoom)
        gathered.add(old, new, viewers[0].second_opinion(images, grid))
        if not new.finite:
            return Evidence(gathered.frames, False, {}, {})
        if due():
            break
    if not gathered.frames:
        raise FrameError("No frame could be read to judge the models on.")
    divergences = [viewer.divergence() for viewer in viewers]
    scores, lost = gathered.scores(divergences), gathered.lost()
    return Evidence(gathered.frames, True, scores, lost, distinct.copies)


class _Distinct:
    """Frames without those that are nearly the same picture as one before."""

    def __init__(self) -> None:
        self.copies = 0

    def of(self, frames: Iterable[Image]) -> Iterator[Image]:
        seen = DistinctFrames()
        for frame in frames:
            if seen.is_new(frame):
                yield frame
            else:
                self.copies += 1


def _batches(frames: Iterable[Image], size: int) -> Iterator[list[Image]]:
    iterator = iter(frames)
    while batch := list(islice(iterator, size)):
        yield batch


class _Gathered:
    """Sums over the frames seen so far."""

    def __init__(self, classes: int, seed: int) -> None:
        self.frames, self._classes = 0, classes
        self._weights, self._seed = Weights(seed), seed
        self._models, self._pair = (Sums(), Sums()), Sums()
        self._pixels: Tensor | None = None

    def add(self, old: Said, new: Said, opinion: Tensor) -> None:
        count = len(old.p)
        weights = self._weights.draw(count)
        self.frames += count
        second = opinion.argmax(dim=1)
        for sums, said in zip(self._models, (old, new), strict=True):
            sums.add(
                weights,
                **sums_of(said),
                density=soft_neighbourhood_density(self._sampled(said.p)),
                opinion=(said.plain == second).double().mean(dim=(1, 2)),
            )
        sure = (old.p.amax(dim=1) >= CONFIDENT) & (opinion.amax(dim=1) >= CONFIDENT)
        sure &= old.plain == second
        kept = sure & (new.plain == old.plain)
        self._pair.add(
            weights,
            frames=torch.ones(count),
            sure=sure.double().sum(dim=(1, 2)),
            kept=kept.double().sum(dim=(1, 2)),
            area=area(second, self._classes),
        )

    def _sampled(self, p: Tensor) -> Tensor:
        """The same `SND_PIXELS` pixels of every frame and model, (B, N, K)."""
        flat = p.flatten(2).transpose(1, 2)
        if self._pixels is None:
            generator = torch.Generator().manual_seed(self._seed)
            chosen = torch.randperm(flat.shape[1], generator=generator)[:SND_PIXELS]
            self._pixels = chosen.to(p.device)
        return flat[:, self._pixels]

    def scores(self, divergences: Sequence[float]) -> dict[str, Score]:
        frames = self._pair["frames"].clamp(min=1)
        each = [self._of_one(sums, frames) for sums in self._models]
        found = {name: _paired(each[0][name], each[1][name]) for name in each[0]}
        found["divergence"] = Score(divergences[0], divergences[1], *[_drop(divergences)] * 2)
        areas = [sums["area"] / frames[:, None] for sums in self._models]
        sure = self._pair["sure"]
        agreement = torch.where(sure > 0, self._pair["kept"] / sure.clamp(min=1), torch.nan)
        return found | {
            "histogram": _alone(histogram_divergence(*areas)),
            "agreement": _alone(agreement),
            "largest": _alone(areas[1].amax(dim=1)),
        }

    def _of_one(self, sums: Sums, frames: Tensor) -> dict[str, Tensor]:
        entropy = sums["entropy"] / frames
        return {
            "density": sums["density"] / frames,
            "information": information_maximisation(
                sums["p"] / frames[:, None], entropy * math.log(self._classes)
            ),
            "entropy": entropy,
            "flip": consistency(sums["flip_both"], sums["flip_either"]),
            "zoom": _zoom(sums),
            "opinion": sums["opinion"] / frames,
        }

    def lost(self) -> dict[int, float]:
        """Against the smaller of the incumbent's and its second opinion's area, frames alike."""
        before = torch.minimum(self._models[0]["area"][0], self._pair["area"][0]) / self.frames
        after = self._models[1]["area"][0] / self.frames
        lost = area_lost(before, after)
        return {i: float(lost[i]) for i in range(self._classes) if before[i] >= LEAST_AREA}


LEAST_AREA = 0.002  # share of all pixels of a class whose loss is looked at


def _zoom(sums: Sums) -> Tensor:
    """NaN where there was no smaller view."""
    if "zoom_both" not in sums:
        return torch.full_like(sums["entropy"], torch.nan)
    return consistency(sums["zoom_both"], sums["zoom_either"])


def _drop(divergences: Sequence[float]) -> float:
    return divergences[1] - divergences[0]


def _alone(values: Tensor) -> Score:
    return Score(None, float(values[0]), *interval(values))


def _paired(old: Tensor, new: Tensor) -> Score:
    return Score(float(old[0]), float(new[0]), *interval(new - old))
