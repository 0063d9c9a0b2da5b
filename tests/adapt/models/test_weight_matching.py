"""A network's weights are found below any keys, behind any prefix, beside anything else."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from roadshift.adapt.models.importing import load_weights, load_weights_file, read_checkpoint
from roadshift.adapt.networks import SegmentationNetwork, adapt_foreign
from roadshift.runtime.errors import NetworkError
from torch import Tensor, nn

CLASSES = 4


class Small(nn.Module):
    """A trunk with batch norm and a head, as a user writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.layer1 = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer1(self.conv1(images)))
        return logits


def network(wrapped: str = "", seed: int = 0) -> SegmentationNetwork:
    """A small network, its parts below the attribute ``wrapped`` of another where given."""
    torch.manual_seed(seed)
    module: nn.Module = Small()
    for name in reversed(wrapped.split(".")) if wrapped else ():
        module = nn.ModuleDict({name: module})
    return adapt_foreign(module, CLASSES)


def weights(seed: int = 1) -> dict[str, Tensor]:
    """Weights of a small network, by the names in it."""
    return dict(network(seed=seed).state_dict())


def nested(path: str, value: Any) -> Any:
    for key in reversed(path.split("/")) if path else ():
        value = {key: value}
    return value


def assert_holds(built: SegmentationNetwork, state: dict[str, Tensor]) -> None:
    found = list(built.state_dict().values())
    assert len(found) == len(state)
    for value, expected in zip(found, state.values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=0)


# What training scripts save beside a model; none of it is of the model.
EXTRAS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "epoch": {"epoch": 3, "best": 0.5, "args": {"lr": 0.1}, "n_averaged": torch.tensor(3)},
    "optimizer": {
        "optimizer": {"state": {0: {"exp_avg": torch.ones(4, 3, 3, 3)}}, "param_groups": [{}]}
    },
    "loss": {"sem_loss": {"criterion.weight": torch.ones(CLASSES)}, "bd_loss.pos": torch.ones(1)},
}
PREFIXES = ["", "module.", "model.", "net.", "network.", "encoder.", "_orig_mod.module.", "a.b.c."]
WRAPPERS = ["", "state_dict", "model", "my_weights", "checkpoint/model_state"]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrappers_and_prefixes_of_any_name_lead_to_the_weights(
    tmp_path: Path, prefix: str, wrapper: str
) -> None:
    state = weights()
    content = nested(wrapper, {prefix + name: value for name, value in state.items()})
    for wrapped, (extra, beside) in itertools.product(("", "model", "net.inner"), EXTRAS.items()):
        torch.save({**content, **beside}, tmp_path / "w.pth")
        built = network(wrapped)
        said: list[str] = []
        load_weights_file(built, tmp_path / "w.pth", note=said.append)
        assert_holds(built, state)
        assert len(said) == 1
        assert ("left out" in said[0]) == (extra != "nothing")
        assert ".".join(filter(None, [wrapper.replace("/", "."), prefix.rstrip(".")])) in said[0]


@settings(max_examples=60, deadline=None)
@given(
    prefix=st.lists(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), max_size=4),
    own=st.lists(st.sampled_from(["model", "net", "core"]), max_size=2),
    inside=st.sampled_from(["criterion.weight", "loss.a.b", "aux.0.bias", "total.x"]),
    outside=st.from_regex(r"zz[a-z]{1,5}(\.[a-z]{1,5}){0,2}", fullmatch=True),
)
def test_any_prefix_is_found_beside_any_other_key(
    prefix: list[str], own: list[str], inside: str, outside: str
) -> None:
    state, start = weights(), "".join(f"{part}." for part in prefix)
    content = {start + name: value for name, value in state.items()}
    content |= {start + inside: torch.ones(2), outside: torch.ones(3)}
    built = network(".".join(own))
    said: list[str] = []
    load_weights(built, content, "w.pth", note=said.append)
    assert_holds(built, state)
    assert "2 other tensors were left out" in said[0]
    assert inside in said[0]
    assert outside in said[0]


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod", "_checkpoint_wrapped_module"])
@pytest.mark.parametrize("prefix", ["", "state_dict.model."])
def test_parts_that_were_wrapped_when_saved_are_found(wrapper: str, prefix: str) -> None:
    state, built, said = weights(), network(), []
    saved = {prefix + n.replace("layer1.", f"layer1.{wrapper}."): t for n, t in state.items()}
    load_weights(built, saved, "x.pth", note=said.append)
    assert_holds(built, state)
    assert f"of its names, what wraps parts of a network ({wrapper}) was left out" in said[0]


def test_a_missing_name_is_told_as_before_where_no_wrapper_explains_it() -> None:
    saved = {n.replace("layer1.", "layer1.module."): t for n, t in weights().items()}
    del saved["head.bias"]
    with pytest.raises(NetworkError, match=r"names are missing \("):
        load_weights(network(), saved, "x.pth", note=lambda _: None)


def test_pidnets_own_save_is_taken_and_its_losses_are_named(tmp_path: Path) -> None:
    """A wrapper of model and losses, trained in parallel, saved with its optimiser."""
    state = weights()
    full = {f"model.{name}": value for name, value in state.items()}
    full |= {"sem_loss.criterion.weight": torch.ones(CLASSES), "bd_loss.weight": torch.ones(2)}
    torch.save({"epoch": 9, "state_dict": full}, tmp_path / "pidnet.pth")
    built = network()
    said: list[str] = []
    load_weights_file(built, tmp_path / "pidnet.pth", note=said.append)
    assert_holds(built, state)
    assert said == [
        f"{tmp_path / 'pidnet.pth'}: took 8 tensors from 'state_dict.model'; 2 other tensors were "
        "left out (state_dict.sem_loss.criterion.weight, state_dict.bd_loss.weight)."
    ]


