"""``export --opset``: the version is that of the file, or a sentence says why it cannot be."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from export_cases import SCENES, frames_of, stays_as_it_is, write_source
from roadshift.export import artefacts
from roadshift.export.artefacts import export_bundle
from roadshift.export.opsets import LOWEST, check_opset, highest_opset
from roadshift.runtime.bundle import NetworkSpec, open_bundle
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import ConfigError

TINY = NetworkSpec(name="tiny_network:build")
HIGHEST = highest_opset()


@pytest.mark.parametrize("opset", [LOWEST, 18, HIGHEST])
def test_the_version_that_was_asked_for_is_written_recorded_and_run(
    tmp_path: Path, opset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefacts, "gather_evaluation", lambda *_: SCENES)
    bundle = write_source(tmp_path / "bundle", TINY)
    record = export_bundle(
        bundle, ("onnx",), precisions=("fp32", "fp16"), opset=opset, argmax="graph"
    )
    for row in record["artefacts"]:
        model = onnx.load(bundle.path / row["path"])
        assert row["opset"] == opset
        assert {o.domain: o.version for o in model.opset_import}[""] == opset
    with open_engine(open_bundle(bundle.path), device="cpu") as engine:
        assert engine.segment(frames_of(engine.input, 1)[0]).any()


@pytest.mark.parametrize("opset", [-1, 0, 1, 16, HIGHEST + 1, 99])
def test_versions_that_are_not_written_or_not_run_are_refused_with_the_range(
    tmp_path: Path, opset: int
) -> None:
    bundle = write_source(tmp_path / "bundle", TINY)
    with (
        stays_as_it_is(bundle),
        pytest.raises(ConfigError, match=f"opset {opset}: choose {LOWEST} to {HIGHEST}"),
    ):
        export_bundle(bundle, ("onnx",), opset=opset)


@pytest.mark.parametrize(
    ("precision", "opset", "needed"), [("bf16", 21, 22), ("int8", 18, 19), ("fp8", 17, 19)]
)
def test_a_precision_that_needs_a_newer_version_says_which(
    precision: str, opset: int, needed: int
) -> None:
    with pytest.raises(ConfigError, match=rf"{precision} needs .* opset {needed} or newer"):
        check_opset(opset, ["fp32", precision])
    check_opset(needed, ["fp32", precision])


def test_a_version_for_models_that_are_there_changes_nothing_and_is_refused() -> None:
    with pytest.raises(ConfigError, match="opset would change nothing"):
        artefacts.check_used([], (), False, "auto", 18)
