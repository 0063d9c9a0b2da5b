"""Checkpoints: what goes in comes out, damage is one sentence, a failed write changes nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from roadshift.adapt.run.checkpoint import (
    RunState,
    load_checkpoint,
    load_optimizer_tensors,
    optimizer_bytes,
    optimizer_tensors,
    read_tensors,
    save_checkpoint,
    tensor_parts,
    write_atomically,
)
from roadshift.runtime.errors import OutputError, TrainingError
from torch import Tensor, nn

STATE = RunState(
    "abc",
    stage=1,
    stage_start=5,
    done=7,
    planned_steps=12,
    micro_batch=2,
    precision="bf16",
    precision_measured={"fp32": {"seconds": 0.5, "gradient_cosine": None}},
    elapsed_s=1.25,
    skipped_steps=3,
    bad_streak=1,
    history_bytes=900,
    scaler={"scale": 512.0},
)


def test_tensors_and_state_come_back_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "weights": torch.randn(3, 2, 3, 3).to(memory_format=torch.channels_last),
        "count": torch.tensor(7),
        "half": torch.randn(4).bfloat16(),
        "mask": torch.tensor([True, False]),
        "not finite": torch.tensor([float("nan"), float("inf"), -0.0]),
        "empty": torch.zeros(0, 4),
    }
    save_checkpoint(tmp_path / "c", tensors, STATE)
    loaded, state = load_checkpoint(tmp_path / "c")
    assert state == STATE
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_tied_weights_are_stored(tmp_path: Path) -> None:
    weight = torch.randn(4)
    save_checkpoint(tmp_path / "c", {"one": weight, "other": weight}, STATE)
    loaded, _ = load_checkpoint(tmp_path / "c")
    assert torch.equal(loaded["one"], weight)
    assert torch.equal(loaded["other"], weight)


def test_a_tensor_at_a_time_is_copied() -> None:
    tensors = {f"w{i}": torch.full((4, 5), float(i), dtype=torch.float64).T for i in range(3)}
    tensors["narrow"] = torch.ones(3, dtype=torch.uint8)
    parts = tensor_parts(tensors, {"a": "b"})
    head = bytes(next(parts))
    assert (len(head) - 8) % 8 == 0  # so that every tensor is aligned
    sizes = [len(bytes(part)) for part in parts]
    assert sizes == [160, 160, 160, 3]  # the widest first


# --- optimisers ----------------------------------------------------------------------------------


def convolution(seed: int = 0) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)


def step(layer: nn.Conv2d, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    optimizer.zero_grad()
    layer(torch.randn(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-3),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_an_optimiser_goes_on_as_if_it_had_never_stopped(
    make: Callable[[Any], torch.optim.Optimizer],
) -> None:
    layer = convolution()
    optimizer = make(layer.parameters())
    for seed in range(3):
        step(layer, optimizer, seed)
    stored = {name: t.contiguous().clone() for name, t in optimizer_tensors(optimizer).items()}
    other = convolution(seed=9)
    other.load_state_dict(layer.state_dict())
    again = make(other.parameters())
    load_optimizer_tensors(again, stored)
    for parameter, twin in zip(layer.parameters(), other.parameters(), strict=True):
        ours, theirs = optimizer.state[parameter], again.state[twin]
        assert {k for k, v in ours.items() if v is not None} == set(theirs)
        for key, value in theirs.items():
            assert isinstance(value, Tensor)
            assert value.stride() == ours[key].stride()  # laid out as it was: same arithmetic
            assert value.data_ptr() != stored[f"0.{key}"].data_ptr()
    step(layer, optimizer, 3)
    step(other, again, 3)
    assert torch.equal(layer.weight, other.weight)
    assert torch.equal(layer.bias, other.bias)


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_the_moments_take_the_memory_foretold(name: str) -> None:
    layer = convolution()
    optimizer = OPTIMIZERS[name](layer.parameters())
    foretold = optimizer_bytes(optimizer)
    step(layer, optimizer, 0)
    moments = [t for n, t in optimizer_tensors(optimizer).items() if not n.endswith(".step")]
    assert foretold == sum(t.numel() * t.element_size() for t in moments)


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 5, 40, 200, -1])
def test_a_truncated_checkpoint_is_damaged(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "run" / "c"
    path.parent.mkdir()
    save_checkpoint(path, {"weights": torch.zeros(100)}, STATE)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TrainingError, match="damaged") as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert f"delete {path.parent} and start again" in str(caught.value)


def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with pytest.raises(TrainingError, match="damaged"):
        read_tensors(path)
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(TrainingError, match="damaged"):
        load_checkpoint(path)
    states = [{}, {"state": "{"}, {"state": "[1]"}, {"state": '{"stage": 1}'}]
    states.append({"state": '{"fingerprint": "a", "epoch": 3}'})
    for metadata in states:
        path.write_bytes(b"".join(tensor_parts({"weights": torch.zeros(2)}, metadata)))
        with pytest.raises(TrainingError, match="not a checkpoint of this version"):
            load_checkpoint(path)


# --- writing -------------------------------------------------------------------------------------


def refuse(code: int) -> Callable[..., Any]:
    def raising(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return raising


@pytest.mark.parametrize("where", ["open", "fsync", "replace"])
def test_a_full_disk_leaves_the_checkpoint_before(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c"
    save_checkpoint(path, {"weights": torch.zeros(3)}, STATE)
    owner: Any = Path if where == "open" else os
    with monkeypatch.context() as patch:
        patch.setattr(owner, where, refuse(errno.ENOSPC))
        with pytest.raises(OutputError, match=f"{path}: the disk is full"):
            save_checkpoint(path, {"weights": torch.ones(3)}, STATE)
    loaded, state = load_checkpoint(path)
    assert state == STATE
    assert torch.equal(loaded["weights"], torch.zeros(3))
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_turned_read_only_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "open", refuse(errno.EROFS))
    monkeypatch.setattr(Path, "unlink", refuse(errno.EROFS))
    with pytest.raises(OutputError, match="cannot write here"):
        write_atomically(tmp_path / "c", b"data")