@pytest.mark.parametrize(
    ("model", "average"),
    [
        ("model", "ema"),
        ("state_dict", "state_dict_ema"),
        ("net", "net_ema"),
        ("generator", "generator_ema"),
        ("weights_of_today", "swa"),
    ],
)
def test_the_model_comes_before_its_average_and_the_key_chooses(
    tmp_path: Path, model: str, average: str
) -> None:
    now, mean = weights(1), weights(2)
    path = tmp_path / "w.pth"
    torch.save({average: mean, model: now}, path)
    built = network()
    said: list[str] = []
    load_weights_file(built, path, note=said.append)
    assert_holds(built, now)
    assert f"from '{model}'" in said[0]
    assert f"key {average}" in said[0]
    load_weights(built, read_checkpoint(path), "w.pth", key=average, note=said.append)
    assert_holds(built, mean)
    assert f"from '{average}'" in said[1]


def test_an_average_alone_is_taken_and_said() -> None:
    said: list[str] = []
    built = network()
    state = {f"ema.module.{name}": value for name, value in weights().items()}
    load_weights(built, state, "w.pth", note=said.append)
    assert_holds(built, weights())
    assert "from 'ema.module'" in said[0]


def test_a_word_that_holds_the_letters_of_an_average_is_none() -> None:
    content = {f"{part}.{n}": v for part, seed in (("semantic", 1), ("schema_ema", 2))
               for n, v in weights(seed).items()}  # fmt: skip
    built = network()
    load_weights(built, content, "w.pth", note=lambda _: None)
    assert_holds(built, weights(1))


def test_weights_stored_part_by_part_or_in_a_list_are_found(tmp_path: Path) -> None:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in weights().items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    for content in (parts, {"parts": parts}, [weights(), {"epoch": 3}], (3, {"w": weights()})):
        torch.save(content, tmp_path / "w.pth")
        built = network()
        load_weights_file(built, tmp_path / "w.pth", note=lambda _: None)
        assert_holds(built, weights())


def test_two_models_of_equal_standing_are_refused_with_both_keys() -> None:
    content = {f"student.{n}": v for n, v in weights(1).items()}
    content |= {f"teacher.{n}": v for n, v in weights(2).items()}
    with pytest.raises(NetworkError, match=r"fits 2 sets .*\('student', 'teacher'\).*key student"):
        load_weights(network(), content, "w.pth", note=lambda _: None)
    built = network()
    load_weights(built, content, "w.pth", key="teacher", note=lambda _: None)
    assert_holds(built, weights(2))
    same = {f"{name}.{n}": v for name in ("one", "two") for n, v in weights(1).items()}
    load_weights(built, same, "w.pth", note=lambda _: None)
    assert_holds(built, weights(1))


def test_a_key_that_is_not_there_lists_those_that_are() -> None:
    content = {f"student.{n}": v for n, v in weights().items()}
    with pytest.raises(NetworkError, match=r"nothing lies below key 'ema'.* student \(\d+\)"):
        load_weights(network(), content, "w.pth", key="ema")


@pytest.mark.parametrize("prefix", ["", "model.", "a.b."])
@pytest.mark.parametrize("part", ["conv2.weight", "layer2.bias", "conv1.bias", "head.scale"])
def test_more_of_a_part_that_the_network_has_is_a_deeper_network_and_refused(
    prefix: str, part: str
) -> None:
    content = {prefix + name: value for name, value in weights().items()}
    content[prefix + part] = torch.ones(4)
    with pytest.raises(NetworkError, match=rf"1 are unexpected \({prefix}{part}\)"):
        load_weights(network(), content, "w.pth", note=lambda _: None)


def test_missing_names_are_those_of_the_closest_prefix() -> None:
    content = {f"model.{n}": v for n, v in weights().items() if not n.startswith("head.")}
    content |= {"ema.head.bias": torch.ones(4), "model.classifier.bias": torch.ones(4)}
    with pytest.raises(
        NetworkError,
        match=r"2 names are missing \(head.weight, head.bias\), 1 are unexpected "
        r"\(classifier.bias\).*key \(of 7 names: 'model' with 5, 'ema' with 1\)",
    ):
        load_weights(network(), content, "w.pth", note=lambda _: None)


def test_counters_of_tools_are_no_part_of_a_network() -> None:
    content = {**weights(), "conv1.total_ops": torch.ones(1), "head.total_params": torch.ones(1)}
    said: list[str] = []
    load_weights(network(), content, "w.pth", note=said.append)
    assert "2 other tensors were left out (conv1.total_ops, head.total_params)" in said[0]


def test_a_bundles_own_weights_may_hold_nothing_else() -> None:
    with pytest.raises(NetworkError, match=r"1 are unexpected \(loss.weight\)"):
        load_weights(network(), {**weights(), "loss.weight": torch.ones(1)}, "w.pth")


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    torch.save({"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}}, tmp_path / "w.pth")
    with pytest.raises(NetworkError, match=r"two tensors named 'a\.b'"):
        read_checkpoint(tmp_path / "w.pth")
