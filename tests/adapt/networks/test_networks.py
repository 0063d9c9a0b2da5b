"""The registry, and foreign modules seen as networks."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from roadshift.adapt.networks import (
    NETWORKS,
    ForeignNetwork,
    SegmentationNetwork,
    adapt_foreign,
    build_network,
    network_summaries,
)
from roadshift.adapt.networks.outlines import outlines
from roadshift.runtime.errors import NetworkError
from torch import Tensor, nn

K = 5


class Small(nn.Module):
    """Stride-4 network with an auxiliary head; ``form`` shapes its answer."""

    def __init__(self, form: Callable[[Tensor, Tensor], object] = lambda z, _: z) -> None:
        super().__init__()
        self.form = form
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.classifier = nn.Conv2d(8, K, 1)
        self.aux_classifier = nn.Conv2d(8, K, 1)

    def forward(self, images: Tensor) -> object:
        features = self.stem(images)
        logits = self.classifier(features)
        self.aux_classifier(features * 2)
        return self.form(logits, features)


FORMS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "logits": lambda z, _: z,
    "logits and features": lambda z, f: (z, f),
    "logits, features and more": lambda z, f: (z, f, "extra"),
    "torchvision mapping": lambda z, _: {"out": z, "aux": z * 0},
    "mapping with features": lambda z, f: {"out": z, "features": f},
    "mapping with logits": lambda z, _: {"logits": z},
    "logits and something else": lambda z, _: (z, None),
    "a mapping with another key": lambda z, _: {"prediction": z},
}


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 16, 24)


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory; modules imported from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and file.startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_every_answer_becomes_logits_and_features(
    form: Callable[[Tensor, Tensor], object], images: Tensor
) -> None:
    module = Small(form).eval()
    output = adapt_foreign(module, K)(images)
    features = module.stem(images)
    torch.testing.assert_close(output.logits, module.classifier(features))
    torch.testing.assert_close(output.features, features)


@pytest.mark.parametrize(
    ("form", "found"),
    [
        (lambda z, _: {"prediction": z.argmax(1)}, r"a mapping with \['prediction'\]"),
        (lambda z, _: z.argmax(1), r"a tensor of shape \(1, 4, 6\)"),
        (lambda *_: None, "a NoneType"),
        (lambda *_: (), "a tuple"),
    ],
)
def test_an_answer_without_logits_is_refused(
    form: Callable[[Tensor, Tensor], object], found: str, images: Tensor
) -> None:
    with pytest.raises(NetworkError, match=f"Small returned {found}"):
        adapt_foreign(Small(form), K)(images)


def test_another_channel_count_is_refused(images: Tensor) -> None:
    with pytest.raises(NetworkError, match="5 channels, the label space has 7"):
        adapt_foreign(Small(), 7)(images)


def test_without_a_class_head_features_are_what_the_last_convolution_saw(images: Tensor) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4 * K, 1), nn.PixelShuffle(2)).eval()
    output = adapt_foreign(module, K)(images)
    assert output.logits.shape == (2, K, 32, 48)
    torch.testing.assert_close(output.features, module[0](images))


def test_without_any_convolution_there_are_no_features(images: Tensor) -> None:
    class Lookup(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean(1, keepdim=True).expand(-1, K, -1, -1)

    assert adapt_foreign(Lookup(), K)(images).features is None


def test_features_carry_gradient_and_nothing_outlives_the_call(images: Tensor) -> None:
    network = adapt_foreign(Small(), K)
    before = {name: dict(vars(module)) for name, module in network.named_modules()}
    features = network(images).features
    features.sum().backward()
    assert network.get_parameter("stem.0.weight").grad is not None
    for name, module in network.named_modules():
        assert vars(module).keys() == before[name].keys()
        assert not module._forward_pre_hooks


def test_a_copy_computes_with_its_own_weights(images: Tensor) -> None:
    network = adapt_foreign(Small().eval(), K)
    expected = network(images)
    clone = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in clone.parameters():
            parameter.zero_()
    assert clone(images).logits.abs().max() == 0
    assert clone(images).features.abs().max() == 0
    torch.testing.assert_close(network(images), expected)


def test_names_are_those_of_the_users_module() -> None:
    module = Small()
    names = list(module.state_dict())
    network = adapt_foreign(module, K)
    assert list(network.state_dict()) == names
    assert [n for n, _ in network.named_parameters()] == [n for n, _ in module.named_parameters()]
    other = adapt_foreign(Small(), K)
    other.load_state_dict(module.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(other.parameters(), module.parameters(), strict=True)
    )


def test_casting_the_network_casts_the_module(images: Tensor) -> None:
    network = adapt_foreign(Small(), K).double()
    assert network(images.double()).logits.dtype == torch.float64


def test_the_mode_goes_through_the_users_own_train() -> None:
    class FrozenStatistics(Small):
        def train(self, mode: bool = True) -> FrozenStatistics:
            super().train(mode)
            self.stem[1].eval()
            return self

    module = FrozenStatistics()
    network = adapt_foreign(module, K).eval()
    assert not network.training
    assert not module.training
    network.train()
    assert network.training
    assert module.classifier.training
    assert not module.stem[1].training


def test_classifier_parameters_are_those_that_make_the_logits_or_the_users_choice() -> None:
    class Choosing(Small):
        def classifier_parameters(self) -> Iterator[nn.Parameter]:
            return self.aux_classifier.parameters()

    for module, head in ((Small(), "classifier"), (Choosing(), "aux_classifier")):
        found = list(adapt_foreign(module, K).classifier_parameters())
        assert [id(p) for p in found] == [id(p) for p in module.get_submodule(head).parameters()]


def test_a_foreign_network_exports_with_its_features(images: Tensor) -> None:
    network = adapt_foreign(Small().eval(), K)
    exported = torch.export.export(network, (images,))
    torch.testing.assert_close(tuple(exported.module()(images)), tuple(network(images)))
    assert set(exported.state_dict) == set(network.state_dict())


def test_torchscript_is_refused() -> None:
    with pytest.raises(NetworkError, match="TorchScript"):
        adapt_foreign(torch.jit.trace(nn.Conv2d(3, K, 1), torch.zeros(1, 3, 4, 4)), K)
    traced = torch.jit.trace(nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 4, 4))
    with pytest.raises(NetworkError, match="its part 0 is a TorchScript module"):
        adapt_foreign(nn.Sequential(traced, nn.Conv2d(3, K, 1)), K)


def test_a_network_of_ours_is_returned_as_it_is_unless_its_classes_differ() -> None:
    network = build_network("fast_scnn", K)
    assert adapt_foreign(network, K) is network
    with pytest.raises(NetworkError, match="5 classes, the label space has 7"):
        adapt_foreign(network, 7)


def test_summaries_describe_every_registered_network() -> None:
    summaries = {summary.name: summary for summary in network_summaries()}
    assert list(summaries) == list(NETWORKS)
    built = build_network("fast_scnn", 19)
    assert summaries["fast_scnn"].parameters == sum(p.numel() for p in built.parameters())
    assert all(s.stride and s.description and s.paper for s in summaries.values())


def test_an_outline_has_names_and_shapes_and_draws_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = build_network("pidnet_s", 4).state_dict()
    for draw in ("uniform_", "normal_"):
        monkeypatch.setattr(nn.init, f"_no_grad_{draw}", None)
    with pytest.raises(NetworkError, match="'NoneType' object is not callable"):
        build_network("pidnet_s", 4)
    with outlines():
        found = build_network("pidnet_s", 4).state_dict()
    assert all(value.is_meta for value in found.values())
    shapes = [{name: v.shape for name, v in state.items()} for state in (found, whole)]
    assert shapes[0] == shapes[1]


def test_a_factory_in_the_current_directory_is_found(user_folder: Path, images: Tensor) -> None:
    (user_folder / "mynets").mkdir()
    (user_folder / "mynets" / "tiny.py").write_text(
        "from torch import nn\n"
        "def make(num_classes, width=4):\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, num_classes, 1))\n"
    )
    path = list(sys.path)
    network = build_network("mynets.tiny:make", K, width=6)
    assert isinstance(network, ForeignNetwork)
    assert isinstance(network, SegmentationNetwork)
    assert network(images).logits.shape == (2, K, 16, 24)
    assert network(images).features.shape == (2, 6, 16, 24)
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nosuch:make", "there is no module 'nosuch'"),
        ("broken:make", "importing 'broken' raised ZeroDivisionError: division by zero"),
        (
            "needy:make",
            "importing 'needy' raised .*'nosuch_dependency'; install what it imports beside",
        ),
        ("nets:missing", "'missing' does not exist in .*nets.py"),
        ("nets:NUMBER", "'NUMBER' is not callable"),
        ("nets:raises", "the factory raised ValueError: no weights at hand"),
        ("nets:takes_nothing", "the factory returned a NoneType"),
        ("nets:takes_more", "the factory also needs depth; give arguments depth=VALUE"),
        ("nets:takes_other", "also needs depth .*no parameter is called num_classes, classes"),
        ("nets:returns_text", "the factory returned a str"),
        (":make", "'' is no name of a module"),
    ],
)
def test_a_factory_that_fails_is_named_with_the_reason(
    user_folder: Path, name: str, sentence: str
) -> None:
    (user_folder / "broken.py").write_text("1 / 0\n")
    (user_folder / "needy.py").write_text("import nosuch_dependency\n")
    (user_folder / "nets.py").write_text(
        "NUMBER = 3\n"
        "def raises(num_classes): raise ValueError('no weights at hand')\n"
        "def takes_nothing(): return None\n"
        "def takes_more(num_classes, depth): return None\n"
        "def takes_other(depth): return None\n"
        "def returns_text(num_classes): return 'network'\n"
    )
    with pytest.raises(NetworkError, match=sentence):
        build_network(name, K)


@pytest.mark.parametrize("name", ["fast_scnn", "tiny_network:build"])
def test_one_class_is_refused(name: str) -> None:
    with pytest.raises(NetworkError, match=r"of one class every pixel is that class.*two classes"):
        build_network(name, 1)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(NetworkError, match=r"no network 'resnet'; choose one of .*fast_scnn"):
        build_network("resnet", K)


def test_an_argument_that_the_network_does_not_take_is_named() -> None:
    with pytest.raises(NetworkError, match=r"'fast_scnn': .*'depth'"):
        build_network("fast_scnn", K, depth=3)


def test_an_argument_that_a_network_does_not_take_is_refused_with_those_that_it_does() -> None:
    with pytest.raises(NetworkError, match=r"'scal'; it takes scale=2\.0, decoder_width=16\.$"):
        build_network("espnetv2", 20, scal=0.5)
    with pytest.raises(NetworkError, match=r"it takes variant=paper\.$"):
        build_network("fast_scnn", 19, width=2)
