"""bench_engine: what its figures are figures of. Times come from a clock that the test moves."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import odd_graphs
import pytest
from fake_engines import FakeClock, FakeEngine
from roadshift.cli import app
from roadshift.runtime.bench import (
    BenchSettings,
    bench_bundle,
    bench_engine,
    check_bundle,
    check_none_failed,
    measure_bundle,
    random_frames,
)
from roadshift.runtime.bench import frames as bench_frames
from roadshift.runtime.bench import loop as bench_loop
from roadshift.runtime.bench import run as bench_run
from roadshift.runtime.bench import session as bench_session
from roadshift.runtime.bench.evaluation import evaluate
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import (
    ConfigError,
    EngineError,
    FrameError,
    LabelError,
    LabelSpaceError,
)
from roadshift.runtime.folders.label_pairs import labelled_pairs
from roadshift.runtime.frames import Frame
from roadshift.runtime.frames.images import write_image
from roadshift.runtime.labels import label_space
from roadshift.runtime.probes import machine_state
from roadshift.runtime.probes.base import Sample
from spaces import TWO
from typer.testing import CliRunner


class Timed(FakeEngine):
    """Class 1 where red is above ``threshold``; the i-th inference takes ``seconds(i)``."""

    def __init__(
        self,
        clock: FakeClock | None = None,
        seconds: Callable[[int], float] = lambda _: 0.02,
        threshold: int = 127,
    ) -> None:
        super().__init__(TWO, 8, 4)
        self.calls = 0
        self._clock, self._seconds, self._threshold = clock, seconds, threshold

    def _infer(self, batch: np.ndarray) -> np.ndarray:
        if self._clock is not None:
            self._clock.time += self._seconds(self.calls)
        self.calls += 1
        return (batch[..., 0] > self._threshold).astype(np.uint8)


def frames(count: int, height: int = 4, width: int = 8) -> list[Frame]:
    random = np.random.default_rng(0)
    shape = (count, height, width, 3)
    images = random.integers(0, 256, shape, dtype=np.uint8)
    return [Frame(image, str(index), 0) for index, image in enumerate(images)]


def test_percentiles_are_those_of_the_counted_queries() -> None:
    """One frame for quality and three to warm up are slow; then 1, 2, ... 100 ms."""
    clock = FakeClock()
    engine = Timed(clock, lambda call: 9.0 if call < 4 else (call - 3) / 1e3)
    row = bench_engine(engine, frames(1), warmup=3, queries=100, clock=clock)
    times = np.arange(1, 101)
    assert [row[key] for key in ("p50_ms", "p90_ms", "p99_ms", "max_ms")] == pytest.approx(
        [*np.percentile(times, [50, 90, 99]), 100]
    )
    assert row["fps"] == pytest.approx(100 / 5.05)
    assert row["cov"] == pytest.approx(100 * times.std() / times.mean())
    assert (row["queries"], row["warmup"], row["frames"]) == (100, 3, "1 given")


def test_stages_add_up_to_the_mean_and_give_the_share_outside_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(bench_frames, "perf_counter", clock.now)

    def takes(function: Callable[..., np.ndarray], seconds: float) -> Callable[..., np.ndarray]:
        def timed(*arguments: object) -> np.ndarray:
            clock.time += seconds
            return function(*arguments)

        return timed

    monkeypatch.setattr(bench_loop, "fit_frame", takes(bench_loop.fit_frame, 0.003))
    monkeypatch.setattr(bench_loop, "restore_labels", takes(bench_loop.restore_labels, 0.001))

    def source() -> Iterator[Frame]:
        for one in frames(2, 8, 16):
            clock.time += 0.007
            yield one

    row = bench_engine(Timed(clock, lambda _: 0.016), source(), queries=7, clock=clock)
    assert row["stages_ms"] == pytest.approx(
        {"decode": 7, "preprocess": 3, "infer": 16, "postprocess": 1}
    )
    assert row["p50_ms"] == pytest.approx(20)
    assert row["outside_engine_percent"] == pytest.approx(100 * 4 / 20)
    assert row["cov"] == pytest.approx(0)
    assert not any("vary" in sentence for sentence in row["warnings"])


def test_an_engine_that_times_itself_has_its_stages_and_the_rest_of_its_call() -> None:
    clock = FakeClock()
    engine = Timed(clock, lambda _: 0.010)
    engine.stage_ms = {"h2d": 1.0, "gpu": 6.0, "d2h": 2.0}
    row = bench_engine(engine, frames(1), queries=3, clock=clock)
    assert row["stages_ms"] == pytest.approx(
        {"preprocess": 0, "h2d": 1, "gpu": 6, "d2h": 2, "host": 1, "postprocess": 0}
    )
    assert row["mean_ms"] == pytest.approx(10)


def test_frames_in_memory_have_no_decode_stage() -> None:
    assert "decode" not in bench_engine(Timed(), frames(2), queries=3)["stages_ms"]
    assert "decode" not in bench_engine(Timed(), queries=3)["stages_ms"]


def test_unsteady_times_are_warned_about() -> None:
    clock = FakeClock()
    engine = Timed(clock, lambda call: 0.01 + 0.01 * (call % 2))
    row = bench_engine(engine, frames(1), queries=10, clock=clock)
    assert row["cov"] == pytest.approx(100 / 3)
    assert any("vary by 33.3 %" in sentence for sentence in row["warnings"])


def test_below_1024_queries_a_figure_is_not_to_be_published() -> None:
    def sentences(queries: int) -> list[str]:
        clock = FakeClock()
        row = bench_engine(Timed(clock), frames(1), queries=queries, clock=clock)
        return [sentence for sentence in row["warnings"] if "publish" in sentence]

    assert sentences(1024) == []
    assert sentences(1023) == [
        "1023 queries tell how fast it is, not what to publish: that takes 1,024 or more."
    ]


def test_energy_is_a_query_s_and_what_the_machine_says_comes_along() -> None:
    class Probe:
        source, name, clock_max_mhz, interval_s = "fake", "chip", 1000.0, 60.0

        def __init__(self) -> None:
            self.used = 0.0

        def sample(self) -> Sample:
            return Sample(clock_mhz=900.0, temperature_c=70.0, power_w=10.0, throttle=("heat",))

        def energy_mj(self) -> float:
            self.used += 500.0
            return self.used

        def memory_mib(self) -> float:
            self.used += 0.0
            return 100.0 + self.used

        def close(self) -> None:
            raise AssertionError("a probe that was given stays open")

    monitored = machine_state.ENERGY_SECONDS
    machine_state.ENERGY_SECONDS = 0.0
    try:
        row = bench_engine(Timed(), frames(1), queries=5, warmup=0, probe=Probe())
    finally:
        machine_state.ENERGY_SECONDS = monitored
    assert row["energy_mj"] == pytest.approx(500 / 5)
    assert row["gpu_mib"] == 0.0
    assert (row["machine"]["source"], row["machine"]["clock_mhz"]) == ("fake", 900.0)
    assert any("held down (heat)" in sentence for sentence in row["warnings"])


def test_without_frames_it_measures_random_textures_of_the_input_size() -> None:
    engine = Timed()
    row = bench_engine(engine, warmup=2, queries=5)
    assert row["frames"] == "4 random textures"
    assert engine.calls == 4 + 2 + 5
    pictures = [frame.image for frame in random_frames(32, 16).frames]
    assert all(image.shape == (16, 32, 3) and image.std() > 10 for image in pictures)
    assert not np.array_equal(pictures[0], pictures[1])


def test_all_frames_are_cycled_through_and_a_source_is_read_up_to_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench_frames, "MAX_FRAMES", 3)
    assert bench_engine(Timed(), iter(frames(5)), queries=1)["frames"] == "3 given"
    assert bench_engine(Timed(), frames(5), queries=1)["frames"] == "5 given"


def test_agreement_and_miou_are_over_the_frames_once() -> None:
    given = frames(3, 8, 16)
    engine, reference = Timed(threshold=127), Timed(threshold=160)
    truths = [Timed(threshold=100).segment(frame) for frame in given]
    row = bench_engine(engine, given, queries=7, labels=truths, reference=reference)

    ours = np.stack([engine.segment(frame) for frame in given])
    theirs = np.stack([reference.segment(frame) for frame in given])
    truth = np.stack(truths)
    assert row["label_agreement"] == pytest.approx(100 * (ours == theirs).mean())
    assert 0 < row["label_agreement"] < 100
    iou = [((ours == c) & (truth == c)).sum() / ((ours == c) | (truth == c)).sum() for c in (0, 1)]
    assert row["miou"] == pytest.approx(100 * np.mean(iou))


def test_agreement_counts_pixels_of_frames_of_mixed_sizes() -> None:
    given = [*frames(1, 4, 8), *frames(1, 40, 80)]
    engine, reference = Timed(threshold=127), Timed(threshold=160)
    equal = [engine.segment(f) == reference.segment(f) for f in given]
    row = bench_engine(engine, given, queries=1, reference=reference)
    wanted = 100 * np.concatenate([e.ravel() for e in equal]).mean()
    assert row["label_agreement"] == pytest.approx(wanted)
    theirs = [reference.segment(f) for f in given]
    assert (
        bench_engine(engine, given, queries=1, reference=theirs)["label_agreement"]
        == (row["label_agreement"])
    )


def test_without_labels_or_reference_there_is_no_such_figure() -> None:
    row = bench_engine(Timed(), queries=1)
    assert (row["miou"], row["label_agreement"]) == (None, None)


def test_a_row_of_an_onnx_engine_is_json_with_every_column(
    make_bundle: Callable[..., Bundle],
) -> None:
    with open_engine(make_bundle(), device="cpu") as engine:
        row = bench_engine(engine, queries=5)
    assert json.loads(json.dumps(row)) == row
    assert [row[key] for key in ("artefact", "backend", "precision", "device")] == [
        "model.onnx",
        "onnxruntime",
        "fp32",
        "cpu",
    ]
    assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["max_ms"]
    assert 0 < row["outside_engine_percent"] < 100
    assert set(row["stages_ms"]) == {"preprocess", "infer", "postprocess"}


# ---- bundles ----------------------------------------------------------------------------------


def two_models(make_bundle: Callable[..., Bundle], tiny: Any) -> Bundle:
    models = {f"{i}.onnx": tiny.onnx(32, 16, tiny.weight(i)) for i in range(2)}
    return make_bundle(models=models, precisions={"0.onnx": "int8", "1.onnx": "fp32"})


def measured_rows(bundle: Bundle, settings: BenchSettings, **options: Any) -> list[dict[str, Any]]:
    return [row for row in bench_bundle(bundle, settings, **options) if row["error"] is None]


def test_every_artefact_gets_a_row_with_its_agreement_with_fp32(
    make_bundle: Callable[..., Bundle], tiny: Any
) -> None:
    said: list[str] = []
    bundle = two_models(make_bundle, tiny)
    settings = BenchSettings(queries=2, warmup=0, device="cpu", backends="onnxruntime")
    rows = measured_rows(bundle, settings, note=said.append)
    assert [(row["artefact"], row["precision"]) for row in rows] == [
        ("0.onnx", "int8"),
        ("1.onnx", "fp32"),
    ]
    pictures = np.stack([frame.image for frame in random_frames(32, 16).frames])
    labels = [tiny.labels(tiny.weight(i), pictures) for i in range(2)]
    same = 100 * (labels[0] == labels[1]).mean()
    assert [row["label_agreement"] for row in rows] == pytest.approx([same, 100])
    assert [row["miou"] for row in rows] == [None, None]
    assert [sentence.split(" runs ")[1][:6] for sentence in said] == ["0.onnx", "1.onnx"]


def test_miou_of_a_bundle_is_over_every_labelled_frame(
    make_bundle: Callable[..., Bundle],
    tiny: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench_frames, "MAX_FRAMES", 1)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for one in frames(3, 16, 32):
        write_image(tmp_path / "images" / f"{one.name}.png", one.image)
        truth = tiny.labels(tiny.weight(1), one.image)
        truth[:, : 8 * int(one.name)] = 0
        write_image(tmp_path / "labels" / f"{one.name}.png", truth)
    paths = {"frames": tmp_path / "images", "labels": tmp_path / "labels"}
    settings = BenchSettings(queries=1, device="cpu", backends="onnxruntime", **paths)
    rows = measured_rows(two_models(make_bundle, tiny), settings)
    with open_engine(tmp_path / "bundle", artefact="1.onnx", device="cpu") as engine:
        miou = evaluate(engine, labelled_pairs(*paths.values())).miou()
    assert rows[1]["miou"] == pytest.approx(miou)
    assert rows[0]["miou"] < rows[1]["miou"] < 100
    assert [row["frames"] for row in rows] == ["1 given", "1 given"]
    assert all(row["stages_ms"]["decode"] > 0 for row in rows)


def test_labels_without_frames_and_a_bundle_that_cannot_run_are_refused(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="give frames as well"):
        BenchSettings(labels=tmp_path)
    with pytest.raises(EngineError, match="no model for any engine"):
        bench_bundle(make_bundle("empty", models={}))


def test_why_nothing_could_be_measured_is_what_its_engines_said(
    make_bundle: Callable[..., Bundle],
) -> None:
    """And not that there is no GPU, of which nobody asked anything."""
    bundle = make_bundle(models={"model.onnx": odd_graphs.filled([1, 16, 32], 200)})
    with pytest.raises(EngineError) as caught:
        bench_bundle(bundle, BenchSettings(queries=1))
    said = str(caught.value)
    assert "model.onnx on onnxruntime, cpu: " in said
    assert "gives class 200 where the label space has 4 classes" in said
    assert "CUDA" not in said


def test_a_bundle_that_does_not_fit_is_refused_before_any_is_measured(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    wrong = tmp_path / "map.json"
    wrong.write_text('{"nothing": null}')
    settings = BenchSettings(
        frames=tmp_path, labels=tmp_path, label_space=label_space("camvid11"), label_map=wrong
    )
    with pytest.raises(LabelSpaceError, match=r"map\.json"):
        check_bundle(make_bundle("first"), settings)
    with pytest.raises(EngineError, match="no model for any engine"):
        check_bundle(make_bundle("second", models={}), BenchSettings())
    check_bundle(make_bundle("third"), BenchSettings())


def test_a_wrong_second_bundle_is_said_before_the_first_is_measured(
    make_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Bundle] = []
    monkeypatch.setattr(
        bench_session, "measure_bundle", lambda bundle, *_, **__: measured.append(bundle)
    )
    first, empty = make_bundle("first").path, make_bundle("empty", models={}).path
    for second, said in ((f"{first}-none", "does not exist"), (empty, "no model for any engine")):
        done = CliRunner().invoke(app, ["bench", str(first), str(second)])
        assert said in str(done.exception)
    assert measured == []


def test_rows_take_turns_and_each_round_starts_with_another(
    make_bundle: Callable[..., Bundle], tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str | None, int]] = []

    class Watched(bench_run.EngineMeasurement):
        def run(self, limit: bench_loop.Limit) -> None:
            super().run(limit)
            ran.append((self.engine.artefact, len(self.series.latencies)))

    monkeypatch.setattr(bench_run, "EngineMeasurement", Watched)
    settings = BenchSettings(queries=6, warmup=1, rounds=3, device="cpu", backends="onnxruntime")
    rows = measured_rows(two_models(make_bundle, tiny), settings)
    one, other = "0.onnx", "1.onnx"
    assert ran == [(one, 2), (other, 2), (other, 4), (one, 4), (one, 6), (other, 6)]
    assert [(row["queries"], row["warmup"]) for row in rows] == [(6, 1 + 3 * 2)] * 2


def test_with_one_round_an_engine_is_closed_before_the_next_is_opened(
    make_bundle: Callable[..., Bundle], tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Watched(bench_run.EngineMeasurement):
        def open(self, *arguments: Any) -> None:
            told.append("open")
            super().open(*arguments)

        def close(self) -> None:
            told.append("close")
            super().close()

    monkeypatch.setattr(bench_run, "EngineMeasurement", Watched)
    settings = BenchSettings(queries=2, warmup=0, rounds=1, device="cpu", backends="onnxruntime")
    assert len(measured_rows(two_models(make_bundle, tiny), settings)) == 2
    assert told == ["open", "close", "open", "close"]


def test_an_artefact_that_fails_is_a_row_with_its_reason_and_the_others_are_measured(
    make_bundle: Callable[..., Bundle], tiny: Any
) -> None:
    models = {"broken.onnx": b"no model", "good.onnx": tiny.onnx(32, 16, tiny.weight(0))}
    settings = BenchSettings(queries=2, warmup=0, backends="onnxruntime", device="cpu")
    good, broken = bench_bundle(make_bundle(models=models), settings)
    assert (good["artefact"], good["error"], good["label_agreement"]) == ("good.onnx", None, 100.0)
    assert broken["artefact"] == "broken.onnx"
    assert "cannot be loaded by ONNX Runtime" in broken["error"]
    assert set(broken) == set(good)
    assert broken["p50_ms"] is None
    with pytest.raises(EngineError, match="cannot be loaded"):
        bench_bundle(make_bundle("other", models={"broken.onnx": b"no model"}), settings)


def test_an_artefact_that_was_not_measured_anywhere_is_refused_after_the_others(
    make_bundle: Callable[..., Bundle], tiny: Any
) -> None:
    models = {"broken.onnx": b"no model", "good.onnx": tiny.onnx(32, 16, tiny.weight(0))}
    settings = BenchSettings(queries=2, warmup=0, backends="onnxruntime", device="cpu")
    measured = measure_bundle(make_bundle(models=models), settings)
    with pytest.raises(EngineError, match=r"^broken\.onnx: could not be measured: .*be loaded"):
        check_none_failed(measured)
    check_none_failed([m for m in measured if not m.failed])
    elsewhere = replace(measured[0], row={**measured[0].row, "artefact": "broken.onnx"})
    check_none_failed([*measured, elsewhere])  # on another backend it did run
    not_here = replace(measured[1], failed=False)
    check_none_failed([measured[0], not_here])


@pytest.mark.parametrize("rounds", [1, 3])
def test_an_engine_that_fails_while_it_is_timed_loses_its_own_row_only(
    make_bundle: Callable[..., Bundle], tiny: Any, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    class Fails(bench_run.EngineMeasurement):
        def run(self, limit: bench_loop.Limit) -> None:
            super().run(limit)
            if self.engine.artefact == "0.onnx":
                raise RuntimeError("CUDA out of memory\nTried to allocate")

    monkeypatch.setattr(bench_run, "EngineMeasurement", Fails)
    settings = BenchSettings(queries=6, warmup=0, device="cpu", rounds=rounds)
    rows = {row["artefact"]: row for row in bench_bundle(two_models(make_bundle, tiny), settings)}
    assert (rows["0.onnx"]["error"], rows["0.onnx"]["p50_ms"]) == ("CUDA out of memory", None)
    assert (rows["1.onnx"]["error"], rows["1.onnx"]["queries"]) == (None, 6)


def test_measured_times_are_those_of_the_row(make_bundle: Callable[..., Bundle]) -> None:
    settings = BenchSettings(queries=7, warmup=0, backends="onnxruntime", device="cpu")
    (measured,) = measure_bundle(make_bundle(), settings)
    assert len(measured.latencies_ms) >= 7
    assert measured.row["p50_ms"] == pytest.approx(np.percentile(measured.latencies_ms, 50))
    assert measured.row["size_mib"] == pytest.approx(
        make_bundle("again").manifest.artefacts[0].bytes / 2**20
    )


# ---- memory and refusals ----------------------------------------------------------------------


def test_peak_memory_sees_what_the_run_held_for_a_moment() -> None:
    class Hungry(Timed):
        def _infer(self, batch: np.ndarray) -> np.ndarray:
            np.ones(64 * 2**20, np.uint8)
            return super()._infer(batch)

    lean = bench_engine(Timed(), queries=3)["peak_mib"]
    hungry = bench_engine(Hungry(), queries=3)["peak_mib"]
    assert hungry > lean + 32


def test_bad_requests_are_refused() -> None:
    for argument, value in {
        "queries": 0,
        "warmup": -1,
        "duration_s": 0.0,
        "camera_fps": float("nan"),
    }.items():
        with pytest.raises(ConfigError, match=rf"^{argument}: {value} is no ") as caught:
            bench_engine(Timed(), **{argument: value})
        assert caught.value.argument == argument
    with pytest.raises(ConfigError, match="rounds: 0 is no whole number from 1 up"):
        BenchSettings(rounds=0)
    with pytest.raises(ConfigError, match="'onnx': use auto, all, or of tensorrt"):
        BenchSettings(backends="onnx")
    with pytest.raises(FrameError, match="No frames"):
        bench_engine(Timed(), [])
    with pytest.raises(LabelError, match="1 label map for 2 frames"):
        bench_engine(Timed(), frames(2), labels=[np.zeros((4, 8), np.uint8)])
    with pytest.raises(LabelError, match=r"labels of 0 are 3x3 and the frame is 8x4"):
        bench_engine(Timed(), frames(1), labels=[np.zeros((3, 3), np.uint8)])
