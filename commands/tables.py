"""What commands print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..runtime.words import counted

if TYPE_CHECKING:
    from ..runtime.bundle import Bundle


def listing(title: str, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Rows of equal keys, as a table or as JSON."""
    from ..runtime.terminal import print_json, table

    if as_json:
        print_json(rows)
    else:
        columns = list(rows[0])
        table(title, columns, [[row[column] for column in columns] for row in rows])


def print_made(bundle: Bundle, as_json: bool) -> None:
    """What a run has made, now or before it was resumed, with the verdict where there is one."""
    from ..runtime.terminal import print_json, say, verdict_table

    origin, verdict = bundle.manifest.provenance, bundle.manifest.verdict
    outcome: Any = origin.configuration.get("outcome", {})
    if as_json:
        print_json(
            {
                "bundle": str(bundle.path),
                "hash": bundle.hash,
                "method": origin.method,
                "frames": origin.frames,
                "seed": origin.seed,
                "outcome": outcome,
                "verdict": verdict.record() if verdict else None,
            }
        )
        return
    say(f"The bundle is {bundle.path} ({origin.method}).")
    if isinstance(outcome, dict) and outcome:
        say(
            f"{counted(outcome['steps'], 'step')} on {counted(origin.frames or 0, 'frame')} in "
            f"{outcome['seconds']:.0f} s, {outcome['precision']}, peak "
            f"{outcome['peak_memory_mib']:.0f} MiB, "
            f"{counted(outcome['skipped_steps'], 'step')} skipped."
        )
    if verdict is not None:
        verdict_table(verdict, **run_seconds(bundle))


def run_seconds(bundle: Bundle) -> dict[str, float]:
    """What the run that made a bundle took, and its looks at the frames set aside, for a table."""
    known = {m.name: m.value for m in bundle.manifest.measured}
    return {"run_s": known.get("run_seconds", 0.0), "watch_s": known.get("watch_seconds", 0.0)}


def made_how(row: Mapping[str, Any]) -> str:
    """Of an exported artefact: its opset, or who built or refitted a plan, and in how long."""
    if row["format"] == "onnx":
        return f"opset {row['opset']}"
    refitted = "refit_s" in row
    done = f"refitted in {row['refit_s']:.1f} s" if refitted else f"built in {row['build_s']:.0f} s"
    layers = ", ".join(f"{count} in {name}" for name, count in row["layers"].items())
    return (
        f"{done} by {row['flavour']} {row['version']} for {row['gpu']}"
        f"{f' (layers: {layers})' if layers else ''}"
    )
