"""The example of docs/new-method.md, as it stands on the page, is a method that works."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from roadshift.adapt import RunOptions, adapt_bundle, register_method
from roadshift.adapt.methods import METHODS, Method, resolve_config
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.adapt.run.config import RunConfig
from roadshift.adapt.training.trainer import Trainer
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.errors import ConfigError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate

PAGE = Path(__file__).parents[3] / "docs" / "new-method.md"
MODULE = "roadshift.adapt.methods.max_squares"


@pytest.fixture
def code() -> str:
    """The page's only block of Python."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert isinstance(block, str)
    return block


@pytest.fixture
def example(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Method]]:
    """The example as a module beside the other methods, registered."""
    file = tmp_path / "max_squares.py"
    file.write_text(code)
    spec = importlib.util.spec_from_file_location(MODULE, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, MODULE, module)
    spec.loader.exec_module(module)
    method: type[Method] = module.MaxSquares
    yield register_method(method)
    del METHODS[method.name]


def test_the_example_is_a_file_of_about_forty_lines(code: str) -> None:
    assert len([line for line in code.splitlines() if line.strip()]) <= 45


def test_the_example_is_not_in_the_registry_yet() -> None:
    assert "max_squares" not in METHODS  # else the page should take another


def test_adapting_with_the_example_moves_the_weights_and_logs_its_term(
    example: type[Method],
    source: Bundle,
    frames_dir: Path,
    tmp_path: Path,
    settings: Callable[..., RunConfig],
) -> None:
    config = settings("training.steps=3", "tone=none", method=example.name)
    assert config.method_config == {"alpha": 0.2}
    bundle = adapt_bundle(source, [frames_dir], config, RunOptions(tmp_path / "out", device="cpu"))
    assert bundle.manifest.provenance.method == "max_squares"
    lines = (bundle.path / "history.jsonl").read_text().splitlines()
    assert len(lines) == 3
    for line in map(json.loads, lines):
        assert line["stage"] == "max_squares"
        assert line["losses"].keys() == {"squares", "total"}
        assert line["losses"]["squares"] < 0
    before, after = (load_file(b.path / "model.safetensors") for b in (source, bundle))
    assert all(not torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_its_setting_is_checked(example: type[Method]) -> None:
    assert resolve_config(example.name, assignments=["max_squares.alpha=0"]).method_config == {
        "alpha": 0.0
    }
    with pytest.raises(ConfigError, match=r"section max_squares.*alpha"):
        resolve_config(example.name, assignments=["max_squares.alpha=2"])


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
def test_its_loss_is_the_formula_in_its_docstring(
    alpha: float,
    example: type[Method],
    make_trainer: Callable[..., Trainer],
    network: Callable[..., SegmentationNetwork],
) -> None:
    model = network(dropout=0.0).double()
    (stage,) = example.stages(example.Config.model_validate({"alpha": alpha}))
    trainer = make_trainer(model, [stage])
    seen: list[Tensor] = []
    model.register_forward_hook(lambda _, __, output: seen.append(output.logits))
    model.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    stage.begin(model, trainer.context)
    ours = stage.losses(trainer.sampler.batch(0))["squares"]
    total, count = 0.0, 0
    for image in interpolate(seen[0], trainer.context.crop_size, mode="bilinear"):
        pixels = image.softmax(dim=0).flatten(1).T.tolist()
        labels = [p.index(max(p)) for p in pixels]
        for p, c in zip(pixels, labels, strict=True):
            total -= (len(labels) / labels.count(c)) ** alpha * sum(q * q for q in p) / 2
        count += len(pixels)
    assert ours.item() == pytest.approx(total / count, rel=1e-7)  # its weights are float32
