"""The self-test of an export: right labels, and what each artefact gave of them."""

from pathlib import Path

import numpy as np
import pytest
from export_cases import frames_of, write_source
from roadshift.export.artefacts import export_bundle
from roadshift.runtime.bundle import NetworkSpec, extend_bundle, open_bundle
from roadshift.runtime.bundle.latency_bound import latency_bound_ms
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import BundleError, EngineError
from roadshift.runtime.frames.images import write_image
from roadshift.runtime.slots.self_test import (
    SELF_TEST_NAME,
    check_self_test,
    pack_self_test,
    self_test_of,
)

TINY = NetworkSpec(name="tiny_network:build")


def test_an_export_leaves_frames_with_the_labels_of_the_network(tmp_path: Path) -> None:
    bundle = write_source(tmp_path / "s" / "b", TINY)
    frames = tmp_path / "frames"
    frames.mkdir()
    for number, image in enumerate(frames_of(bundle.manifest.input, 6)):
        write_image(frames / f"{number}.png", image)
    export_bundle(bundle, ["onnx"], frames=[str(frames)], self_test=True, p99_ms=40)
    exported = open_bundle(bundle.path, allow_networks=TINY.modules)
    assert latency_bound_ms(exported) == 40
    test = self_test_of(exported)
    assert test is not None
    assert len(test.frames) == 4
    with open_engine(exported, backend="torch") as network:
        np.testing.assert_array_equal(
            test.labels, [network.infer(frame[None])[0] for frame in test.frames]
        )
    assert test.recorded.keys() == {"model.onnx"}
    with open_engine(exported) as engine:
        assert check_self_test(exported, engine) == pytest.approx(test.recorded["model.onnx"])

    def damaged(content: bytes) -> Path:
        with extend_bundle(open_bundle(bundle.path)) as writer:
            writer.add_bytes(SELF_TEST_NAME, content, kind="other")
            return writer.commit().path

    wrong = open_bundle(damaged(pack_self_test(test.frames, (test.labels + 1) % 4)))
    with (
        open_engine(wrong) as engine,
        pytest.raises(EngineError, match=r"of the labels that its export recorded"),
    ):
        check_self_test(wrong, engine)
    for content in (b"", b"PK\x03\x04", pack_self_test(test.frames[:, 1:], test.labels)):
        with pytest.raises(BundleError, match="export the bundle again"):
            self_test_of(open_bundle(damaged(content)))
