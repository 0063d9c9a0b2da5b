"""The rows of a bench on a terminal and as pictures: every figure, warnings once, reasons once."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roadshift.commands.bench_tables import BENCH_COLUMNS, bench_table
from roadshift.runtime.bench import TimedRow
from roadshift.runtime.bench.plots import latency_svg, write_plots
from roadshift.runtime.bench.row import COLUMNS, left_out_row
from roadshift.runtime.errors import OutputError

Capture = pytest.CaptureFixture[str]
MACHINE = {
    **dict.fromkeys(("source", "name", "clock_mhz", "clock_min_mhz", "clock_max_mhz")),
    **dict.fromkeys(("temperature_c", "power_w", "throttle", "other_cores")),
}


def bench_row(**changes: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(COLUMNS),
        **dict.fromkeys(BENCH_COLUMNS, 1.25),
        "artefact": "model.onnx",
        "backend": "onnxruntime",
        "precision": "fp32",
        "device": "cpu",
        "scenario": "closed loop",
        "mean_ms": 7.75,
        "stages_ms": {"preprocess": 0.5, "infer": 7.0, "postprocess": 0.25},
        "machine": MACHINE,
        "warnings": [],
        **changes,
    }


def test_a_bench_shows_every_figure_and_every_stage(capsys: Capture) -> None:
    stages = {"decode": 3.5, "preprocess": 0.5, "infer": 9.75, "postprocess": 0.25}
    bench_table([bench_row(miou=None), bench_row(artefact="model.plan", stages_ms=stages)])
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0].rstrip() == "Latency, end to end, closed loop"
    assert all(heading in lines[1] for heading in BENCH_COLUMNS.values())
    assert lines[2].rstrip().endswith(" -")  # no mIoU
    rows = [line.split() for line in lines]
    names = ["artefact", "backend", "device"]
    assert [*names, "preprocess", "infer", "postprocess", "decode", "end", "to", "end"] in rows
    assert ["model.onnx", "onnxruntime", "cpu", "0.50", "7.00", "0.25", "-", "7.75"] in rows
    assert ["model.plan", "onnxruntime", "cpu", "0.50", "9.75", "0.25", "3.50", "7.75"] in rows


def test_columns_that_no_row_has_are_left_out(capsys: Capture) -> None:
    nothing = dict.fromkeys(("gpu_mib", "energy_mj", "missed_percent", "dropped", "miou"))
    bench_table([bench_row(**nothing)])
    heading = capsys.readouterr().out.splitlines()[1]
    assert not any(word in heading for word in ("GPU MiB", "mJ", "missed", "dropped"))
    assert "mIoU %" in heading  # a dash there says that there were no labels


def test_rows_of_several_bundles_say_whose_they_are(capsys: Capture) -> None:
    bench_table([bench_row(bundle="source"), bench_row(bundle="adapted")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["bundle", "source", "adapted"]


def test_rows_of_one_bundle_do_not_repeat_its_name(capsys: Capture) -> None:
    bench_table([bench_row(bundle="adapted"), bench_row(bundle="adapted")])
    assert "adapted" not in capsys.readouterr().out


def test_a_warning_is_said_once_with_the_rows_that_it_is_about(capsys: Capture) -> None:
    bench_table(
        [
            bench_row(warnings=["too few.", "too hot."]),
            bench_row(backend="torch", warnings=["too few."]),
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["every row: too few.", "model.onnx on onnxruntime cpu: too hot."]


def test_what_was_left_out_is_said_once_with_its_reason(capsys: Capture) -> None:
    reason = "no CUDA driver found (libcuda.so.1)."
    left_out = [left_out_row(backend, "cuda", reason) for backend in ("onnxruntime", "torch")]
    broken = left_out_row("onnxruntime", "cpu", "damaged.", "model-int8.onnx", "int8")
    bench_table([bench_row(), *left_out, broken])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        f"left out, onnxruntime cuda, torch cuda: {reason}",
        "left out, model-int8.onnx on onnxruntime cpu: damaged.",
    ]


def test_the_machine_is_shown_where_it_says_anything(capsys: Capture) -> None:
    bench_table([bench_row()])
    assert "meanwhile" not in capsys.readouterr().out
    told = {**MACHINE, "source": "nvml", "clock_mhz": 1755.0, "throttle": ["power_cap", "heat"]}
    bench_table([bench_row(machine=told)])
    printed = capsys.readouterr().out
    assert "The machine meanwhile" in printed
    for part in ("nvml", "1755", "power_cap, heat"):
        assert part in printed
    assert "°C" not in printed


# ---- pictures ------------------------------------------------------------------------------------


def measured(times: np.ndarray, **changes: Any) -> TimedRow:
    figures = {"p50_ms": float(np.median(times)), "p99_ms": float(np.percentile(times, 99))}
    return TimedRow(bench_row(**{**figures, **changes}), times)


def points(path: str) -> list[tuple[float, float]]:
    """Corners of an "M x y H x V y ..." path."""
    start, *steps = path[1:].split("H")
    x, y = map(float, start.split())
    return [(x, y), *((float(a), float(b)) for a, b in (step.split("V") for step in steps))]


def curves(picture: str) -> list[list[tuple[float, float]]]:
    tree = ET.fromstring(picture)
    paths = [p.get("d", "") for p in tree.iter("{http://www.w3.org/2000/svg}path")]
    return [points(path) for path in paths if path.count("V") > 1 and path.startswith("M")]


def test_the_distribution_rises_to_all_queries_and_passes_half_at_the_median() -> None:
    times = np.random.default_rng(0).normal(20, 1, 1001)
    (curve,) = curves(latency_svg([measured(times)]))
    xs, ys = np.array(curve).T
    assert (np.diff(xs) >= 0).all()
    assert (np.diff(ys) <= 0).all()  # pixels grow downwards
    half = (ys[0] + ys[-1]) / 2
    at = xs[np.abs(ys - half).argmin()]
    low, high = times.min(), times.max()
    wanted = xs[0] + (np.median(times) - low) / (high - low) * (xs[-1] - xs[0])
    assert at == pytest.approx(wanted, abs=2)


def test_times_far_apart_get_a_logarithmic_axis() -> None:
    def middle(times: np.ndarray) -> float:
        (curve,) = curves(latency_svg([measured(times)]))
        xs = np.array(curve)[:, 0]
        return float((xs[2] - xs[1]) / (xs[-1] - xs[1]))

    assert middle(np.array([10.0, 20.0, 40.0])) == pytest.approx(1 / 3, abs=0.01)
    assert middle(np.array([1.0, 10.0, 100.0])) == pytest.approx(1 / 2, abs=0.01)


def test_both_pictures_are_written_and_name_every_row_that_ran(tmp_path: Path) -> None:
    rows = [
        measured(np.array([1.0, 2.0]), miou=70.0),
        measured(np.array([3.0, 4.0]), miou=60.0, artefact="a<b>.onnx"),
        TimedRow(left_out_row("torch", "cuda", "no GPU."), np.empty(0)),
    ]
    paths = write_plots(rows, tmp_path / "new/plots")
    assert [path.name for path in paths] == ["latency.svg", "accuracy.svg"]
    for path in paths:
        text = " ".join(e.text or "" for e in ET.fromstring(path.read_text()).iter())
        assert "model.onnx fp32, onnxruntime cpu" in text
        assert "a<b>.onnx" in text
        assert "torch" not in text
    assert "mIoU" in paths[1].read_text()


def test_without_labels_agreement_takes_the_place_of_miou_and_without_both_there_is_none(
    tmp_path: Path,
) -> None:
    times = np.array([1.0, 2.0])
    _, accuracy = write_plots([measured(times, miou=None, label_agreement=99.0)], tmp_path)
    assert "label agreement against p99" in accuracy.read_text()
    only = write_plots([measured(times, miou=None, label_agreement=None)], tmp_path / "b")
    assert [path.name for path in only] == ["latency.svg"]


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        write_plots([measured(np.array([1.0]))], tmp_path / "file")
