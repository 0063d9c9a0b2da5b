"""Every kernel gives what the reference gives: values and gradients, over random problems."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_cases import LOSSES, Losses, assert_close, problem, results
from processes import python_output
from roadshift.adapt.losses.atp import soft_cross_entropy
from roadshift.adapt.losses.backends import tiles
from roadshift.adapt.losses.backends.choice import choose_kernel, triton_problem
from roadshift.adapt.losses.backends.core import pixel_sums
from roadshift.adapt.losses.backends.labels import (
    argmax_of_mean,
    argmax_on_grid,
    confident_argmax,
    pixel_argmax,
)
from roadshift.adapt.losses.backends.spec import Inputs, Kernel, Map, Terms, Window
from roadshift.adapt.losses.common import upsample
from roadshift.runtime.errors import ConfigError
from run_cases import SUPPORT
from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")
TRITON = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="Triton is not installed here"
)


@pytest.fixture(scope="module", autouse=True)
def _interpreter() -> Iterator[None]:
    """Triton's interpreter lists its language's names once, not at each call of a function.

    That would be a third of the time of its tests.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        yield
        return
    interpreter: Any = importlib.import_module("triton.runtime.interpreter")
    is_builtin = interpreter.tl.core.is_builtin

    @cache
    def names(of: object) -> list[str]:
        return [name for name, member in inspect.getmembers(of) if is_builtin(member)]

    def patch_builtin(package: Any, builder: object, scope: object) -> None:
        for name in names(package):
            if is_builtin(member := getattr(package, name)):
                interpreter._patch_attr(package, name, member, builder, scope)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_builtin", patch_builtin)
        yield


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", range(12))
def test_tiles_equal_the_reference(
    loss: Losses, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = problem(seed, small=False)
    monkeypatch.setattr(tiles, "TILE_BYTES", p.choose(1, 2000, 1 << 20))
    monkeypatch.setattr(tiles, "MIN_ROWS", p.choose(1, 4))
    monkeypatch.setattr(tiles, "TILE_WIDTH", p.choose(3, 16, 512))
    torch.set_num_threads(p.choose(1, 2, 3))  # `one_thread` sets it back
    assert_close(results(loss, p, "tiled"), results(loss, p, "reference"), 1e-10)


@TRITON
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_triton_equals_the_reference(loss: Losses, seed: int) -> None:
    p = problem(seed, small=True)
    assert_close(results(loss, p, "triton"), results(loss, p, "reference"), 1e-10)


def cropped(full: Tensor, windows: list[Window], size: tuple[int, int]) -> Tensor:
    """The windows of (B, K, H, W), mirrored where they are."""
    rows = []
    for image, window in zip(full, windows, strict=True):
        below, right = window.top + size[0], window.left + size[1]
        crop = image[:, window.top : below, window.left : right]
        rows.append(crop.flip(2) if window.flip else crop)
    return torch.stack(rows)


@pytest.mark.parametrize("kernel", ["tiled", pytest.param("triton", marks=TRITON)])
@pytest.mark.parametrize("seed", range(4))
def test_a_map_of_the_whole_frame_serves_its_mirrored_crops(kernel: Kernel, seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    frame, size = (draw.randint(9, 20), draw.randint(9, 24)), (draw.randint(3, 9), 7)
    align_corners = draw.random() < 0.5
    z = torch.randn(2, 5, 2, 3, dtype=torch.float64)
    t = torch.randn(2, 5, 4, 5, dtype=torch.float64)
    windows = [
        Window(*frame, draw.randint(0, frame[0] - size[0]), draw.randint(0, frame[1] - 7), flip)
        for flip in (False, True)
    ]
    terms = Terms(cross_entropy=True, importance="margin_ratio", soft="logits")
    whole = cropped(upsample(t, frame, align_corners), windows, size)

    def sums(of: Map) -> list[Tensor]:
        leaf = z.clone().requires_grad_()
        inputs = Inputs(size, align_corners, teacher=of, soft=of)
        values, _ = pixel_sums(terms, leaf, inputs, kernel=kernel)
        total = values["cross_entropy"] + 0.3 * values["soft"]
        return [*values.values(), *torch.autograd.grad(total, [leaf])]

    for ours, expected in zip(sums(Map(t, windows)), sums(Map(whole)), strict=True):
        assert torch.allclose(ours, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kernel", ["tiled", pytest.param("triton", marks=TRITON)])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_second_run_gives_the_same_bits(
    loss: Losses, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = problem(1, small=True, dtype=torch.float32)
    if kernel == "tiled":
        monkeypatch.setattr(tiles, "TILE_BYTES", 1)
        monkeypatch.setattr(tiles, "MIN_ROWS", 1)
        monkeypatch.setattr(tiles, "TILE_WIDTH", 5)
        torch.set_num_threads(3)
    first, second = (results(loss, p, kernel) for _ in range(2))
    assert first[0] == second[0]
    assert all(map(torch.equal, first[1:], second[1:]))


@pytest.mark.parametrize("kernel", ["tiled", pytest.param("triton", marks=TRITON)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", LOSSES)
def test_it_rounds_no_worse_than_twice_what_the_reference_does(
    loss: Losses, dtype: torch.dtype, kernel: Kernel
) -> None:
    p = problem(4, small=True, dtype=dtype)
    exact = problem(4, small=True)
    exact.z, exact.t, exact.s = p.z.double(), p.t.double(), p.s.double()
    exact.q, exact.weights = p.q.double(), p.weights.double()
    truth, plain, ours = (
        results(loss, q, k)[1:] for q, k in ((exact, "reference"), (p, "reference"), (p, kernel))
    )
    for a, b, c in zip(truth, plain, ours, strict=True):
        assert c.dtype == b.dtype
        scale = max(1.0, float(a.abs().max()))
        error, allowed = (float((x.double() - a).abs().max()) for x in (c, b))
        assert error <= 2 * allowed + 4 * torch.finfo(torch.float32).eps * scale


@pytest.mark.parametrize("kernel", ["reference", "tiled", pytest.param("triton", marks=TRITON)])
def test_no_image_gives_zero_and_no_gradient(kernel: Kernel) -> None:
    z = torch.zeros(0, 3, 4, 5, requires_grad=True)
    loss = soft_cross_entropy(
        z, torch.zeros(0, 3, 8, 10), (8, 10), align_corners=False, kernel=kernel
    )
    (gradient,) = torch.autograd.grad(loss, [z])
    assert (loss.item(), gradient.shape) == (0, z.shape)


def test_maps_of_other_precision_than_the_students() -> None:
    p = problem(2, small=True)
    p.t = p.t.half()
    terms = Terms(cross_entropy=True, importance="margin_ratio")
    for logits in (p.z, p.z.float()):
        leaf = logits.clone().requires_grad_()
        inputs = Inputs(p.size, p.align_corners, teacher=Map(p.t))
        sums, _ = pixel_sums(terms, leaf, inputs, kernel="tiled")
        (gradient,) = torch.autograd.grad(sums["cross_entropy"], [leaf])
        full = upsample(logits, p.size, p.align_corners)
        t = upsample(p.t.float(), p.size, p.align_corners).softmax(dim=1).topk(2, dim=1).values
        ce = full.log_softmax(dim=1).gather(
            1, upsample(p.t.float(), p.size, p.align_corners).argmax(dim=1, keepdim=True)
        )[:, 0]
        expected = -((1 - t[:, 1] / t[:, 0]) * ce).sum()
        assert sums["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-4)
        assert gradient.dtype == logits.dtype


# --- the choice -----------------------------------------------------------------------------------


def test_the_kernel_follows_the_device() -> None:
    assert choose_kernel("auto", torch.device("cpu")) == "tiled"
    assert choose_kernel("reference", torch.device("cpu")) == "reference"
    assert choose_kernel("tiled", torch.device("cuda")) == "tiled"


def test_triton_where_it_cannot_run_is_refused_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choice = sys.modules[choose_kernel.__module__]
    monkeypatch.setattr(choice, "_interpreted", lambda: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    with pytest.raises(ConfigError, match=r"needs a CUDA device.* is on cpu; loss_backend=t"):
        choose_kernel("triton", torch.device("cpu"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert choose_kernel("auto", torch.device("cuda")) == "tiled"
    with pytest.raises(ConfigError, match="Triton is not installed here"):
        choose_kernel("triton", torch.device("cuda"))


@TRITON
def test_triton_is_tried_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda, notes = torch.device("cpu"), torch.device("cuda"), list[str]()
    assert triton_problem(cpu) is None
    choice: Any = sys.modules[choose_kernel.__module__]
    monkeypatch.setattr(choice, "triton_problem", lambda _: triton_problem(cpu))
    assert choose_kernel("auto", cuda, notes.append) == "triton"
    backend: Any = importlib.import_module("roadshift.adapt.losses.backends.triton_backend")
    works = backend.triton_sums

    def wrong(*arguments: Any) -> Any:
        result = works(*arguments)
        return replace(result, sums=result.sums + 1)

    def breaks(*_: Any) -> Any:
        raise RuntimeError("no kernel image is available\nmore")

    for broken in (wrong, breaks):
        monkeypatch.setattr(backend, "triton_sums", broken)
        assert choose_kernel("auto", cuda, notes.append) == "tiled"
    say = "losses by tiles: Triton does not work on this GPU"
    assert notes == [
        f"{say} (its results are wrong)",
        f"{say} (RuntimeError: no kernel image is available)",
    ]


@TRITON
@pytest.mark.slow
def test_triton_compiles_every_loss_for_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To machine code, by the assembler that Triton brings along: it needs no GPU."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels = json.loads(python_output(SUPPORT / "compile_triton.py", 87, 90))  # Orin, Hopper
    names = {loss.__name__ for loss in LOSSES} | {"many_classes"}
    assert {(at, name) for at, name, _, _ in kernels} == {(c, n) for c in (87, 90) for n in names}
    assert all(size > 1000 for *_, size, _ in kernels)
    assert max(stack for *_, stack in kernels) <= 256  # bytes a thread: spilled registers


# --- cost -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tiles_need_no_memory_of_the_frames_size() -> None:
    """Peak memory of the loss in a process of its own, at two sizes."""
    said = python_output(SUPPORT / "tile_memory.py", 256, 512, 1024, 2048)
    small, large = map(int, said.split())
    one_tensor = 1024 * 2048 * 19 * 4
    assert large - small < one_tensor // 8


# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_labels_of_tiles_and_of_a_grid_are_those_of_the_upsampled_logits(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = problem(seed, small=False)
    monkeypatch.setattr(tiles, "TILE_BYTES", p.choose(1, 2000, 1 << 20))
    monkeypatch.setattr(tiles, "MIN_ROWS", p.choose(1, 4))
    monkeypatch.setattr(tiles, "TILE_WIDTH", p.choose(3, 512))
    torch.set_num_threads(p.choose(1, 3))
    present = p.choose(None, p.present)
    plain, full = (upsample(p.z, p.size, p.align_corners) for _ in range(2))
    if present is not None:
        full.masked_fill_(~present[:, :, None, None], float("-inf"))
    labels = pixel_argmax(p.z, p.size, align_corners=p.align_corners, present=present)
    assert torch.equal(labels, full.max(dim=1).indices)
    labels, confidence = confident_argmax(p.z, p.size, align_corners=p.align_corners)
    expected = plain.softmax(dim=1).max(dim=1)
    assert torch.equal(labels, expected.indices)
    assert torch.allclose(confidence, expected.values, rtol=1e-12)
    grid = (p.choose(1, 3, 5), p.choose(2, 4))
    coarse = argmax_on_grid(p.z, p.size, grid, align_corners=p.align_corners)
    plain = plain.max(dim=1).indices
    nearest = torch.nn.functional.interpolate(plain[:, None].double(), grid, mode="nearest")
    assert torch.equal(coarse, nearest[:, 0].long())


@pytest.mark.parametrize("seed", range(4))
def test_labels_of_several_views_are_those_of_their_mean(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = problem(seed, small=False)
    monkeypatch.setattr(tiles, "TILE_BYTES", p.choose(1, 2000, 1 << 20))
    monkeypatch.setattr(tiles, "MIN_ROWS", p.choose(1, 4))
    monkeypatch.setattr(tiles, "TILE_WIDTH", p.choose(3, 512))
    mirrored = [Window(*p.size, 0, 0, flip=True)]
    views = [Map(p.z[:1]), Map(p.t[:1], mirrored), Map(p.s[:1])]
    full = [upsample(view.values, p.size, p.align_corners).softmax(dim=1) for view in views]
    full[1] = full[1].flip(3)
    mean = torch.stack(full).mean(dim=0)[0]
    labels, confidence = argmax_of_mean(views, p.size, align_corners=p.align_corners)
    assert torch.allclose(confidence, mean.amax(dim=0), rtol=1e-12)
    assert torch.equal(labels, mean.max(dim=0).indices)
