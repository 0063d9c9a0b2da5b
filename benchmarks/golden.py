"""The golden run: the bits that a few steps of every method end with.

    python benchmarks/golden.py > before.txt
    python benchmarks/golden.py --against before.txt

Training on labels, then every registered method from what it gave, each with the losses of
`reference` and of `tiled`, on one thread of a CPU. Prints a line each: method, backend, and a hash
of the final weights and of the input's preprocessing. With ``--against`` the lines are compared
with those of an earlier output, by the same torch on the same machine; those that differ are named,
and the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from roadshift import adapt
from roadshift.adapt.methods import build_stages, find_method, resolve_config
from roadshift.adapt.models.loading import IMAGENET_INPUT
from roadshift.adapt.run.config import RunConfig
from roadshift.runtime.bundle import Bundle, NetworkSpec
from roadshift.runtime.labels import label_space
from roadshift.scenes import render_dataset

BACKENDS = ("reference", "tiled")
NETWORK, SPACE = "fast_scnn", "cityscapes19"
WIDTH, HEIGHT, FRAMES = 96, 64, 6
SUPERVISED = "supervised"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--methods", nargs="+", help="all unless given")
    parser.add_argument("--against", type=Path, help="an earlier output to compare with")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for run, digest in runs(Path(folder), given.methods or [SUPERVISED, *adapt.METHODS]):
            found[run] = digest
            print(run, digest, flush=True)
    if given.against is None:
        return 0
    lines = given.against.read_text(encoding="utf-8").splitlines()
    earlier = {run: digest for run, _, digest in (line.rpartition(" ") for line in lines)}
    compared = found if given.methods else {**earlier, **found}
    differ = [run for run in compared if earlier.get(run) != found.get(run)]
    for run in differ:
        print(f"{run} differs: it was {earlier.get(run, 'not there')}", file=sys.stderr)
    return int(bool(differ))


def runs(folder: Path, methods: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Method and backend of every run, and the hash of its weights; works in ``folder``."""
    render_dataset(folder / "day", "daylight", FRAMES, seed=1, width=WIDTH, height=HEIGHT)
    render_dataset(folder / "dusk", "dusk", FRAMES, seed=9, width=WIDTH, height=HEIGHT)
    for backend in BACKENDS:
        source = trained(folder, backend)
        for method in methods:
            bundle = source if method == SUPERVISED else adapted(source, folder, method, backend)
            yield f"{method} {backend}", weights_hash(bundle)


def trained(folder: Path, backend: str) -> Bundle:
    """The source model, after a few steps on labelled scenes by daylight."""
    return adapt.train_bundle(
        folder / "day/images",
        folder / "day/labels",
        label_space(SPACE),
        NetworkSpec(name=NETWORK),
        IMAGENET_INPUT.model_copy(update={"width": WIDTH, "height": HEIGHT}),
        small(SUPERVISED, backend),
        adapt.RunOptions(folder / f"source-{backend}", device="cpu"),
    )


def adapted(source: Bundle, folder: Path, method: str, backend: str) -> Bundle:
    """The model that a method makes of the source model, or of answers, on scenes at dusk."""
    config, frames = small(method, backend), [folder / "dusk/images"]
    options = adapt.RunOptions(folder / f"{method}-{backend}", device="cpu")
    if find_method(method).black_box:
        student = adapt.Student(NETWORK, input_size=(WIDTH, HEIGHT), label_space=label_space(SPACE))
        return adapt.adapt_black_box(answer, frames, config, options, student)
    return adapt.adapt_bundle(source, frames, config, options)


def small(method: str, backend: str) -> RunConfig:
    """Settings of a few steps, of which every stage takes at least two."""
    config = resolve_config(method)
    steps = max(4, 2 * sum(stage.share for stage in build_stages(config)))
    assignments = [f"loss_backend={backend}", f"training.steps={steps}", "training.batch_size=2"]
    assignments += ["training.amp=off", "bn_batch_size=3"]
    if config.warm_start == "mixed":  # by which some stages would not take part
        assignments.append("warm_start=target")
    return resolve_config(method, assignments=assignments)


def answer(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities, (K, h, w), of a black box that goes by colours alone."""
    colours = np.random.default_rng(0).normal(size=(label_space(SPACE).num_classes, 3))
    scores = np.einsum("kc,hwc->khw", colours, image[::4, ::4] / 64.0)
    p = np.exp(scores - scores.max(axis=0))
    return (p / p.sum(axis=0)).astype(np.float32)


def weights_hash(bundle: Bundle) -> str:
    """SHA-256 of the weights, by name, and of the preprocessing, which a run aligns as well."""
    prepared = bundle.manifest.input
    found = hashlib.sha256(repr((prepared.gamma, prepared.mean, prepared.std)).encode())
    found.update((bundle.path / "model.safetensors").read_bytes())
    return found.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
