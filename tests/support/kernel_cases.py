"""Random problems for the loss kernels, every loss on them, and how two kernels are compared."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from roadshift.adapt.losses.atp import (
    AlignWeights,
    align_terms,
    divergence_from,
    soft_cross_entropy,
    teach_terms,
)
from roadshift.adapt.losses.backends.labels import labels_from_grid
from roadshift.adapt.losses.backends.spec import Kernel, Map, Paste, Window
from roadshift.adapt.losses.baselines import (
    entropy_terms,
    information_maximisation_terms,
    pseudo_label_terms,
)
from roadshift.adapt.losses.iapc import IapcWeights, iapc_terms
from roadshift.adapt.losses.ld import LdWeights, boundary_cross_entropy, ld_terms
from roadshift.adapt.losses.nightshift import nightshift_terms
from torch import Tensor

Losses = Callable[..., dict[str, Tensor]]


@dataclass
class Problem:
    """Random inputs of every loss. ``choose`` draws one of its arguments."""

    z: Tensor
    t: Tensor
    s: Tensor
    q: Tensor
    labels: Tensor
    ranks: Tensor
    present: Tensor
    weights: Tensor
    size: tuple[int, int]
    align_corners: bool
    choose: Callable[..., Any]

    def to(self, device: str) -> Problem:
        """On another device."""
        moved = {name: v.to(device) for name, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def problem(seed: int, *, small: bool, dtype: torch.dtype = torch.float64) -> Problem:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    batch, classes = draw.choice([1, 2, 3]), draw.choice([2, 3, 5] if small else [2, 3, 11, 19, 33])
    h, w = draw.randint(1, 3 if small else 7), draw.randint(1, 4 if small else 9)
    height, width = draw.randint(1, 9 if small else 33), draw.randint(1, 11 if small else 41)
    scale = draw.choice([1e-2, 1, 50.0])  # 50: saturated

    def logits(*, rows: int, columns: int) -> Tensor:
        return (scale * torch.randn(batch, classes, rows, columns, dtype=torch.float64)).to(dtype)

    labels = torch.randint(0, classes, (batch, height, width))
    labels[torch.rand(labels.shape) < draw.choice([0.0, 0.3, 1.0])] = 255
    present = torch.rand(batch, classes) < 0.6
    present[:, 0] = True
    t = logits(rows=h + 1, columns=w)
    if draw.random() < 0.3:
        t = t.round()  # ties
    ranks = torch.randint(2, classes + 1, (batch, height, width))
    q = torch.randn(batch, classes, height, width, dtype=torch.float64).softmax(1)
    q *= (torch.rand(batch, 1, height, width) < 0.7).double()
    return Problem(
        z=logits(rows=h, columns=w),
        t=t,
        s=torch.randn(batch, classes, h, w + 2, dtype=torch.float64).to(dtype),
        q=q if dtype == torch.float64 else q.float(),
        labels=labels,
        ranks=ranks if draw.random() < 0.5 else torch.tensor(min(3, classes)),
        present=present,
        weights=torch.rand(
            classes, dtype=torch.float64 if dtype == torch.float64 else torch.float32
        )
        + 0.5,
        size=(height, width),
        align_corners=draw.random() < 0.5,
        choose=lambda *options: draw.choice(options),
    )


def iapc(p: Problem, kernel: Kernel, leaves: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    choose = random.Random(str(p.size)).choice
    return iapc_terms(
        leaves[0],
        p.t,
        leaves[1],
        choose([None, p.present]),
        p.size,
        align_corners=p.align_corners,
        weights=IapcWeights(0.7, choose([0.0, 0.5]), choose([0.0, 0.3]), choose([0.0, 0.2])),
        importance=choose(["margin_ratio", "none", "first", "one_minus_second"]),
        importance_of_logits=choose([False, True]),
        labels=choose([None, p.labels]),
        class_weights=choose([None, p.weights]),
        prototype_class_weights=choose([None, p.weights]),
        agree_with=choose(["student", "pseudo_label"]),
        epsilon=choose([0.0, 1e-5]),
        prototype_labels=choose([None, nearest_cells(p)]),
        kernel=kernel,
    )


def nearest_cells(p: Problem) -> Tensor:
    """Labels of the cells of the similarities' grid, the nearest cell's at each pixel."""
    best = p.s.masked_fill(~p.present[:, :, None, None], float("-inf")).argmax(dim=1)
    return labels_from_grid(best, p.size)


def align(p: Problem, kernel: Kernel, leaves: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    choose = random.Random(str(p.size)).choice
    return align_terms(
        leaves[0],
        p.size,
        align_corners=p.align_corners,
        weights=AlignWeights(0.7, 0.4, choose([0.0, 1.0, 3.0]), choose([0.0, 1.0, 3.0])),
        per_weight=choose([False, True]),
        per_image=choose([False, True]),
        over_log_classes=choose([False, True]),
        detach_weight=choose([False, True]),
        detach_focus=choose([False, True]),
        kernel=kernel,
    )


def teach(p: Problem, kernel: Kernel, leaves: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    choose = random.Random(str(p.size)).choice
    return teach_terms(
        leaves[0],
        p.labels,
        p.size,
        align_corners=p.align_corners,
        negative_below=0.1,
        negative_jointly=choose([False, True]),
        kernel=kernel,
    )


def ld(p: Problem, kernel: Kernel, leaves: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return ld_terms(
        leaves[0],
        p.labels,
        p.ranks,
        p.size,
        align_corners=p.align_corners,
        weights=LdWeights(1.0, 0.5, 0.7),
        class_weights=p.weights,
        kernel=kernel,
    )


def boundary(p: Problem, kernel: Kernel, leaves: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    loss = boundary_cross_entropy(
        leaves[0],
        p.labels,
        p.size,
        align_corners=p.align_corners,
        boundary_weight=3.0,
        boundary_width=1,
        kernel=kernel,
    )
    return {"boundary": loss}


def soft(p: Problem, kernel: Kernel, leaves: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    how: dict[str, Any] = {"align_corners": p.align_corners, "kernel": kernel}
    terms = nightshift_terms(
        leaves[0], p.q, p.size, class_weights=p.weights, weight_entropy=0.2, **how
    )
    return {
        **terms,
        "divergence": divergence_from(leaves[0], p.q, p.size, **how),
        "consistency": soft_cross_entropy(leaves[0], p.q, p.size, **how),
    }


def mixed(p: Problem, kernel: Kernel, leaves: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Soft labels as maps of frames, of which the images are windows, some of whose pixels are
    another image's."""
    choose = random.Random(str(p.size)).choice
    count, (height, width) = len(p.z), p.size
    windows = [
        Window(
            height * choose([1.0, 1.7]) + 2,
            width * choose([1.0, 1.3]) + 3,
            choose([0.0, 1.5, 2.0]),
            choose([0.0, 3.0]),
            choose([False, True]),
        )
        for _ in range(count)
    ]
    generator = torch.Generator().manual_seed(height * width)
    over = torch.rand(count, *p.size, generator=generator) < choose([0.3, 0.5, 0.7])
    under = torch.randperm(count, generator=generator)
    paste = Paste(over.to(p.z.device), under.to(p.z.device))
    whole = Map(p.t, choose([None, windows]), choose([None, False, True]))
    how: dict[str, Any] = {
        "align_corners": p.align_corners,
        "paste": choose([None, paste, paste]),
        "kernel": kernel,
    }
    q = replace(whole, values=p.t.double().softmax(dim=1).to(p.weights.dtype))
    return {
        **nightshift_terms(leaves[0], q, p.size, class_weights=p.weights, **how),
        "consistency": soft_cross_entropy(leaves[0], whole, p.size, **how),
    }


