"""Sizes of views at another scale: divisors are kept, and networks of one size do without."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from roadshift.adapt.data.view_sizes import granule, scaled_side, scaled_size, scales_taken, takes
from roadshift.adapt.networks import Output, SegmentationNetwork
from torch import Tensor, nn

SCALES = (0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 1.75, 2.0)


class Picky(SegmentationNetwork):
    """Takes heights and widths that ``fits`` accepts."""

    num_classes, align_corners = 3, False

    def __init__(self, fits: Callable[[int], bool]) -> None:
        super().__init__()
        self.fits, self.head, self.calls = fits, nn.Conv2d(3, 3, 1), 0

    def forward(self, images: Tensor) -> Output:
        self.calls += 1
        assert all(map(self.fits, images.shape[2:])), "another size"
        return Output(self.head(images), None)


@given(
    st.sampled_from([2, 4, 8, 16, 32, 6, 12, 24, 14, 28, 10, 20]),
    st.integers(3, 60),
    st.sampled_from(SCALES),
)
def test_a_network_that_takes_multiples_takes_every_view(
    multiple: int, times: int, scale: float
) -> None:
    """Multiples are a network's stride or a patch's side; inputs have three of them or more."""
    side = multiple * times
    assume(granule(side) % multiple == 0)
    assert scaled_side(side, scale) % multiple == 0


@given(st.sampled_from([2, 4, 8, 16, 32]), st.integers(3, 60), st.sampled_from(SCALES))
def test_every_power_of_two_up_to_32_is_kept(stride: int, times: int, scale: float) -> None:
    assert scaled_side(stride * times, scale) % stride == 0


@given(st.sampled_from([4, 8, 16, 32]), st.integers(3, 60), st.sampled_from(SCALES))
def test_one_more_than_a_multiple_stays_one_more(stride: int, times: int, scale: float) -> None:
    assert (scaled_side(stride * times + 1, scale) - 1) % stride == 0


@given(st.integers(16, 4096), st.sampled_from(SCALES))
def test_the_view_is_as_near_to_the_scale_as_the_divisors_allow(side: int, scale: float) -> None:
    found = scaled_side(side, scale)
    assert found >= 1
    assert abs(found - side * scale) <= max(granule(side) / 2, granule(side) + 1 - side * scale)
    assert scaled_side(side, 1.0) == side


@given(st.integers(24, 4096))
def test_another_scale_is_another_size(side: int) -> None:
    assert scaled_side(side, 0.75) < side < scaled_side(side, 1.25)


def test_usual_inputs_are_scaled_exactly() -> None:
    assert scaled_size(512, 1024, 0.75) == (384, 768)
    assert scaled_size(512, 1024, 1.25) == (640, 1280)
    assert scaled_size(160, 320, 0.75) == (128, 256)  # 120 is no multiple of 32
    assert scaled_size(713, 713, 0.75) == (537, 537)  # one more than a multiple of 8


def test_a_network_of_one_size_is_asked_at_its_own() -> None:
    network, notes = Picky(lambda side: side == 64), list[str]()
    images = torch.zeros(2, 3, 64, 64)
    assert scales_taken(network, images, (1.0, 0.75, 1.5), notes.append) == (1.0,)
    assert scales_taken(network, images, (0.75,), notes.append) == (1.0,)
    assert "no images of 0.75, 1.5 times its size 64x64" in notes[0]


def test_a_network_of_any_size_keeps_all_scales_without_a_word() -> None:
    network, notes = Picky(lambda _: True), list[str]()
    images = torch.zeros(1, 3, 64, 96)
    assert scales_taken(network, images, (1.0, 0.75), notes.append) == (1.0, 0.75)
    assert (network.calls, notes) == (1, [])  # its own size is known to do


def test_memory_that_runs_out_says_nothing_of_the_network() -> None:
    def too_large(_: int) -> bool:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        takes(Picky(too_large), torch.zeros(1, 3, 64, 64), (96, 96))
