"""Parts of `triton_kernel`: maps read at a block's pixels, and what the terms are made of.

A block is (K_PAD, X): all classes of X pixels, of which ``is_class`` and ``is_pixel`` count.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def corners(ptr, at_top, at_bottom, left, right, stride_class, k, keep, KIND: tl.constexpr):
    """Four (K_PAD, X) corners of a map's quads, as ``KIND``; 0 where not to ``keep``."""
    base = ptr + k.to(tl.int64) * stride_class  # an int of the host may be a constant here
    a = tl.load(base + at_top + left, mask=keep, other=0.0).to(KIND)
    b = tl.load(base + at_top + right, mask=keep, other=0.0).to(KIND)
    c = tl.load(base + at_bottom + left, mask=keep, other=0.0).to(KIND)
    d = tl.load(base + at_bottom + right, mask=keep, other=0.0).to(KIND)
    return a, b, c, d


@triton.jit
def row(
    ptr, row_first, row_weight, column_first, column_weight,
    image, y, x, is_pixel, k, is_class, HEIGHT, WIDTH, K, CELLS_Y, CELLS_X, KIND: tl.constexpr,
):  # fmt: skip
    """(K_PAD, X) of a map of any geometry at the pixels ``x`` of row ``y``; 0 elsewhere."""
    top = tl.load(row_first + image * HEIGHT + y)
    down = tl.load(row_weight + image * HEIGHT + y)
    bottom = tl.minimum(top + 1, CELLS_Y - 1)
    left = tl.load(column_first + image * WIDTH + x, mask=is_pixel, other=0)
    across = tl.load(column_weight + image * WIDTH + x, mask=is_pixel, other=0.0)
    right = tl.minimum(left + 1, CELLS_X - 1)
    cells = CELLS_Y * CELLS_X
    keep = is_class & is_pixel
    a, b, c, d = corners(ptr + image * K * cells, top * CELLS_X, bottom * CELLS_X, left, right,
                         cells, k, keep, KIND)  # fmt: skip
    above = a + across * (b - a)
    below = c + across * (d - c)
    return above + down * (below - above)


@triton.jit
def soft_row(
    ptr, row_first, row_weight, column_first, column_weight,
    image, y, x, is_pixel, k, is_class, HEIGHT, WIDTH, K, CELLS_Y, CELLS_X,
    LOGITS: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """`row` of distributions, given as such or as their logits; 0 elsewhere."""
    q = row(ptr, row_first, row_weight, column_first, column_weight, image, y, x,
            is_pixel, k, is_class, HEIGHT, WIDTH, K, CELLS_Y, CELLS_X, KIND)  # fmt: skip
    if LOGITS:
        q = tl.where(is_class, q, float("-inf"))
        q = tl.exp(q - tl.max(q, axis=0, keep_dims=True))
        q = q / tl.sum(q, axis=0, keep_dims=True)
        q = tl.where(is_pixel, q, 0.0)
    return q


@triton.jit
def argmax(scores):
    """First of the largest over classes, (1, X)."""
    return tl.argmax(scores, axis=0, tie_break_left=True, keep_dims=True)


@triton.jit
def pick(values, k, of):
    """``values`` (K_PAD, X) at class ``of`` (1, X)."""
    return tl.sum(tl.where(k == of, values, 0.0), axis=0, keep_dims=True)


@triton.jit
def minus_log_rest(u):
    """-log(1 - u) for u in [0, 1], by its series where u is small: 1 - u would lose its digits."""
    series = 1.0 / 9
    for n in tl.static_range(8):
        series = 1.0 / (8 - n) + u * series
    return tl.where(u < 0.02, u * series, -tl.log(tl.maximum(1 - u, 0.0)))


@triton.jit
def importance_of(
    t, best, k, is_class, IMPORTANCE: tl.constexpr, OF_LOGITS: tl.constexpr
):  # fmt: skip
    """The trust in the teacher's class ``best``, (1, X); see `triton_backend.IMPORTANCE`."""
    first = tl.max(t, axis=0, keep_dims=True)
    second = tl.max(tl.where(k == best, float("-inf"), t), axis=0, keep_dims=True)
    if not OF_LOGITS:
        sum_t = tl.sum(tl.where(is_class, tl.exp(t - first), 0.0), axis=0, keep_dims=True)
        ratio = tl.exp(second - first)
        first, second = 1 / sum_t, ratio / sum_t
    if IMPORTANCE == 1:
        safe = tl.where(first != 0, first, 1.0)
        trust = tl.where(first != 0, 1 - second / safe, 0.0)
    elif IMPORTANCE == 2:
        trust = first
    else:
        trust = 1 - second
    return trust


@triton.jit
def learn(factor, extra, k, of, w):
    """``factor`` and ``extra`` (dL/dz = p factor + extra) with the gradient of w CE(p, ``of``)."""
    return factor + w, extra - tl.where(k == of, w, 0.0)


@triton.jit
def cross_entropy_of_similarities(s, competes, k, of):
    """CE(p', ``of``), (1, X), and p' = softmax s over the classes that compete."""
    top = tl.max(s, axis=0, keep_dims=True)
    e = tl.where(competes, tl.exp(s - top), 0.0)
    total = tl.sum(e, axis=0, keep_dims=True)
    return tl.log(total) - pick(tl.where(competes, s - top, 0.0), k, of), e / total


@triton.jit
def focus_of(h, gamma: tl.constexpr, TINY: tl.constexpr, DETACH: tl.constexpr):
    """(1 - h)^gamma and d/dh of its product with h, (1, X); 1 - h is held above ``TINY``."""
    log_certain = tl.log(tl.maximum(1 - h, TINY))
    focus = tl.exp(gamma * log_certain)
    rise = focus
    if not DETACH:
        fall = gamma * h * tl.exp((gamma - 1) * log_certain)
        rise = focus - tl.where(1 - h >= TINY, fall, 0.0)
    return focus, rise


@triton.jit
def of_rank(scores, wanted, max_rank, k):
    """The class whose score is the ``wanted``-th largest, int32 (1, X)."""
    chosen = tl.zeros_like(wanted)
    for rank in range(1, max_rank + 1):
        best = argmax(scores)
        chosen = tl.where(wanted == rank, best, chosen)
        scores = tl.where(k == best, float("-inf"), scores)
    return chosen


@triton.jit
def store_sum(ptr, PLACE: tl.constexpr, values):
    """Write the sum of (1, X) to its place, if it has one."""
    if PLACE >= 0:
        tl.store(ptr + PLACE, tl.sum(values))


@triton.jit
def store_corner(
    ptr, weighted, stored, K_PAD: tl.constexpr, PARTS: tl.constexpr, SIDE: tl.constexpr
):  # fmt: skip
    """Write the gradient of one corner of each piece: the sum over its pixels."""
    of_pieces = tl.reshape(weighted, (K_PAD, PARTS, SIDE))
    tl.store(ptr, tl.sum(of_pieces, axis=2), mask=stored)