def baselines(p: Problem, kernel: Kernel, leaves: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    how: dict[str, Any] = {"align_corners": p.align_corners, "kernel": kernel}
    z, _ = leaves
    shot = information_maximisation_terms(z, p.size, diversity=0.6, **how)
    return {
        **pseudo_label_terms(z, p.labels, p.size, entropy=0.3, **how),
        **{f"shot {name}": value for name, value in shot.items()},
        "tent": entropy_terms(z, p.size, **how)["entropy"],
    }


LOSSES = [iapc, align, teach, ld, boundary, soft, mixed, baselines]


def results(loss: Losses, p: Problem, kernel: Kernel) -> list[Any]:
    """Names of the terms, every term, and the gradients of a random combination of them."""
    leaves = (p.z.clone().requires_grad_(), p.s.clone().requires_grad_())
    terms = loss(p, kernel, leaves)
    torch.manual_seed(0)
    total = torch.stack([torch.randn(()).double() * term.double() for term in terms.values()]).sum()
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    zeros = [
        g if g is not None else torch.zeros_like(v) for g, v in zip(gradients, leaves, strict=True)
    ]
    return [list(terms), *(term.detach() for term in terms.values()), *zeros]


def assert_close(ours: list[Any], expected: list[Any], tolerance: float) -> None:
    assert ours[0] == expected[0]
    for a, b in zip(ours[1:], expected[1:], strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max()))
