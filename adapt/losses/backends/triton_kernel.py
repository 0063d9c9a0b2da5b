"""The sums of `Terms` and their gradient on CUDA, as one Triton kernel.

A program owns the pixels between one row of cells and the next, for a few neighbouring columns of
cells ("quads"): their logits are bilinear in four corners each. So the corners are loaded once, a
pixel's logits cost one multiply-add a class, and the gradient of a quad's pixels goes to its four
corners and nowhere else: each program writes four numbers a quad and class, and what a cell
receives from the up to four quads around it is added afterwards, always in the same order. No
atomics. Threads come in powers of two, and a quad of 9 columns beside those of 8 would leave nearly
half of them idle: so a wide quad is two pieces.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_parts import (
    argmax,
    corners,
    cross_entropy_of_similarities,
    focus_of,
    importance_of,
    learn,
    minus_log_rest,
    of_rank,
    pick,
    row,
    soft_row,
    store_corner,
    store_sum,
)


@triton.jit
def pixels_kernel(
    # the map whose quads the programs own, the pixels of each of its rows of cells, and those of
    # each piece of a quad, with the quad's number
    home_ptr, row_start, row_weight, piece_start, piece_cell, column_weight,
    # maps with their taps; the home map is one of the first two
    z_ptr, z_row_first, z_row_weight, z_column_first, z_column_weight,
    t_ptr, t_row_first, t_row_weight, t_column_first, t_column_weight,
    s_ptr, s_row_first, s_row_weight, s_column_first, s_column_weight,
    q_ptr, q_row_first, q_row_weight, q_column_first, q_column_weight, over_ptr, under_ptr,
    # maps of pixels, and values of classes
    y_ptr, nearest_ptr, pixel_weight_ptr, rank_ptr, a_ptr, prototype_a_ptr, soft_a_ptr, present_ptr,
    # results
    sums_ptr, mass_ptr, of_sums_ptr, of_mass_ptr, grad_ptr,
    # sizes
    K, HEIGHT, WIDTH, CELLS_Y, CELLS_X, PIECES, Z_Y, Z_X, T_Y, T_X, S_Y, S_X, Q_Y, Q_X,
    max_rank,
    # constants: as arguments they would be cut to float32
    log_classes: tl.constexpr, epsilon: tl.constexpr, gamma: tl.constexpr,
    sharpness: tl.constexpr, below: tl.constexpr,
    # what is asked for: places of the sums, -1 where they are not
    CROSS_ENTROPY: tl.constexpr, ENTROPY: tl.constexpr, CURRICULUM: tl.constexpr,
    CERTAINTY: tl.constexpr, NEGATIVE: tl.constexpr, AGREEMENT: tl.constexpr,
    PROTOTYPE: tl.constexpr, SOFT: tl.constexpr,
    IMPORTANCE: tl.constexpr,  # 0 none, 1 margin ratio, 2 first, 3 one minus second
    OF_LOGITS: tl.constexpr, SMOOTHED: tl.constexpr, DETACH_FOCUS: tl.constexpr,
    DETACH_CERTAINTY: tl.constexpr, BY_RANK: tl.constexpr, ONE_RANK: tl.constexpr,
    JOINTLY: tl.constexpr,
    AGREE_WITH_LABEL: tl.constexpr, SOFT_LOGITS: tl.constexpr,
    GRAD: tl.constexpr, GRAD_OF_PROTOTYPES: tl.constexpr,
    SUMS: tl.constexpr, K_PAD: tl.constexpr, PARTS: tl.constexpr, SIDE: tl.constexpr,
    KIND: tl.constexpr, TINY: tl.constexpr,
):  # fmt: skip
    """One row of cells, ``PARTS`` pieces of ``SIDE`` columns of pixels at most, all classes."""
    image = tl.program_id(2).to(tl.int64)
    cell_y = tl.program_id(1)
    lanes = tl.arange(0, PARTS * SIDE)[None, :]
    piece = tl.program_id(0) * PARTS + lanes // SIDE
    k = tl.arange(0, K_PAD)[:, None]
    is_class = k < K
    is_piece = piece < PIECES
    cell_x = tl.load(piece_cell + piece, mask=is_piece, other=0)
    first_x = tl.load(piece_start + piece, mask=is_piece, other=0)
    end_x = tl.load(piece_start + piece + 1, mask=is_piece, other=0)
    x = first_x + lanes % SIDE
    is_pixel = is_piece & (x < end_x)
    across = tl.load(column_weight + x, mask=is_pixel, other=0.0)
    bottom_y = tl.minimum(cell_y + 1, CELLS_Y - 1)
    right_x = tl.minimum(cell_x + 1, CELLS_X - 1)
    cells = CELLS_Y * CELLS_X
    keep = is_class & is_piece
    a, b, c, d = corners(
        home_ptr + image * K * cells, cell_y * CELLS_X, bottom_y * CELLS_X, cell_x, right_x, cells,
        k, keep, KIND,
    )  # fmt: skip
    above = a + across * (b - a)
    below_row = c + across * (d - c)

    nothing = tl.zeros((1, PARTS * SIDE), KIND)
    sum_ce, sum_entropy, sum_curriculum, sum_certainty = nothing, nothing, nothing, nothing
    sum_negative, sum_agreement, sum_prototype = nothing, nothing, nothing
    sum_soft = nothing
    mass = tl.zeros((K_PAD, PARTS * SIDE), KIND)
    grad_above = tl.zeros((K_PAD, PARTS * SIDE), KIND)
    grad_below = tl.zeros((K_PAD, PARTS * SIDE), KIND)
    of_mass = tl.zeros((K_PAD, 1), KIND)
    if GRAD and CERTAINTY >= 0:
        of_mass = tl.load(of_mass_ptr + k, mask=is_class, other=0.0)

    for y in range(tl.load(row_start + cell_y), tl.load(row_start + cell_y + 1)):
        down = tl.load(row_weight + y)
        home = above + down * (below_row - above)
        if GRAD_OF_PROTOTYPES:
            s = home
            z = row(z_ptr, z_row_first, z_row_weight, z_column_first, z_column_weight, image, y, x,
                    is_pixel, k, is_class, HEIGHT, WIDTH, K, Z_Y, Z_X, KIND)  # fmt: skip
        else:
            z = home
            if s_ptr is not None:
                s = row(s_ptr, s_row_first, s_row_weight, s_column_first, s_column_weight, image,
                        y, x, is_pixel, k, is_class, HEIGHT, WIDTH, K, S_Y, S_X, KIND)  # fmt: skip
        d = z - tl.max(tl.where(is_class, z, float("-inf")), axis=0, keep_dims=True)
        p = tl.where(is_class, tl.exp(d), 0.0)
        total = tl.sum(p, axis=0, keep_dims=True)
        log_sum = tl.log(total)
        p = p / total
        d = tl.where(is_class, d, 0.0)
        at = (image * HEIGHT + y) * WIDTH + x
        factor = tl.zeros((K_PAD, PARTS * SIDE), KIND)  # dL/dz = p factor + extra
        extra = tl.zeros((K_PAD, PARTS * SIDE), KIND)

        if t_ptr is not None:
            t = row(t_ptr, t_row_first, t_row_weight, t_column_first, t_column_weight, image, y, x,
                    is_pixel, k, is_class, HEIGHT, WIDTH, K, T_Y, T_X, KIND)  # fmt: skip
            t = tl.where(is_class, t, float("-inf"))
            t_best = argmax(t)
        if y_ptr is not None:
            label = tl.load(y_ptr + at, mask=is_pixel, other=255).to(tl.int32)
        elif t_ptr is not None:
            label = tl.where(is_pixel, t_best, 255)

        if CROSS_ENTROPY >= 0:
            labelled = (label != 255) & is_pixel
            weight = labelled.to(KIND)
            if a_ptr is not None:
                weight *= tl.load(a_ptr + label, mask=labelled, other=0.0)
            if pixel_weight_ptr is not None:
                weight *= tl.load(pixel_weight_ptr + at, mask=labelled, other=0.0)
            if IMPORTANCE > 0:
                weight *= importance_of(t, t_best, k, is_class, IMPORTANCE, OF_LOGITS)
            ce = log_sum - pick(d, k, label)
            sum_ce += weight * ce
            if GRAD:
                w = weight * tl.load(of_sums_ptr + CROSS_ENTROPY)
                factor, extra = learn(factor, extra, k, label, w)

        if s_ptr is not None:
            competes = is_class
            if present_ptr is not None:
                here = tl.load(present_ptr + image * K + k, mask=is_class, other=0)
                competes = is_class & (here != 0)
            s = tl.where(competes, s, float("-inf"))
            if nearest_ptr is not None:
                nearest = tl.load(nearest_ptr + at, mask=is_pixel, other=0).to(tl.int32)
            else:
                nearest = argmax(s)
            own = argmax(tl.where(is_class, z, float("-inf")))
            ce = tl.where(is_pixel, log_sum - pick(d, k, nearest), 0.0)
            if AGREEMENT >= 0:
                if AGREE_WITH_LABEL:
                    agrees = nearest == label
                else:
                    agrees = nearest == own
                weight = (agrees & is_pixel).to(KIND)
                if prototype_a_ptr is not None:
                    weight *= tl.load(prototype_a_ptr + nearest)
                sum_agreement += weight * ce
                if GRAD:
                    w = weight * tl.load(of_sums_ptr + AGREEMENT)
                    factor, extra = learn(factor, extra, k, nearest, w)
            if PROTOTYPE >= 0:
                has = is_pixel & (
                    tl.sum(tl.where((k == own) & competes, 1, 0), axis=0, keep_dims=True) > 0
                )
                reverse, p_prime = cross_entropy_of_similarities(s, competes, k, own)
                sum_prototype += ce + tl.where(has, reverse, 0.0)
                if GRAD:
                    w = tl.load(of_sums_ptr + PROTOTYPE)
                    if GRAD_OF_PROTOTYPES:
                        of_s = tl.where(has, w, 0.0) * (p_prime - tl.where(k == own, 1.0, 0.0))
                    else:
                        w = tl.where(is_pixel, w, 0.0)
                        factor, extra = learn(factor, extra, k, nearest, w)

        if ENTROPY >= 0 or CURRICULUM >= 0 or CERTAINTY >= 0:
            entropy = log_sum - tl.sum(p * d, axis=0, keep_dims=True)
            slope = tl.zeros((1, PARTS * SIDE), KIND)
            if ENTROPY >= 0:
                if SMOOTHED:
                    log_term = tl.log(p + epsilon)
                    smoothed = -tl.sum(
                        tl.where(is_class, p * log_term, 0.0), axis=0, keep_dims=True
                    )
                    sum_entropy += tl.where(is_pixel, smoothed, 0.0)
                    if GRAD:
                        w = -tl.load(of_sums_ptr + ENTROPY)
                        u = tl.where(is_class, w * (log_term + p / (p + epsilon)), 0.0)
                        factor += u - tl.sum(u * p, axis=0, keep_dims=True)
                else:
                    sum_entropy += tl.where(is_pixel, entropy, 0.0)
                    if GRAD:
                        slope += tl.load(of_sums_ptr + ENTROPY)
            if CURRICULUM >= 0 or CERTAINTY >= 0:
                h = tl.minimum(tl.maximum(entropy / log_classes, 0.0), 1.0)
                if CURRICULUM >= 0:
                    focus, rise = focus_of(h, gamma, TINY, DETACH_FOCUS)
                    sum_curriculum += tl.where(is_pixel, focus * h, 0.0)
                    if GRAD:
                        slope += tl.load(of_sums_ptr + CURRICULUM) * rise / log_classes
                if CERTAINTY >= 0:
                    w = tl.where(is_pixel, tl.exp(-sharpness * h), 0.0)
                    sum_certainty += w
                    mass += p * w
                    if GRAD:
                        along = tl.sum(of_mass * p, axis=0, keep_dims=True)
                        factor += w * (of_mass - along)
                        if not DETACH_CERTAINTY:
                            change = along + tl.load(of_sums_ptr + CERTAINTY)
                            slope -= change * sharpness * w / log_classes
            if GRAD:
                factor -= slope * (d + (entropy - log_sum))

        if NEGATIVE >= 0 and JOINTLY:
            likely = tl.where(p >= below, p, 0.0)
            likely_mass = tl.sum(likely, axis=0, keep_dims=True)
            likely_mass = tl.where(likely_mass > 0, likely_mass, 1.0)  # no class is: -log 1
            sum_negative += tl.where(is_pixel, -tl.log(likely_mass), 0.0)
            if GRAD:
                u = -tl.load(of_sums_ptr + NEGATIVE) * likely / likely_mass
                extra += u
                factor -= tl.sum(u, axis=0, keep_dims=True)
        elif NEGATIVE >= 0:
            if BY_RANK:
                if ONE_RANK:
                    wanted = tl.zeros((1, PARTS * SIDE), tl.int32) + max_rank
                else:
                    wanted = tl.load(rank_ptr + at, mask=is_pixel, other=1).to(tl.int32)
                chosen = of_rank(tl.where(is_class, d, float("-inf")), wanted, max_rank, k)
                unlikely = tl.where(k == chosen, p, 0.0)
            else:
                unlikely = tl.where(p < below, p, 0.0)
            rest = 1 - unlikely
            minus_log = tl.sum(minus_log_rest(unlikely), axis=0, keep_dims=True)
            sum_negative += tl.where(is_pixel, minus_log, 0.0)
            if GRAD:
                u = tl.load(of_sums_ptr + NEGATIVE) * unlikely / rest
                extra += u
                factor -= tl.sum(u, axis=0, keep_dims=True)

        if SOFT >= 0:
            is_own = is_pixel
            if over_ptr is not None:
                over = tl.load(over_ptr + (image * HEIGHT + y) * WIDTH + x, mask=is_pixel, other=0)
                is_own = is_pixel & (over != 0)
            q = soft_row(q_ptr, q_row_first, q_row_weight, q_column_first, q_column_weight, image,
                         y, x, is_own, k, is_class, HEIGHT, WIDTH, K, Q_Y, Q_X, SOFT_LOGITS,
                         KIND)  # fmt: skip
            if over_ptr is not None:
                q += soft_row(q_ptr, q_row_first, q_row_weight, q_column_first, q_column_weight,
                              tl.load(under_ptr + image), y, x, is_pixel & (over == 0), k,
                              is_class, HEIGHT, WIDTH, K, Q_Y, Q_X, SOFT_LOGITS,
                              KIND)  # fmt: skip
            q_mass = tl.sum(q, axis=0, keep_dims=True)
            weight = tl.full((1, PARTS * SIDE), 1.0, KIND)
            if soft_a_ptr is not None:
                weight = tl.sum(
                    tl.load(soft_a_ptr + k, mask=is_class, other=0.0) * q, axis=0, keep_dims=True
                )
            sum_soft += weight * (log_sum * q_mass - tl.sum(q * d, axis=0, keep_dims=True))
            if GRAD:
                w = weight * tl.load(of_sums_ptr + SOFT)
                extra -= w * q
                factor += w * q_mass

        if GRAD:
            if GRAD_OF_PROTOTYPES:
                dz = of_s
            else:
                dz = tl.where(is_pixel, p * factor + extra, 0.0)
            grad_above += (1 - down) * dz
            grad_below += down * dz

    program = (image * CELLS_Y + cell_y) * tl.num_programs(0) + tl.program_id(0)
    if not GRAD:
        out = sums_ptr + program * SUMS
        store_sum(out, CROSS_ENTROPY, sum_ce)
        store_sum(out, ENTROPY, sum_entropy)
        store_sum(out, CURRICULUM, sum_curriculum)
        store_sum(out, CERTAINTY, sum_certainty)
        if CERTAINTY >= 0:
            tl.store(
                mass_ptr + program * K + k, tl.sum(mass, axis=1, keep_dims=True), mask=is_class
            )
        store_sum(out, NEGATIVE, sum_negative)
        store_sum(out, AGREEMENT, sum_agreement)
        store_sum(out, PROTOTYPE, sum_prototype)
        store_sum(out, SOFT, sum_soft)
    else:
        mine = (tl.program_id(0) * PARTS + tl.arange(0, PARTS))[None, :]
        out = grad_ptr + ((image * 4 * K + k) * CELLS_Y + cell_y) * PIECES + mine
        step = CELLS_Y * PIECES * K
        stored = is_class & (mine < PIECES)
        store_corner(out, (1 - across) * grad_above, stored, K_PAD, PARTS, SIDE)
        store_corner(out + step, across * grad_above, stored, K_PAD, PARTS, SIDE)
        store_corner(out + 2 * step, (1 - across) * grad_below, stored, K_PAD, PARTS, SIDE)
        store_corner(out + 3 * step, across * grad_below, stored, K_PAD, PARTS, SIDE)
