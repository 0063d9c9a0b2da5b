"""`triton_sums`: the host's side of `pixels_kernel`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .spec import Inputs, Map, Terms
from .taps import AxisTaps, axis_taps, map_taps
from .tiled import SumsAndGradients
from .triton_kernel import pixels_kernel

IMPORTANCE = {"none": 0, "margin_ratio": 1, "first": 2, "one_minus_second": 3}
REGISTERS = 2048  # values of one (classes, pixels) block


class _Placed:
    """A map in the kernel's precision, contiguous, with its taps."""

    def __init__(self, of: Map, inputs: Inputs) -> None:
        values = of.values.detach()
        self.kind = torch.float64 if values.dtype == torch.float64 else torch.float32
        self.values = values.contiguous()
        align_corners = of.aligned(inputs.align_corners)
        if of.windows is None:
            taps = _taps(tuple(values.shape), inputs.size, align_corners, self.kind, values.device)
        else:
            taps = map_taps(of, inputs.size, align_corners=align_corners, dtype=self.kind)
        self.rows, self.columns = taps

    def arguments(self) -> list[Any]:
        rows, columns = self.rows, self.columns
        return [self.values, rows.first, rows.weight, columns.first, columns.weight]


@lru_cache(maxsize=64)  # a run has a few; each is a copy to the device
def _taps(
    shape: tuple[int, ...],
    size: tuple[int, int],
    align_corners: bool,
    kind: torch.dtype,
    device: torch.device,
) -> tuple[AxisTaps, AxisTaps]:
    """Taps of maps of whole frames, (B, K, h, w)."""
    of = Map(torch.empty(shape[0], 1, *shape[2:], device=device))
    return map_taps(of, size, align_corners=align_corners, dtype=kind)


def triton_sums(
    terms: Terms,
    logits: Tensor,
    prototypes: Map | None,
    inputs: Inputs,
    coefficients: tuple[Tensor, Tensor] | None,
) -> SumsAndGradients:
    """As `tiled.tiled_sums`, by Triton; without coefficients the sums, else the gradients."""
    z = _Placed(Map(logits), inputs)
    s = _Placed(prototypes, inputs) if prototypes is not None else None
    if coefficients is None:
        sums, mass = _launch(terms, z, z, s, inputs, None)
        return SumsAndGradients(sums, mass)
    (z_grad,) = _launch(terms, z, z, s, inputs, coefficients)
    s_grad = None
    if s is not None and terms.prototype:
        (s_grad,) = _launch(terms, s, z, s, inputs, coefficients)
    empty = z_grad.new_zeros(0)
    return SumsAndGradients(empty, empty, z_grad, s_grad)


