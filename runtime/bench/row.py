"""One row of the table: percentiles, shares and sentences from what was timed."""

from __future__ import annotations

from typing import Any

import numpy as np

from .loop import QueryTimes

STABLE_COV_PERCENT = 2.5  # above it, a row carries a warning
PUBLISHABLE_QUERIES = 1024  # MLPerf Inference, single stream

COLUMNS = (
    *("artefact", "backend", "precision", "device", "threads", "size_mib", "scenario"),
    *("p50_ms", "p90_ms", "p99_ms", "max_ms", "mean_ms", "fps", "cov", "queries", "warmup"),
    *("missed_percent", "dropped", "arrived"),
    *("peak_mib", "added_mib", "gpu_mib", "energy_mj", "label_agreement", "miou"),
    *("stages_ms", "outside_engine_percent", "frames", "machine", "warnings", "error"),
)


def time_figures(series: QueryTimes, decode_ms: float | None) -> dict[str, Any]:
    """The figures of `bench_engine` that come from times alone; milliseconds and percent."""
    latencies = 1e3 * np.array(series.latencies)
    services = 1e3 * np.array(series.services)
    count = len(latencies)
    names = dict.fromkeys(name for stages in series.stages for name in stages)
    means = {
        name: 1e3 * sum(stages.get(name, 0.0) for stages in series.stages) / count for name in names
    }
    p50, p90, p99 = (float(p) for p in np.percentile(latencies, [50, 90, 99]))
    outside = means["preprocess"] + means["postprocess"]
    arrived = None if series.period is None else count + series.dropped
    return {
        "scenario": scenario(None if series.period is None else 1 / series.period),
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "max_ms": float(latencies.max()),
        "mean_ms": float(latencies.mean()),
        "fps": count / series.seconds,
        "cov": float(100 * services.std() / services.mean()),
        "queries": count,
        "missed_percent": None if arrived is None else 100 * series.missed / arrived,
        "dropped": None if arrived is None else series.dropped,
        "arrived": arrived,
        "stages_ms": {**({} if decode_ms is None else {"decode": decode_ms}), **means},
        "outside_engine_percent": 100 * outside / float(services.mean()),
    }


def scenario(camera_fps: float | None) -> str:
    """Scenario of a row: the way in which its frames came."""
    return "closed loop" if camera_fps is None else f"camera at {camera_fps:g} fps"


def time_warnings(figures: dict[str, Any], settled: bool) -> list[str]:
    """Sentences on what makes these times hard to believe."""
    found = []
    if figures["cov"] > STABLE_COV_PERCENT:
        found.append(
            f"times vary by {figures['cov']:.1f} % (coefficient of variation above "
            f"{STABLE_COV_PERCENT} %); run it longer, on a machine that does nothing else and "
            "keeps its clocks."
        )
    if not settled:
        found.append("it was still getting faster when warm-up ended; give it a longer one.")
    if figures["queries"] < PUBLISHABLE_QUERIES:
        found.append(
            f"{figures['queries']} queries tell how fast it is, not what to publish: that takes "
            f"{PUBLISHABLE_QUERIES:,} or more."
        )
    return found


def left_out_row(
    backend: str,
    device: str,
    reason: str,
    artefact: str | None = None,
    precision: str | None = None,
) -> dict[str, Any]:
    """The row of what did not run: its reason under "error", no figures."""
    return {
        **dict.fromkeys(COLUMNS),
        "artefact": artefact,
        "backend": backend,
        "precision": precision,
        "device": device,
        "stages_ms": {},
        "warnings": [],
        "error": reason,
    }
