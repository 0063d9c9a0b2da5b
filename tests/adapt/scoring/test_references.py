"""The incumbent in other statistics: mixed ones, and those of a candidate."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from judging_cases import CPU, HEIGHT, NAMES, SPEC, WIDTH, Small, frames, model, trained
from roadshift.adapt.judging.evidence import gather
from roadshift.adapt.judging.verdict import decide
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.adapt.networks.mixed_statistics import reestimate_batch_norm
from roadshift.adapt.scoring.class_pairs import closest
from roadshift.adapt.scoring.references import LEAST_SHARE, MIXED, OWN, WORN, References
from roadshift.adapt.scoring.views import ScoredModel, Viewer
from torch import Tensor, nn

GRID = HEIGHT // 4, WIDTH // 4


def images_of(domain: str, count: int) -> Tensor:
    return Normalise(SPEC)(torch.from_numpy(np.stack(frames(domain, count, 300))))


def adapted(domain: str = "dusk") -> SegmentationNetwork:
    network = copy.deepcopy(trained())
    reestimate_batch_norm(network, [images_of(domain, 8)], 1.0)
    return network


def test_the_mixture_is_that_of_the_share_and_the_network_stays_as_it_was() -> None:
    subject, images = model(), images_of("night", 4)
    own = {k: v.clone() for k, v in subject.network.state_dict().items()}
    references = References(subject.network, trained())
    references.look(iter([images]), [images[:1], images[1:2]])
    assert references.share is not None
    assert LEAST_SHARE <= references.share <= 1
    viewer, other = Viewer(subject, CPU), model()
    with references.wearing(MIXED):
        p = viewer.probabilities(images, GRID)
    reestimate_batch_norm(other.network, [images], references.share)
    torch.testing.assert_close(p, Viewer(other, CPU).probabilities(images, GRID))
    for name, value in subject.network.state_dict().items():
        assert torch.equal(value, own[name]), name


def test_where_the_time_is_over_the_mixture_takes_half_of_each() -> None:
    images = images_of("night", 4)
    references = References(copy.deepcopy(trained()), trained())
    references.look(iter([images]), [images[:1]], due=lambda: True)
    assert references.share == 0.5


def test_an_incumbent_that_wears_the_statistics_of_a_candidate_is_that_candidate() -> None:
    candidate, images = ScoredModel(adapted(), SPEC), images_of("dusk", 4)
    references = References(copy.deepcopy(trained()), candidate.network)
    incumbent = ScoredModel(references._network, SPEC)
    with references.wearing(WORN):
        p = Viewer(incumbent, CPU).probabilities(images, GRID)
    torch.testing.assert_close(p, Viewer(candidate, CPU).probabilities(images, GRID))


class Narrow(Small):
    """With another first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(4, 16, 5, stride=4, padding=2), nn.BatchNorm2d(16)
        self.middle = nn.Conv2d(16, 32, 3, padding=1)


def test_statistics_that_do_not_fit_are_not_worn() -> None:
    references = References(copy.deepcopy(trained()), Narrow())
    references.look(iter([images_of("dusk", 2)]), [images_of("dusk", 1)])
    assert references.names == [MIXED]
    evidence = gather(model(), ScoredModel(Narrow().eval(), SPEC), frames("dusk", 8, 0), CPU)
    assert set(evidence.pairs) == {OWN, MIXED}


def test_without_batch_norm_the_incumbent_is_the_only_reference() -> None:
    plain = copy.deepcopy(trained())
    plain.norm, plain.norm2 = nn.Identity(), nn.Identity()
    references = References(plain, copy.deepcopy(plain))
    references.look(iter([images_of("dusk", 2)]), [images_of("dusk", 1)])
    assert references.names == []
    assert references.share is None


def exchanged(one: str, other: str) -> ScoredModel:
    """Adapted to dusk, and two classes have changed places in its classifier."""
    network = adapted()
    order = list(range(len(NAMES)))
    a, b = NAMES.index(one), NAMES.index(other)
    order[a], order[b] = b, a
    with torch.no_grad():
        network.head.weight.copy_(network.head.weight[order])
        network.head.bias.copy_(network.head.bias[order])
    return ScoredModel(network, SPEC)


@pytest.mark.parametrize("domain", ["dusk", "fog", "night"])
@pytest.mark.parametrize("pair", [("road", "sky"), ("building", "vegetation"), ("car", "sidewalk")])
def test_classes_that_changed_places_are_seen_however_large_the_shift(
    pair: tuple[str, str], domain: str
) -> None:
    evidence = gather(model(), exchanged(*pair), frames(domain, 12, 500), CPU)
    assert closest(evidence.pairs) == WORN
    verdict = decide(evidence, NAMES)
    assert verdict.decision == "keep"
    seen = [check for check in verdict.checks if check.name in ("exchanged", "kept")]
    assert any(not check.passed for check in seen)
    assert any(name in verdict.sentence for name in pair)
