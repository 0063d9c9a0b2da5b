"""mmsegmentation's own networks, where it is installed: an import computes their logits.

`.ci/run` installs it from `.ci/mmsegmentation.txt`, with mmcv's pure Python part alone: what mmcv
compiles, none of these networks asks for.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from roadshift.adapt.models.loading import load_network
from roadshift.adapt.models.mmseg_layouts import LAYOUTS
from roadshift.adapt.workflows.import_bundle import import_bundle
from torch import Tensor, nn

mmengine = pytest.importorskip("mmengine", reason="mmsegmentation is not installed")

CONFIGS = {
    "fast_scnn": "_base_/models/fast_scnn.py",
    "pidnet_s": "pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py",
    "pidnet_m": "pidnet/pidnet-m_2xb6-120k_1024x1024-cityscapes.py",
    "pidnet_l": "pidnet/pidnet-l_2xb6-120k_1024x1024-cityscapes.py",
    "ddrnet23_slim": "ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py",
    "ddrnet23": "ddrnet/ddrnet_23_in1k-pre_2xb6-120k_cityscapes-1024x1024.py",
    "bisenetv2": "_base_/models/bisenetv2.py",
    "segformer_b0": "_base_/models/segformer_mit-b0.py",
}


class Uncompiled(types.ModuleType):
    """In the place of what mmcv compiles; mmcv asks for its functions by name on import."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: pytest.fail(f"mmcv's compiled {name} was called")


@pytest.fixture(scope="module")
def mmseg() -> Any:
    sys.modules.setdefault("mmcv._ext", Uncompiled("mmcv._ext"))
    package = pytest.importorskip("mmseg", reason="mmsegmentation is not installed")
    import_module("mmseg.models")  # fills its registry
    return package


def as_a_cpu_builds_it(config: Any) -> None:
    """Settings of a training on several GPUs, and downloads, taken out."""
    if isinstance(config, dict):
        if config.get("type") == "SyncBN":
            config["type"] = "BN"
        if config.get("type") == "OhemCrossEntropy":  # of PIDNet: its weights go to a GPU
            config.pop("class_weight", None)
        for key in ("init_cfg", "pretrained", "data_preprocessor"):
            config.pop(key, None)
    values = config.values() if isinstance(config, dict) else config
    for value in values:
        if isinstance(value, (dict, list, tuple)):
            as_a_cpu_builds_it(value)


def theirs_of(network: str, mmseg: Any) -> nn.Module:
    """Their network with random weights, biases and statistics, so that each of them shows."""
    file = Path(mmseg.__file__).parent / ".mim" / "configs" / CONFIGS[network]
    model = mmengine.config.Config.fromfile(str(file)).model
    as_a_cpu_builds_it(model)
    model.decode_head.num_classes = 19
    mmengine.registry.init_default_scope("mmseg")
    torch.manual_seed(3)
    built: nn.Module = mmseg.registry.MODELS.build(model)
    with torch.no_grad():
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
        for name, parameter in built.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.2)
    return built.eval()


def logits_of(network: str, answer: Any) -> Tensor:
    """The main head's logits, of those that training asks for beside it: PIDNet's are second."""
    if isinstance(answer, Tensor):
        return answer
    logits: Tensor = answer[1 if network.startswith("pidnet") else 0]
    return logits


def test_every_network_of_the_table_is_compared() -> None:
    assert set(LAYOUTS) <= set(CONFIGS)


@pytest.mark.parametrize("network", CONFIGS)
def test_an_import_computes_what_theirs_does(network: str, mmseg: Any, tmp_path: Path) -> None:
    theirs = theirs_of(network, mmseg)
    classes = {
        "classes": mmseg.utils.cityscapes_classes(),
        "palette": mmseg.utils.cityscapes_palette(),
    }
    checkpoint = {"meta": {"dataset_meta": classes}, "state_dict": theirs.state_dict()}
    torch.save(checkpoint, tmp_path / "w.pth")
    bundle = import_bundle(
        *(tmp_path / "w.pth", network, None, tmp_path / "bundle"), input_size=(128, 64)
    )
    assert bundle.manifest.label_space["name"] == "cityscapes19"
    ours = load_network(bundle, torch.device("cpu"))
    for size in ((64, 128), (96, 160), (128, 64)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            wanted = logits_of(network, theirs(images, mode="tensor"))
            found = logits_of("", ours(images))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
