"""A bench against a saved one: what counts as worse, what is named, what is refused."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from roadshift.commands.bench_tables import print_comparison
from roadshift.runtime.bench import baseline as bench_baseline
from roadshift.runtime.bench.baseline import check_comparable, compare_baseline, save_baseline
from roadshift.runtime.bench.baseline_file import check_can_save, load_baseline
from roadshift.runtime.bench.row import COLUMNS, left_out_row
from roadshift.runtime.errors import ConfigError, OutputError, RegressionError

CLOSED = "closed loop"


def row(**changes: Any) -> dict[str, Any]:
    figures = {
        **dict.fromkeys(COLUMNS),
        "artefact": "model.onnx",
        "backend": "onnxruntime",
        "precision": "fp32",
        "device": "cpu",
        "scenario": CLOSED,
        "frames": "4 given",
        "threads": 2,
        "p50_ms": 10.0,
        "p99_ms": 20.0,
        "peak_mib": 100.0,
        "label_agreement": 99.9,
        "miou": 70.0,
    }
    return {**figures, **changes}


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """``saved(rows)``: what `load_baseline` gives of them."""

    def save(*rows: dict[str, Any]) -> dict[str, Any]:
        save_baseline(tmp_path / "base.json", rows)
        return load_baseline(tmp_path / "base.json")

    return save


def compared(baseline: dict[str, Any], *rows: dict[str, Any]) -> bench_baseline.BaselineComparison:
    return compare_baseline(baseline, rows, tolerance=10.0, max_drop=0.5)


@pytest.mark.parametrize(
    ("figure", "kept", "worse"),
    [
        ("p50_ms", 10.99, 11.01),
        ("p99_ms", 21.99, 22.01),
        ("peak_mib", 109.9, 110.1),
        ("label_agreement", 99.41, 99.39),
        ("miou", 69.51, 69.49),
    ],
)
def test_each_figure_may_move_by_its_tolerance_and_no_more(
    saved: Any, tmp_path: Path, figure: str, kept: float, worse: float
) -> None:
    base = saved(row())
    compared(base, row(**{figure: kept})).check(tmp_path)
    bad = compared(base, row(**{figure: worse}))
    assert [c.figure for c in bad.changes if c.worse] == [figure]
    with pytest.raises(RegressionError, match=rf"{figure} of model.onnx fp32 onnxruntime cpu"):
        bad.check(tmp_path / "base.json")


def test_the_same_or_better_passes(saved: Any, tmp_path: Path) -> None:
    base = saved(row())
    compared(base, row()).check(tmp_path)
    better = row(p50_ms=1.0, p99_ms=2.0, peak_mib=5.0, label_agreement=100.0, miou=90.0)
    compared(base, better).check(tmp_path)


def test_a_regression_has_an_exit_code_of_its_own() -> None:
    others = {e.exit_code for e in (ConfigError, OutputError)}
    assert RegressionError.exit_code == 3
    assert RegressionError.exit_code not in {0, 2, 130, *others}


def test_figures_that_the_baseline_lacks_are_not_compared_and_those_now_gone_are_worse(
    saved: Any,
) -> None:
    without = compared(saved(row(miou=None)), row(miou=1.0))
    assert "miou" not in [c.figure for c in without.changes]
    gone = compared(saved(row()), row(miou=None))
    assert [c.figure for c in gone.changes if c.worse] == ["miou"]


def test_rows_of_one_side_are_named_and_a_lost_one_fails(saved: Any, tmp_path: Path) -> None:
    base = saved(row(), row(precision="int8", artefact="model-int8.onnx"))
    lost = left_out_row("onnxruntime", "cpu", "broken.", "model-int8.onnx", "int8")
    found = compared(base, row(), row(backend="torch"), lost)
    assert found.missing == ["model-int8.onnx int8 onnxruntime cpu"]
    assert found.added == ["model.onnx fp32 torch cpu"]
    with pytest.raises(RegressionError, match=r"not measured any more: model-int8.onnx int8"):
        found.check(tmp_path)
    with pytest.raises(ConfigError, match="no row in common"):
        compared(base, row(device="cuda"))


def test_rows_of_several_bundles_are_matched_by_the_bundle_s_name(saved: Any) -> None:
    base = saved(row(bundle="old/a", p50_ms=1.0), row(bundle="old/b", p50_ms=5.0))
    found = compared(base, row(bundle="new/b", p50_ms=5.0), row(bundle="new/a", p50_ms=1.0))
    assert (found.missing, found.added) == ([], [])
    assert [c for c in found.changes if c.worse] == []


def test_bundles_of_one_name_are_told_apart_by_the_folders_above(saved: Any) -> None:
    day, night = row(bundle="x/day/adapted", p50_ms=1.0), row(bundle="x/night/adapted", p50_ms=5.0)
    found = compared(saved(day, night), {**night, "p50_ms": 9.0}, day)
    assert (found.missing, found.added) == ([], [])
    assert [(c.row.split()[0], c.figure) for c in found.changes if c.worse] == [
        ("night/adapted", "p50_ms")
    ]
    moved = compared(saved(day, night), day, {**night, "bundle": "x/dusk/adapted"})
    assert [title.split()[0] for title in moved.missing] == ["night/adapted"]
    assert [title.split()[0] for title in moved.added] == ["dusk/adapted"]


@pytest.mark.parametrize("before", [0.0, -1.5])
def test_gpu_memory_that_was_not_seen_to_grow_is_not_compared(saved: Any, before: float) -> None:
    found = compared(saved(row(gpu_mib=before)), row(gpu_mib=2.0))
    assert "gpu_mib" not in [c.figure for c in found.changes]
    grown = compared(saved(row(gpu_mib=10.0)), row(gpu_mib=12.0))
    assert [c.figure for c in grown.changes if c.worse] == ["gpu_mib"]


def test_another_machine_is_refused_unless_told(
    saved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = saved(row())
    check_comparable(base, CLOSED)
    monkeypatch.setattr(bench_baseline, "machine", lambda: {"cpu": "another", "gpu": "NVIDIA X"})
    with pytest.raises(ConfigError, match=r"another machine \(.*; this is another, NVIDIA X\)"):
        check_comparable(base, CLOSED)
    check_comparable(base, CLOSED, any_machine=True)
    assert compared(base, row()).notes[0].startswith("CAUTION: the baseline is of another machine")


def test_another_scenario_is_refused(saved: Any) -> None:
    with pytest.raises(ConfigError, match=r"closed loop; this run is camera at 30 fps"):
        check_comparable(saved(row()), "camera at 30 fps")


def test_other_versions_frames_and_threads_are_noted(saved: Any) -> None:
    base = saved(row())
    base["versions"] = {**base["versions"], "numpy": "1.0"}
    notes = compared(base, row(frames="64 given", threads=8)).notes
    assert "numpy 1.0 then" in notes[0]
    assert notes[1:] == [
        "model.onnx fp32 onnxruntime cpu: frames 4 given then, 64 given now.",
        "model.onnx fp32 onnxruntime cpu: threads 2 then, 8 now.",
    ]
    assert compared(saved(row()), row()).notes == []


def test_a_baseline_through_another_label_map_is_noted(saved: Any) -> None:
    mapped = row(label_map={"name": "own.json", "from": "a", "to": "b", "unmapped": ["c"]})
    assert compared(saved(mapped), mapped).notes == []
    (note,) = compared(saved(row()), mapped).notes
    assert note.endswith("cpu: mIoU was measured through another label map then.")


def test_what_did_not_run_is_not_saved(saved: Any) -> None:
    base = saved(row(), left_out_row("torch", "cuda", "no GPU."))
    assert [r["backend"] for r in base["rows"]] == ["onnxruntime"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"schema": 9}', '{"schema": 1, "rows": []}'),
        *(f'{{"schema": 1, "machine": {{}}, "versions": {{}}, "rows": [{r}]}}' for r in ("{}", 5)),
    ],
)
def test_a_file_that_is_no_baseline_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match=r"x.json: .*`roadshift bench --save`"):
        load_baseline(tmp_path / "x.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_baseline(tmp_path / "none.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


def places(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to every value of a document, its own included."""
    inner: Any = ()
    if isinstance(document, dict):
        inner = document.items()
    elif isinstance(document, list):
        inner = enumerate(document)
    return [at, *(way for key, value in inner for way in places(value, (*at, key)))]