def _launch(
    terms: Terms,
    home: _Placed,
    z: _Placed,
    s: _Placed | None,
    inputs: Inputs,
    coefficients: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, ...]:
    """Sums and mass; or, with coefficients, the gradient of ``home``."""
    of_prototypes = coefficients is not None and home is not z
    batch, classes, cells_y, cells_x = home.values.shape
    device, kind = home.values.device, home.kind
    row_start = _starts(cells_y, inputs.size[0], inputs.align_corners, device)
    pieces = _pieces(cells_x, inputs.size[1], inputs.align_corners, device)
    padded = max(2, _power_of_two(classes))
    parts = max(1, _power_of_two(min(REGISTERS // padded // pieces.side, pieces.count)))
    grid = (-(-pieces.count // parts), cells_y, batch)
    names = terms.names
    place = {name: names.index(name) if name in names else -1 for name in ALL}
    if of_prototypes:
        place = {name: at if name == "prototype" else -1 for name, at in place.items()}
    t = _Placed(inputs.teacher, inputs) if inputs.teacher is not None else None
    q = _Placed(inputs.soft, inputs) if inputs.soft is not None else None
    programs = grid[0] * grid[1] * grid[2]
    sums = mass = grad = None
    if coefficients is None:
        sums = torch.zeros(programs, len(names), dtype=kind, device=device)
        of_classes = classes if terms.sharpness is not None else 0
        mass = torch.zeros(programs, of_classes, dtype=kind, device=device)
    else:
        grad = torch.empty(batch, 4, classes, cells_y, pieces.count, dtype=kind, device=device)
    of_sums, of_mass = coefficients or (None, None)
    over = under = None
    if inputs.paste is not None:
        over, under = inputs.paste.over, inputs.paste.under
    ranks = inputs.ranks
    one_rank = ranks is not None and ranks.ndim == 0

    def shape(of: _Placed | None) -> list[int]:
        return [0, 0] if of is None else list(of.values.shape[2:])

    def kept(of: Tensor | None, dtype: torch.dtype | None = None) -> Tensor | None:
        return None if of is None else of.to(dtype or of.dtype).contiguous()

    pixels_kernel[grid](
        home.values, row_start, home.rows.weight[0].contiguous(), pieces.start, pieces.cell,
        home.columns.weight[0].contiguous(),
        *z.arguments(),
        *(t.arguments() if t else [None] * 5),
        *(s.arguments() if s else [None] * 5),
        *(q.arguments() if q else [None] * 5),
        kept(over, torch.uint8), kept(under, torch.int64),
        kept(inputs.labels), kept(inputs.nearest), kept(inputs.pixel_weights, kind),
        None if one_rank else kept(ranks), kept(inputs.class_weights, kind),
        kept(inputs.prototype_class_weights, kind), kept(inputs.soft_class_weights, kind),
        kept(inputs.present, torch.uint8),
        sums, mass, kept(of_sums, kind), kept(of_mass, kind), grad,
        classes, *inputs.size, cells_y, cells_x, pieces.count,
        *shape(z), *shape(t), *shape(s), *shape(q),
        int(ranks.max()) if ranks is not None else 0,
        log_classes=math.log(classes), epsilon=terms.epsilon, gamma=terms.curriculum or 0.0,
        sharpness=terms.sharpness or 0.0, below=terms.negative_below or 0.0,
        CROSS_ENTROPY=place["cross_entropy"], ENTROPY=place["entropy"],
        CURRICULUM=place["curriculum"], CERTAINTY=place["certainty"], NEGATIVE=place["negative"],
        AGREEMENT=place["agreement"], PROTOTYPE=place["prototype"], SOFT=place["soft"],
        IMPORTANCE=IMPORTANCE[terms.importance],
        OF_LOGITS=terms.importance_of_logits, SMOOTHED=terms.epsilon > 0,
        DETACH_FOCUS=terms.detach_focus, DETACH_CERTAINTY=terms.detach_certainty,
        BY_RANK=terms.negative_rank, ONE_RANK=one_rank, JOINTLY=terms.negative_jointly,
        AGREE_WITH_LABEL=terms.agree_with == "pseudo_label", SOFT_LOGITS=terms.soft == "logits",
        GRAD=coefficients is not None, GRAD_OF_PROTOTYPES=of_prototypes,
        SUMS=len(names), K_PAD=padded, PARTS=parts, SIDE=pieces.side,
        KIND=_KINDS[kind], TINY=torch.finfo(kind).tiny,
        num_warps=_warps(padded * parts * pieces.side),
        enable_fp_fusion=True,  # Triton's default, which later versions change
    )  # fmt: skip
    if grad is not None:
        return (_gathered(grad, pieces),)
    assert sums is not None
    assert mass is not None
    return sums.sum(dim=0), mass.sum(dim=0)


def _gathered(corners: Tensor, pieces: _Pieces) -> Tensor:
    """Each cell's gradient from the quads around it: (B, 4, K, h, pieces) to (B, K, h, w)."""
    above_left, above_right, below_left, below_right = corners.unbind(dim=1)
    above = _shifted(pieces.joined(above_left), pieces.joined(above_right), axis=3)
    below = _shifted(pieces.joined(below_left), pieces.joined(below_right), axis=3)
    return _shifted(above, below, axis=2)


def _shifted(own: Tensor, to_next: Tensor, axis: int) -> Tensor:
    """``own`` plus what the cell before gives to the next; the last cell's next is itself."""
    cells = own.shape[axis]
    result = own.clone()
    result.narrow(axis, 1, cells - 1).add_(to_next.narrow(axis, 0, cells - 1))
    result.narrow(axis, cells - 1, 1).add_(to_next.narrow(axis, cells - 1, 1))
    return result


@dataclass(frozen=True)
class _Pieces:
    """Columns of quads, each of one piece or two, of at most ``side`` pixels."""

    start: Tensor  # int32 (count + 1,), each one's first pixel
    cell: Tensor  # int32 (count,), the quad's number
    side: int  # a power of two
    first: Tensor  # int64 (cells,), the number of each quad's first piece
    split: Tensor  # int64, the quads of two pieces
    second: Tensor  # int64, the number of these quads' second piece

    @property
    def count(self) -> int:
        """Number of pieces."""
        return len(self.cell)

    def joined(self, of_pieces: Tensor) -> Tensor:
        """(..., count) added up to (..., cells)."""
        of_quads = of_pieces.index_select(-1, self.first)
        if len(self.split):
            added = of_quads.index_select(-1, self.split)
            added += of_pieces.index_select(-1, self.second)
            of_quads.index_copy_(-1, self.split, added)
        return of_quads


@lru_cache(maxsize=64)  # a run has a few
def _pieces(cells: int, pixels: int, align_corners: bool, device: torch.device) -> _Pieces:
    start = _starts(cells, pixels, align_corners, torch.device("cpu")).long()
    widths = start.diff()
    side = _power_of_two(-(-int(widths.max()) // 2))
    is_split = widths > side
    cell = torch.arange(cells).repeat_interleave(1 + is_split.long())
    is_second = torch.zeros(len(cell), dtype=torch.long)
    is_second[1:] = cell[1:] == cell[:-1]
    starts = torch.cat([start[cell] + side * is_second, start[-1:]])
    first = (1 - is_second).nonzero()[:, 0]
    split = is_split.nonzero()[:, 0]
    second = first[split] + 1
    return _Pieces(
        starts.int().to(device),
        cell.int().to(device),
        side,
        first.to(device),
        split.to(device),
        second.to(device),
    )


@lru_cache(maxsize=64)
def _starts(cells: int, pixels: int, align_corners: bool, device: torch.device) -> Tensor:
    """The first pixel of each cell's quad, and the number of pixels, int32 (cells + 1,)."""
    cpu = torch.device("cpu")
    taps = axis_taps(
        cells,
        pixels,
        [(pixels, 0, False)],
        align_corners=align_corners,
        dtype=torch.float64,
        device=cpu,
    )
    numbers = torch.arange(cells + 1, dtype=torch.int32)
    return torch.searchsorted(taps.first[0].contiguous(), numbers).int().to(device)


def _warps(values: int) -> int:
    """Number of warps of a program that holds blocks of ``values`` values: eight of each a thread.

    The compiler then keeps them in registers, but for a few of the largest kernels'
    (``tests/support/compile_triton.py`` compiles them and reads what is spilled).
    """
    return min(32, max(4, values // (8 * 32)))


def _power_of_two(at_least: int) -> int:
    return 1 << max(0, at_least - 1).bit_length()


import triton.language as tl  # noqa: E402

_KINDS = {torch.float32: tl.float32, torch.float64: tl.float64}
ALL = (
    "cross_entropy", "entropy", "curriculum", "certainty", "negative", "agreement", "prototype",
    "soft",
)  # fmt: skip
