"""`roadshift.export_bundle`: arguments that are refused, by name, before anything is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import roadshift
from roadshift.runtime.bundle import BundleWriter, InputSpec, NetworkSpec, Provenance
from roadshift.runtime.labels import label_space


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose weights nobody reads."""
    path = tmp_path / "bundle"
    with BundleWriter(path) as writer:
        writer.add_bytes("model.safetensors", b"w", kind="weights")
        writer.commit(
            network=NetworkSpec(name="fast_scnn"),
            label_space=label_space("cityscapes19"),
            input=InputSpec(width=64, height=32, mean=(0, 0, 0), std=(1, 1, 1)),
            provenance=Provenance(method="import"),
        )
    return path


@pytest.mark.parametrize(
    ("changes", "argument", "words"),
    [
        ({"formats": "onnx"}, "formats", r"'onnx' is no list of names, such as \('onnx',\)"),
        ({"formats": ("onxx",)}, "formats", "this version exports to onnx, tensorrt"),
        ({"precisions": ("fp64",)}, "precisions", "this version exports to fp32"),
        ({"precisions": (16,)}, "precisions", "is no list of names"),
        ({"precisions": None}, "precisions", "None is no list of names"),
        ({"refit": 3}, "refit", "3 is no path"),
        ({"frames": 3}, "frames", "give a path or a list of paths"),
        ({"calibration": "drive"}, "calibration", "is for int8"),
        ({"labels": "labels"}, "labels", "needs one frames"),
        ({"label_map": {"road": "road"}}, "label_map", "which these are with label_space"),
        ({"argmax": "gpu"}, "argmax", "use auto, graph, runtime"),
        ({"min_agreement": 101}, "min_agreement", "is a percentage"),
        ({"max_miou_drop": 1}, "max_miou_drop", "needs frames and labels"),
        ({"workspace_mib": 0}, "workspace_mib", "0 is no finite number above 0"),
        ({"logits": "no"}, "logits", "'no' is neither True nor False"),
        ({"self_test": 1}, "self_test", "1 is neither True nor False"),
        ({"refittable": None}, "refittable", "None is neither True nor False"),
        ({"refittable": True}, "refittable", r"are for formats=\('tensorrt',\)"),
        ({"opset": 3}, "opset", "choose"),
    ],
)
def test_an_error_names_the_argument(
    changes: dict[str, Any], argument: str, words: str, bundle: Path
) -> None:
    with pytest.raises(roadshift.ConfigError, match=words) as caught:
        roadshift.export_bundle(bundle, **changes)
    assert caught.value.argument == argument
    assert {path.name for path in bundle.iterdir()} == {"manifest.json", "model.safetensors"}


def test_a_refusal_names_arguments_and_the_command_line_their_flags(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from roadshift.export.outcome import Refusal
    from roadshift.runtime.console.terminal import print_json
    from roadshift.runtime.errors import RoadshiftError, arg

    error = RoadshiftError(f"a longer {arg('time_budget_s')}")
    row = Refusal("model-int8.onnx", "onnx", "int8", error).row()
    assert row["error"] == "a longer time_budget_s"
    print_json(row)
    assert '"error": "a longer --time-budget"' in capsys.readouterr().out
