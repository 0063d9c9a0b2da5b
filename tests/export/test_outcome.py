"""Each artefact stands alone: what passes is written, what does not is reported, none is lost."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from export_cases import SCENES, stays_as_it_is, write_source
from roadshift.cli import app
from roadshift.export import artefacts
from roadshift.export import onnx as exporting
from roadshift.export.artefacts import export_bundle, export_onnx
from roadshift.export.outcome import PartialExportError
from roadshift.runtime.bundle import Bundle, NetworkSpec, extend_bundle, open_bundle
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import EngineError, FloorError, MissingDependencyError
from typer.testing import CliRunner

TINY = NetworkSpec(name="tiny_network:build")
HALVES = ("fp32", "fp16", "bf16")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_onnx(write_source(tmp_path_factory.mktemp("source") / "bundle", TINY), SCENES)


@pytest.fixture
def bundle(tmp_path: Path, exported: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The same network in a fresh bundle, traced in no time, labels made in the graph."""
    model = onnx.load(exported.path / "model.onnx")

    def write_graph(_: object, __: Bundle, path: Path, **___: object) -> onnx.ModelProto:
        onnx.save(model, path)
        return model

    monkeypatch.setattr(exporting, "write_graph", write_graph)
    monkeypatch.setattr(artefacts, "settle_argmax", lambda *_: {"argmax": "graph"})
    monkeypatch.setattr(artefacts, "gather_evaluation", lambda *_: SCENES)
    return write_source(tmp_path / "alone/bundle", TINY)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let making some precisions raise."""
    make = artefacts._Maker.make

    def let_fail(precisions: tuple[str, ...], error: BaseException) -> None:
        def failing_make(self: Any, form: str) -> Any:
            if form in precisions:
                raise error
            return make(self, form)

        monkeypatch.setattr(artefacts._Maker, "make", failing_make)

    return let_fail


@pytest.mark.parametrize(
    "lost", [c for n in range(4) for c in itertools.combinations(HALVES, n)], ids=",".join
)
def test_what_passes_is_written_and_the_others_are_reported(
    bundle: Bundle, failing: Callable[..., None], lost: tuple[str, ...]
) -> None:
    refusal = "below its floor, and was not written; choose another."
    failing(lost, FloorError(refusal, metric="label_agreement", measured=97.5, limit=98.5))
    kept = [f"model{'' if p == 'fp32' else f'-{p}'}.onnx" for p in HALVES if p not in lost]
    if not lost:
        record = export_bundle(bundle, ("onnx",), precisions=HALVES)
    elif not kept:
        with (
            stays_as_it_is(bundle),
            pytest.raises(PartialExportError, match=f"^{refusal}$") as error,
        ):
            export_bundle(bundle, ("onnx",), precisions=HALVES)
        record = error.value.record
    else:
        with pytest.raises(PartialExportError, match=f"wrote {', '.join(kept)}, and not") as error:
            export_bundle(bundle, ("onnx",), precisions=HALVES)
        outcome = error.value.outcome
        assert (outcome.bundle.path, outcome.exit_code) == (bundle.path, 7)
        assert [artefact.path for artefact in outcome.written] == kept
        record = error.value.record
        assert str(error.value).count("below its floor") == 1  # several may share a reason
        assert all(f"model{'' if p == 'fp32' else f'-{p}'}.onnx" in str(error.value) for p in lost)
    assert [row["path"] for row in record["artefacts"]] == kept
    assert [row["precision"] for row in record["refused"]] == list(lost)
    for row in record["refused"]:
        assert "below its floor" in row["error"]
        assert (row["refused_by"], row["metric"]) == ("floor", "label_agreement")
        assert (row["measured"], row["limit"], row["earlier"]) == (97.5, 98.5, None)
    written = open_bundle(bundle.path)
    assert record["hash"] == written.hash
    assert [a.path for a in written.manifest.artefacts if a.kind == "onnx"] == kept
    json.dumps(record)


@pytest.mark.parametrize("order", [("fp32", "bf16"), ("bf16", "fp32")])
def test_what_refuses_first_stops_nothing_that_comes_after(
    bundle: Bundle, failing: Callable[..., None], order: tuple[str, ...]
) -> None:
    failing(("bf16",), MissingDependencyError("a package is missing"))
    with pytest.raises(
        PartialExportError, match=r"wrote model\.onnx, .*\(a package is missing\)"
    ) as error:
        export_bundle(bundle, ("onnx",), precisions=order)
    assert error.value.exit_code == 1  # no floor refused anything
    assert [row["refused_by"] for row in error.value.record["refused"]] == ["error"]
    with open_engine(open_bundle(bundle.path), device="cpu") as engine:
        assert engine.segment(SCENES.frames[0]).shape == SCENES.frames[0].shape[:2]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug")])
def test_an_interrupt_or_a_bug_takes_nothing_with_it_that_passed(
    bundle: Bundle, failing: Callable[..., None], error: BaseException
) -> None:
    failing(("fp16",), error)
    with pytest.raises(type(error)):
        export_bundle(bundle, ("onnx",), precisions=("fp32", "fp16"))
    assert open_bundle(bundle.path).artefact(name="model.onnx") is not None


def test_an_older_artefact_stays_where_its_successor_is_refused(
    bundle: Bundle, failing: Callable[..., None]
) -> None:
    export_bundle(bundle, ("onnx",), precisions=("fp16",))
    before = open_bundle(bundle.path, allow_networks=["tiny_network"])
    failing(("fp16",), FloorError("below its floor."))
    kept = (
        r"\(below its floor\); model-fp16\.onnx of an earlier export of the same weights is kept\.$"
    )
    with pytest.raises(PartialExportError, match=kept) as error:
        export_bundle(before, ("onnx",), precisions=("fp32", "fp16"))
    assert [row["earlier"] for row in error.value.record["refused"]] == ["kept"]
    after = open_bundle(bundle.path)
    assert after.artefact(name="model-fp16.onnx") == before.artefact(name="model-fp16.onnx")


@pytest.mark.parametrize("made_of", ["0" * 64, None], ids=["of other weights", "of unknown ones"])
@pytest.mark.parametrize("precisions", [("fp32", "fp16"), ("fp16",)], ids=",".join)
def test_an_older_artefact_of_other_weights_leaves_with_the_refusal_of_its_successor(
    bundle: Bundle,
    failing: Callable[..., None],
    made_of: str | None,
    precisions: tuple[str, ...],
) -> None:
    with extend_bundle(bundle) as writer:
        writer.add_bytes(
            "model-fp16.onnx",
            b"of other weights",
            kind="onnx",
            precision="fp16",
            details={} if made_of is None else {"weights_sha256": made_of},
        )
        before = writer.commit()
    failing(("fp16",), FloorError("below its floor."))
    with pytest.raises(PartialExportError, match=r"model-fp16\.onnx of other weights was removed"):
        export_bundle(before, ("onnx",), precisions=precisions)
    assert open_bundle(bundle.path).artefact(name="model-fp16.onnx") is None
    assert not (bundle.path / "model-fp16.onnx").exists()


def test_a_graph_that_is_not_the_model_refuses_every_precision_by_its_name(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FloorError("agrees on 97.9 %.", metric="label_agreement", measured=97.9, limit=99.9)

    monkeypatch.setattr(artefacts, "trace", refuse)
    with (
        stays_as_it_is(bundle),
        pytest.raises(PartialExportError, match=r"^agrees on 97\.9 %\.$") as error,
    ):
        export_bundle(bundle, ("onnx",), precisions=HALVES)
    assert error.value.exit_code == 7
    assert [row["precision"] for row in error.value.record["refused"]] == list(HALVES)


@pytest.mark.parametrize("killed_in", ["making the second", "publishing"])
def test_a_kill_leaves_a_whole_bundle(bundle: Bundle, tmp_path: Path, killed_in: str) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from roadshift.export.outcome import Draft, publish_each\n"
        "from roadshift.runtime.bundle import open_bundle, writer\n"
        "kill = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        "folder, where = Path(sys.argv[2]), sys.argv[3]\n"
        "if where == 'publishing': writer.publish = kill\n"
        "def make(name):\n"
        "    if name == 'fp16' and where != 'publishing': kill()\n"
        "    (folder / name).write_bytes(b'made')\n"
        "    return [Draft(name, 'onnx', name, 'onnx', {})]\n"
        "names = {'fp32': 'fp32', 'fp16': 'fp16'}\n"
        "publish_each(open_bundle(sys.argv[1]), folder, names, 'onnx', make, print, [])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(bundle.path), str(tmp_path), killed_in], check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert open_bundle(bundle.path).hash == bundle.hash


def test_the_command_prints_what_was_written_and_ends_with_what_was_not(
    bundle: Bundle, failing: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roadshift.runtime.console.phases.EVERY_S", float("inf"))
    refusal = FloorError("below its floor.", metric="miou_drop", measured=2.5, limit=1.0)
    failing(("bf16",), refusal)
    command = ["export", str(bundle.path), "--precision", "fp32,bf16"]
    command += ["--allow-network", "tiny_network"]
    said = CliRunner().invoke(app, [*command, "--json"])
    assert isinstance(said.exception, PartialExportError)
    assert said.exception.exit_code == 7
    record = json.loads(said.stdout)
    assert [row["path"] for row in record["artefacts"]] == ["model.onnx"]
    assert record["refused"] == [
        {"path": "model-bf16.onnx", "format": "onnx", "precision": "bf16",
         "error": "below its floor.", "refused_by": "floor", "earlier": None,
         "metric": "miou_drop", "measured": 2.5, "limit": 1.0}
    ]  # fmt: skip
    said = CliRunner().invoke(app, command)
    assert isinstance(said.exception, PartialExportError)
    assert "model.onnx: fp32, opset" in said.stdout
    assert "model-bf16.onnx will not be written" in said.stderr
    assert "below its floor" not in said.stderr  # but in the error, which the process prints
    assert said.stderr.count("export: ") == 1  # in a log not a line for each of its short stretches
    command[command.index("fp32,bf16")] = "bf16"
    said = CliRunner().invoke(app, [*command, "--json"])
    assert isinstance(said.exception, PartialExportError)
    assert [row["path"] for row in json.loads(said.stdout)["refused"]] == ["model-bf16.onnx"]


# ---- plans ---------------------------------------------------------------------------------------


def test_without_a_gpu_the_onnx_models_are_written_all_the_same(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_here(*_: object) -> None:
        raise EngineError("no GPU here.")

    monkeypatch.setattr(artefacts, "prepare_plans", none_here)
    notes: list[str] = []
    with pytest.raises(
        PartialExportError, match=r"wrote model\.onnx, and not model-fp32\.plan \(no GPU here\)"
    ) as error:
        export_bundle(bundle, ("onnx", "tensorrt"), note=notes.append)
    assert any(note.startswith("no plan will be written") for note in notes)
    assert not any("no GPU here" in note for note in notes)  # the error says it
    assert [row["format"] for row in error.value.record["refused"]] == ["tensorrt"]
    with pytest.raises(EngineError, match="no GPU here"):
        export_bundle(open_bundle(bundle.path), ("tensorrt",))


def test_no_plan_is_built_of_a_refused_model_nor_of_an_older_one_in_its_place(
    bundle: Bundle, failing: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    export_bundle(bundle, ("onnx",), precisions=("fp16",))
    failing(("fp16",), FloorError("below its floor."))
    asked: list[list[str]] = []

    def plans(bundle: Bundle, precisions: list[str], *_: object, **__: object) -> Bundle:
        asked.append(precisions)
        return bundle

    monkeypatch.setattr(artefacts, "prepare_plans", lambda *_: object())
    monkeypatch.setattr(artefacts, "export_plans", plans)
    again = open_bundle(bundle.path, allow_networks=["tiny_network"])
    with pytest.raises(
        PartialExportError, match=r"model-fp16\.plan \(its ONNX model, .* refused"
    ) as error:
        export_bundle(again, ("onnx", "tensorrt"), precisions=("fp32", "fp16"))
    assert [row["refused_by"] for row in error.value.record["refused"]] == ["floor", "floor"]
    assert asked == [["fp32"]]
    assert np.all([a.kind != "tensorrt" for a in open_bundle(bundle.path).manifest.artefacts])
