"""A whole bench: rows of several bundles, a baseline that is kept or refused, files it leaves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from roadshift.runtime.bench import BenchSettings
from roadshift.runtime.bench.run import Report
from roadshift.runtime.bench.session import BenchFiles, BenchResult, bench_bundles
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.errors import ConfigError, OutputError, RegressionError

SETTINGS = BenchSettings(queries=2, warmup=0, rounds=1, backends="onnxruntime", device="cpu")
LOOSE = {"tolerance": 1e9, "max_drop": 100.0}


@pytest.fixture
def bench(make_bundle: Callable[..., Bundle]) -> Callable[..., BenchResult]:
    """``bench(save=..., ...)``: of one tiny bundle."""
    bundle = make_bundle()

    def run(**files: Any) -> BenchResult:
        return bench_bundles([bundle], SETTINGS, BenchFiles(**files))

    return run


def lowered(baseline: Path, figure: str) -> None:
    """Make the figure of a saved baseline one that no machine reaches."""
    document = json.loads(baseline.read_text())
    document["rows"][0][figure] = 1e-9
    baseline.write_text(json.dumps(document))


def test_rows_say_their_bundle_and_each_bundle_has_its_progress(
    make_bundle: Callable[..., Bundle],
) -> None:
    bundles, entered = [make_bundle("a"), make_bundle("b")], []

    @contextmanager
    def progress() -> Iterator[Report]:
        steps: list[int] = []
        entered.append(steps)
        yield lambda done, *_: steps.append(done)

    result = bench_bundles(bundles, SETTINGS, BenchFiles(), progress=progress)
    assert [Path(row["bundle"]).name for row in result.rows if row["error"] is None] == ["a", "b"]
    assert len(entered) == 2
    assert all(entered)
    assert result.comparison is None
    result.check()


def test_a_baseline_is_saved_and_compared_with(bench: Callable[..., Any], tmp_path: Path) -> None:
    base = tmp_path / "base.json"
    bench(save=base).check()
    again = bench(baseline=base, plots=tmp_path / "plots", **LOOSE)
    assert again.comparison.passed
    again.check()
    assert (tmp_path / "plots/latency.svg").is_file()


def test_what_is_worse_is_refused_after_it_is_told_and_saves_no_baseline(
    bench: Callable[..., Any], tmp_path: Path
) -> None:
    base, new = tmp_path / "base.json", tmp_path / "new.json"
    bench(save=base)
    lowered(base, "p50_ms")
    worse = bench(baseline=base, save=new)
    assert not worse.comparison.passed
    assert not new.exists()
    with pytest.raises(RegressionError, match=r"worse than .*base\.json: p50_ms of model\.onnx"):
        worse.check()


def test_what_cannot_be_written_or_compared_is_refused_before_anything_is_measured(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = make_bundle()
    read: list[Bundle] = []

    def bundles() -> Iterator[Bundle]:
        read.append(bundle)
        yield bundle

    (tmp_path / "file").touch()
    for files, error in (
        (BenchFiles(save=tmp_path / "none/base.json"), OutputError),
        (BenchFiles(plots=tmp_path / "file"), OutputError),
        (BenchFiles(baseline=tmp_path / "none.json"), ConfigError),
    ):
        with pytest.raises(error):
            bench_bundles(bundles(), SETTINGS, files)
    assert read == []


@pytest.mark.parametrize("name", ["tolerance", "max_drop"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_tolerance_that_is_none_is_refused(
    name: str, value: float, bench: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError, match=f"{name} {value}: write a number from 0 on"):
        bench(**{name: value})