def changed(document: Any, way: tuple[Any, ...], value: Any, remove: bool) -> Any:
    """A copy of a document with another value at one place, or without it."""
    if not way:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    if len(way) == 1 and remove:
        del copy[way[0]]
    else:
        copy[way[0]] = changed(copy[way[0]], way[1:], value, remove)
    return copy


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data(), JSON, st.booleans())
def test_a_malformed_baseline_is_refused_or_can_be_compared_with(
    tmp_path: Path, data: st.DataObject, value: Any, remove: bool
) -> None:
    """Whatever a place of it holds: never a traceback, in reading, comparing and printing."""
    file = tmp_path / "base.json"
    file.unlink(missing_ok=True)
    save_baseline(file, [row(bundle="a/b"), row(bundle="a/c", miou=None)])
    document = json.loads(file.read_text())
    way = data.draw(st.sampled_from(places(document)))
    file.write_text(json.dumps(changed(document, way, value, remove)))
    with suppress(ConfigError):
        base = load_baseline(file)
        with suppress(ConfigError):
            check_comparable(base, CLOSED)
        found = compared(base, row(bundle="a/b"), row(bundle="a/c"))
        print_comparison(found)
        with suppress(RegressionError):
            found.check(file)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"schema": 1, "machine": {{"cores": {"9" * 5000}}}, "versions": {{}}, "rows": []}}',
        "[" * 100_000,
        '{"schema": NaN}',
        "\ufeff{}",
        '{"schema": true, "machine": {}, "versions": {}, "rows": []}',
    ],
    ids=["huge", "deep", "nan", "bom", "bool"],
)
def test_a_document_that_no_program_wrote_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match=r"^baseline .*x\.json: .*`roadshift bench --save`\.$"):
        load_baseline(tmp_path / "x.json")


