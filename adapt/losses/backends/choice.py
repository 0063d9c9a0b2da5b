"""Choice of the kernel that computes the losses of a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ....runtime.errors import ConfigError
from .core import pixel_sums
from .spec import Inputs, Kernel, Map, Terms

Choice = Literal["auto", "reference", "tiled", "triton"]


def choose_kernel(
    choice: Choice, device: torch.device, note: Callable[[str], None] = lambda _: None
) -> Kernel:
    """``choice``, or what is meant for ``device`` and works there.

    "auto" on CUDA tries Triton on a few pixels first: a driver, a compiler or a GPU that it cannot
    use is noted, and the tiles take over.

    Raises:
        ConfigError: ``triton`` was asked for where it cannot run.
    """
    installed = importlib.util.find_spec("triton") is not None
    if choice == "auto":
        if device.type != "cuda" or not installed:
            return "tiled"
        problem = triton_problem(device)
        if problem is not None:
            note(f"losses by tiles: Triton does not work on this GPU ({problem})")
        return "tiled" if problem else "triton"
    if choice != "triton":
        return choice
    if not installed:
        raise ConfigError(
            "loss_backend=triton: Triton is not installed here; torch for CUDA brings it along. "
            "loss_backend=tiled runs everywhere."
        )
    if device.type != "cuda" and not _interpreted():
        raise ConfigError(
            f"loss_backend=triton: Triton needs a CUDA device, and this run is on {device.type}; "
            "loss_backend=tiled runs everywhere."
        )
    return "triton"


def triton_problem(device: torch.device) -> str | None:
    """Compute a small loss on ``device`` with Triton and say what goes wrong; ``None``: nothing."""
    generator = torch.Generator().manual_seed(0)
    z, t = (torch.randn(1, 3, 2, 3, generator=generator).to(device) for _ in range(2))
    terms = Terms(cross_entropy=True, importance="margin_ratio", entropy=True)
    inputs = Inputs((7, 10), align_corners=False, teacher=Map(t))
    found = dict[Kernel, Tensor]()
    kernels: tuple[Kernel, ...] = ("tiled", "triton")
    try:
        for kernel in kernels:
            leaf = z.clone().requires_grad_()
            sums, _ = pixel_sums(terms, leaf, inputs, kernel=kernel)
            values = torch.stack(list(sums.values()))
            (gradient,) = torch.autograd.grad(values.sum(), [leaf])
            found[kernel] = torch.cat([values.detach(), gradient.flatten()])
    except Exception as error:  # of a compiler, a driver, a launch: each has its own family
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    right = torch.allclose(found["tiled"], found["triton"], rtol=1e-3, atol=1e-4)
    return None if right else "its results are wrong"


def _interpreted() -> bool:
    """Tell whether Triton's interpreter stands in for a GPU (TRITON_INTERPRET=1, for tests)."""
    import triton

    return bool(triton.knobs.runtime.interpret)
