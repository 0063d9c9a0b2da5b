"""Mixed precision: what a device has, autocast, clipping, and the scaler that fp16 needs."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest
import torch
from roadshift.adapt.run import precision as module
from roadshift.adapt.run.precision import Precision, PrecisionName, native_precisions
from roadshift.runtime.errors import ConfigError
from torch import nn

CPU = torch.device("cpu")


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"training\.amp=fp16 needs a GPU; on a CPU use bf16 or off"
    ):
        Precision("fp16", CPU)


@pytest.mark.parametrize(("has_bf16", "names"), [(True, ("bf16",)), (False, ())])
def test_a_cpu_offers_bf16_where_it_has_it(
    has_bf16: bool, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: has_bf16)
    assert native_precisions(CPU) == names


@pytest.mark.parametrize(("has_bf16", "names"), [(True, ("bf16", "fp16")), (False, ("fp16",))])
def test_a_gpu_always_offers_fp16(
    has_bf16: bool, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bf16)
    assert native_precisions(torch.device("cuda")) == names


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False}, False),
        ({}, False),
    ],
)
def test_emulated_bf16_does_not_count(
    capabilities: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(module.torch, "ops", MagicMock())
    assert module.cpu_has_bf16() is expected
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert module.cpu_has_bf16() is False


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_a_torch_that_lists_no_capabilities_is_asked_for_each(
    avx512: bool, amx: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(module.torch, "ops", MagicMock())
    assert module.cpu_has_bf16() is expected


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_changes_the_forward_pass_and_not_the_weights(
    name: PrecisionName, dtype: torch.dtype
) -> None:
    layer = nn.Conv2d(3, 2, 1)
    precision = Precision(name, CPU)
    with precision.autocast():
        out = layer(torch.randn(1, 3, 4, 4))
    assert out.dtype == dtype
    precision.backward(out.float().sum())
    assert layer.weight.dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize(("limit", "expected"), [(None, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_gradients_are_clipped_to_the_limit(limit: float | None, expected: float) -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    optimizer = torch.optim.SGD([weight], lr=0.1)
    norm = Precision("fp32", CPU).unscale_and_clip(optimizer, [weight], limit)
    assert float(norm) == pytest.approx(5.0)  # before clipping
    assert float(weight.grad.norm()) == pytest.approx(expected, rel=1e-5)


# --- the scaler, which torch has on a CPU too, though `Precision` asks for it on a GPU only ------


def scaling(scale: float) -> Precision:
    precision = Precision("fp32", CPU)
    precision._scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    precision._found_scale = False
    return precision


def attempt(precision: Precision, weight: nn.Parameter, factor: float) -> bool:
    """One step; an infinite ``factor`` overflows."""
    optimizer = torch.optim.SGD([weight], lr=0.5)
    optimizer.zero_grad()
    precision.backward((weight * factor).sum())
    norm = precision.unscale_and_clip(optimizer, [weight], None)
    if torch.isfinite(norm):
        precision.step(optimizer)
        return True
    precision.skip()
    return False


def scale_of(precision: Precision) -> float:
    state = precision.state()
    assert state is not None
    return state["scale"]


def test_an_overflow_halves_the_scale_until_a_step_passes() -> None:
    precision, weight = scaling(1024.0), nn.Parameter(torch.zeros(3))
    assert precision.still_searching
    assert not attempt(precision, weight, float("inf"))
    assert not attempt(precision, weight, float("inf"))
    assert scale_of(precision) == 256.0
    assert precision.still_searching
    assert torch.equal(weight, torch.zeros(3))
    assert attempt(precision, weight, 2.0)
    assert not precision.still_searching
    torch.testing.assert_close(weight.detach(), torch.full((3,), -1.0))  # unscaled: -0.5 * 2


@pytest.mark.parametrize("found", [False, True])
def test_the_scaler_goes_on_after_a_resume(found: bool) -> None:
    precision, weight = scaling(1024.0), nn.Parameter(torch.zeros(3))
    attempt(precision, weight, float("inf"))
    if found:
        attempt(precision, weight, 1.0)
    again = scaling(8.0)
    again.load_state(precision.state())
    assert again.state() == precision.state()
    assert again.still_searching is not found
    for _ in range(2):  # the same growth from here on
        attempt(precision, weight, 1.0)
        attempt(again, nn.Parameter(torch.zeros(3)), 1.0)
        assert again.state() == precision.state()


def test_without_a_scaler_there_is_no_state() -> None:
    precision = Precision("bf16", CPU)
    assert precision.state() is None
    precision.load_state(None)
    precision.load_state(scaling(4.0).state())  # a run that went on on another machine
    precision.skip()
    assert precision.state() is None
    assert not precision.still_searching