@pytest.mark.parametrize(
    "content",
    [b"my notes", b"{}", b'{"rows": []}', b"[1]", b"\xff\xfe", b"[" * 100_000, b'"schema"'],
)
def test_a_file_that_is_no_baseline_is_never_overwritten(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(content)
    for attempt in (check_can_save, lambda path: save_baseline(path, [row()])):
        with pytest.raises(OutputError, match=r"notes\.txt: exists and is no baseline"):
            attempt(file)
    assert file.read_bytes() == content


def test_a_folder_and_a_device_are_no_place_for_a_baseline(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists and is no baseline"):
        check_can_save(tmp_path)
    (tmp_path / "null").symlink_to(os.devnull)
    with pytest.raises(OutputError, match="exists and is no baseline"):
        check_can_save(tmp_path / "null")


def test_an_older_baseline_and_an_empty_file_are_replaced(tmp_path: Path) -> None:
    file = tmp_path / "base.json"
    file.touch()
    for precision in ("fp32", "fp16"):
        check_can_save(file)
        save_baseline(file, [row(precision=precision)])
        assert load_baseline(file)["rows"][0]["precision"] == precision
    document = {**json.loads(file.read_text()), "schema": 7}  # of another version
    file.write_text(json.dumps(document))
    check_can_save(file)
    assert [path.name for path in tmp_path.iterdir()] == ["base.json"]


def test_a_baseline_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not an existing folder"):
        save_baseline(tmp_path / "none/base.json", [row()])
    with pytest.raises(OutputError, match="not an existing folder"):
        check_can_save(tmp_path / "none/base.json")
    check_can_save(tmp_path / "base.json")
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_is_a_table_or_notes(saved: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(saved(row()), row(p50_ms=12.0), row(backend="torch"))
    print_comparison(found)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    name = ["model.onnx", "fp32", "onnxruntime", "cpu"]
    assert [*name, "p50_ms", "10.00", "12.00", "+20.0", "%", "worse"] in lines
    assert [*name, "miou", "70.00", "70.00", "+0.00", "points", "ok"] in lines
    print_comparison(found, on_stdout=False)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "p50_ms 10.0 then, 12.0 now (+20.0 %, worse)" in captured.err
    assert "not in the baseline: model.onnx fp32 torch cpu" in captured.err
    assert json.dumps(found.missing) == "[]"
