"""`roadshift demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .learning import needs_torch
from .options import Json, Overwrite, Threads


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes.")] = Path(
        "roadshift-demo"
    ),
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    overwrite: Overwrite = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """The whole loop on built-in scenes, in a few minutes.

    Trains, adapts, exports, runs and measures.
    """
    from ..runtime.console.terminal import note, print_json, say
    from .bench_tables import bench_table
    from .tables import evaluation_table

    with needs_torch("demo", threads):
        from ..adapt.run.events import Events
        from ..export.demo import run_demo

        result = run_demo(out, seed=seed, overwrite=overwrite, events=Events(note))
    if as_json:
        print_json(result)
        return
    names = {"in_domain": "in domain", "source_only": "source only", "adapted": "adapted"}
    evaluation_table({names.get(key, key): result[key] for key in (*names, "exported")})
    bench_table(result["bench"])
    say(
        "",
        f"Adapting gained {result['gain']:.1f} points of mIoU on frames it never saw; "
        f"the ONNX model agrees with torch on {result['label_agreement']:.2f} % of the pixels. "
        f"{result['seconds']:.0f} s in all.",
        f"Its gate saw no label and says {result['verdict']['decision']}: "
        f"{result['verdict']['sentence']}",
        f"Look at {out / 'before-after.png'}; "
        f"then try: roadshift eval {out / 'adapted'} --images {out / 'scenes/heldout/images'} "
        f"--labels {out / 'scenes/heldout/labels'}",
    )
