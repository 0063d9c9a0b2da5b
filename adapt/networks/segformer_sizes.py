"""Sizes of a SegFormer: the paper's table, what may be asked for, and the images that fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...runtime.errors import NetworkError

_DEEPEST = 100  # blocks of a stage; a manifest may ask for any number
_WIDEST = 1 << 12
_MOST_EXPANDED = 16
_MOST_REDUCED = 64
_WHERE = "network 'segformer'"


class Size(NamedTuple):
    """A SegFormer's size: Table 6 of the paper, of whose rows the last three are alike.

    Attributes:
        widths, depths: channels and blocks of the four stages.
        decoder_width: the decoder's channels.
        heads: of attention, of the four stages; likewise below.
        reductions: R_i.
        expansions: of the width inside MixFFN.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    decoder_width: int
    heads: tuple[int, ...] = (1, 2, 5, 8)
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    expansions: tuple[int, ...] = (4, 4, 4, 4)

    def changed(self, **asked: object) -> Size:
        """The size with what is asked for and not ``None``, checked.

        Raises:
            NetworkError: a number is missing, out of range or of another kind.
        """
        given = {name: value for name, value in asked.items() if value is not None}
        for name in given.keys() - {"decoder_width"}:
            value = given[name]
            given[name] = tuple(value if isinstance(value, list | tuple) else [value])
        size = Size(**{**self._asdict(), **given})
        _check_size(size)
        return size


def least_side(size: Size, strides: Sequence[int]) -> int:
    """Pixels of the smallest image's sides; at less a stage has no key."""
    least, stride = 1, 1
    for reduction, step in zip(size.reductions, strides, strict=True):
        stride *= step
        least = max(least, stride * (reduction - 1) + 1)
    return least


def _check_size(size: Size) -> None:
    """Refuse what no SegFormer of four stages can be built with."""
    _check_four("heads", size.heads, 1, _WIDEST)
    widths = size.widths
    if not _are_four(widths, 1, _WIDEST) or any(
        width % heads for width, heads in zip(widths, size.heads, strict=True)
    ):
        raise NetworkError(
            f"{_WHERE}: widths is {list(widths)!r:.80}; give four, each at most {_WIDEST} and a "
            f"multiple of its stage's heads of attention, {', '.join(map(str, size.heads))}."
        )
    _check_four("depths", size.depths, 1, _DEEPEST)
    _check_four("reductions", size.reductions, 1, _MOST_REDUCED)
    _check_four("expansions", size.expansions, 1, _MOST_EXPANDED)
    if not (isinstance(size.decoder_width, int) and 1 <= size.decoder_width <= _WIDEST):
        raise NetworkError(
            f"{_WHERE}: decoder_width is {size.decoder_width!r:.80}; give 1 to {_WIDEST} channels."
        )


def check_shares(**shares: float) -> None:
    """Refuse shares, by their arguments' names, outside 0 to below 1.

    Raises:
        NetworkError: one is.
    """
    for name, share in shares.items():
        if not (isinstance(share, int | float) and 0 <= share < 1):
            raise NetworkError(
                f"{_WHERE}: {name} is {share!r:.80}; give a share from 0 to below 1."
            )


def _check_four(name: str, values: Sequence[object], least: int, most: int) -> None:
    if not _are_four(values, least, most):
        raise NetworkError(
            f"{_WHERE}: {name} is {list(values)!r:.80}; give four counts, {least} to {most}."
        )


def _are_four(values: Sequence[object], least: int, most: int) -> bool:
    return len(values) == 4 and all(isinstance(n, int) and least <= n <= most for n in values)
