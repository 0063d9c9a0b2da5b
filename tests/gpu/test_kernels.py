"""The loss kernels on a CUDA GPU: equal to the reference, the same bits twice, no full frame."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import LOSSES, Losses, assert_close, problem, results
from roadshift.adapt.losses.backends.choice import choose_kernel
from roadshift.adapt.losses.backends.spec import Kernel
from roadshift.adapt.losses.iapc import IapcWeights, iapc_terms

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kernel", ["tiled", "triton"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", range(6))
def test_it_equals_the_reference(loss: Losses, seed: int, kernel: Kernel) -> None:
    p = problem(seed, small=False).to("cuda")
    assert_close(results(loss, p, kernel), results(loss, p, "reference"), 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", LOSSES)
def test_triton_gives_the_same_bits_twice(loss: Losses, dtype: torch.dtype) -> None:
    p = problem(1, small=False, dtype=dtype).to("cuda")
    first, second = (results(loss, p, "triton") for _ in range(2))
    assert all(map(torch.equal, first[1:], second[1:]))


@pytest.mark.parametrize("classes", [11, 19, 150])
def test_no_tensor_of_the_frames_size(classes: int) -> None:
    z, t, s = (torch.randn(2, classes, 128, 256, device="cuda") for _ in range(3))
    leaves = [z.requires_grad_(), s.requires_grad_()]
    weights = IapcWeights(0.2, 0.5, 0.1, 0.02)

    def step() -> None:
        terms = iapc_terms(
            z, t, s, None, (1024, 2048), align_corners=True, weights=weights, kernel="triton"
        )
        torch.autograd.grad(torch.stack(list(terms.values())).sum(), leaves)

    step()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    # At most two gradients and the four corners of one, each 1/64 of a map of the frames' size.
    assert torch.cuda.max_memory_allocated() - before < 2 * 1024 * 2048 * classes * 4 / 6


def test_cuda_takes_triton() -> None:
    assert choose_kernel("auto", torch.device("cuda")) == "triton"
