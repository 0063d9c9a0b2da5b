"""Weights that no network can compute with are refused by the names of their tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from roadshift.adapt import load_network
from roadshift.adapt.models.importing import load_weights
from roadshift.adapt.networks import adapt_foreign, build_network
from roadshift.adapt.workflows.import_bundle import import_bundle
from roadshift.runtime.bundle import BundleWriter
from roadshift.runtime.errors import NetworkError
from roadshift.runtime.labels import label_space
from torch import Tensor, nn

SPACE = label_space("camvid11")


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(build_network("tiny_network:build", SPACE.num_classes).state_dict())


def load(state: dict[str, Tensor], said: list[str] | None = None) -> dict[str, Tensor]:
    network = build_network("tiny_network:build", SPACE.num_classes)
    load_weights(network, state, "w.pth", note=(list[str]() if said is None else said).append)
    return dict(network.state_dict())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["first.weight", "classifier.bias", "second_norm.running_mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("share", ["one", "all"])
def test_values_that_are_not_finite_are_refused_by_name_and_count(
    bad: float, name: str, dtype: torch.dtype, share: str
) -> None:
    state = {n: v.to(dtype) if v.is_floating_point() else v for n, v in weights().items()}
    state[name] = torch.full_like(state[name], bad) if share == "all" else state[name].clone()
    state[name].view(-1)[0] = bad
    count = state[name].numel() if share == "all" else 1
    with pytest.raises(
        NetworkError,
        match=rf"1 tensor of the weights holds values that are not finite \({name}: {count} of ",
    ):
        load(state)


def test_many_bad_tensors_are_counted_and_the_first_named() -> None:
    state = {n: v * float("nan") if v.is_floating_point() else v for n, v in weights().items()}
    with pytest.raises(
        NetworkError, match=r"14 tensors of the weights hold .*\(first.weight: .*, \.\.\.\)"
    ):
        load(state)


def test_a_variance_below_zero_is_refused() -> None:
    state = weights()
    state["first_norm.running_var"] = torch.tensor([1.0, 0.0, -1e-3, 1.0, -2.0, 1.0])
    with pytest.raises(NetworkError, match=r"variances below 0.*first_norm.running_var: 2 of 6"):
        load(state)


def test_a_mask_of_infinities_that_the_network_is_built_with_is_no_fault() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 4, 1)
            self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))

    network = adapt_foreign(Masked(), 4)
    load_weights(network, network.state_dict(), "w.pth")
    bad = {**network.state_dict(), "mask": torch.tensor([float("-inf"), float("-inf")])}
    with pytest.raises(NetworkError, match="mask: 2 of 2"):
        load_weights(network, bad, "w.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32_and_it_is_said(dtype: torch.dtype) -> None:
    state = {n: v.to(dtype) if v.is_floating_point() else v for n, v in weights().items()}
    said: list[str] = []
    loaded = load(state, said)
    assert f"{str(dtype).removeprefix('torch.')} became float32" in said[0]
    for name, value in state.items():
        assert loaded[name].dtype == (torch.float32 if value.is_floating_point() else value.dtype)
        torch.testing.assert_close(loaded[name], value.to(loaded[name].dtype), rtol=0, atol=0)


def test_what_overflows_the_networks_dtype_is_refused() -> None:
    state = {n: v.double() if v.is_floating_point() else v for n, v in weights().items()}
    state["first.bias"][2] = 1e39
    with pytest.raises(NetworkError, match=r"first.bias: reaches 1e\+39 where float32 ends at"):
        load(state)
    half = adapt_foreign(nn.Conv2d(3, 4, 1).half(), 4)
    wide = {"weight": torch.full((4, 3, 1, 1), 7e4), "bias": torch.zeros(4)}
    with pytest.raises(NetworkError, match=r"weight: reaches 7e\+04 where float16 ends"):
        load_weights(half, wide, "w.pth")


def quantised(value: Tensor) -> Tensor:
    return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    "kind", ["tensors", "integers", "eight-bit floats", "packed", "packed 4 bit"]
)
def test_quantised_checkpoints_are_refused_in_a_sentence(tmp_path: Path, kind: str) -> None:
    state = weights()
    if kind == "tensors":
        state["first.weight"] = quantised(state["first.weight"])
    elif kind == "integers":
        state["first.weight"] = state["first.weight"].to(torch.int8)
    elif kind == "eight-bit floats":
        state["first.weight"] = state["first.weight"].to(torch.float8_e4m3fn)
    elif kind == "packed":
        packed = (quantised(state.pop("first.weight")), state.pop("first.bias"))
        state["first._packed_params._packed_params"] = packed  # type: ignore[assignment]
    else:
        state["first.qweight"] = state.pop("first.weight").to(torch.int32)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(NetworkError, match=r"w.pth: holds quantised weights \(\d tensors?: first"):
        import_bundle(
            tmp_path / "w.pth", "tiny_network:build", SPACE, tmp_path / "b", input_size=(96, 64)
        )
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("kind", ["sparse", "meta", "complex"])
def test_tensors_that_are_no_plain_arrays_are_refused(kind: str) -> None:
    state = weights()
    value = state["first.bias"]
    state["first.bias"] = {
        "sparse": value.to_sparse(),
        "meta": value.to("meta"),
        "complex": value.to(torch.complex64),
    }[kind]
    with pytest.raises(NetworkError, match=r"holds what is no plain array .*first.bias"):
        load(state)


def test_a_bundle_whose_weights_are_not_finite_is_not_loaded(tmp_path: Path) -> None:
    good = weights()
    torch.save(good, tmp_path / "w.pth")
    bundle = import_bundle(
        tmp_path / "w.pth", "tiny_network:build", SPACE, tmp_path / "b", input_size=(96, 64)
    )
    bad = {n: v * float("nan") if v.is_floating_point() else v for n, v in good.items()}
    with BundleWriter(bundle.path, overwrite=True, base=bundle) as writer:
        writer.add_bytes("model.safetensors", safetensors.torch.save(bad), kind="weights")
        broken = writer.commit()
    with pytest.raises(NetworkError, match=r"model.safetensors: 14 tensors .* not finite"):
        load_network(broken, torch.device("cpu"))
