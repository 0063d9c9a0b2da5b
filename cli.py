"""The command line: parses, delegates, prints. No arithmetic and no file formats here."""

from __future__ import annotations

from . import cli_start  # noqa: F401 - first: what follows takes a while, and may be interrupted
from .runtime.words import counted

# isort: split
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from . import __version__
from .cli_process import exit_code
from .cli_shared import (
    BACKGROUND,
    AllowNetwork,
    Backend,
    BundleIn,
    CheckpointEvery,
    Config,
    Device,
    Json,
    LabelMapFile,
    LabelSpaceOfFiles,
    Losses,
    Nice,
    Older,
    Out,
    Output,
    Overwrite,
    Resume,
    Seed,
    Set,
    Threads,
    check_label_options,
    engine_of,
    import_torch_backend,
    labels_through,
    listing,
    made_how,
    needs_torch,
    opened_bundle,
    plain_options,
    print_made,
    run_options,
    run_seconds,
    with_losses,
)
from .runtime.errors import FrameError, RunInterrupted

app = typer.Typer(
    name="roadshift",
    help="Adapt a segmentation model to the roads a vehicle drives, export it, run it, measure it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would double the time of --help, and box one-line errors
)


def main() -> NoReturn:
    """Run the command line: errors a user can fix are one line on stderr, without a traceback."""
    sys.exit(exit_code(app))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"roadshift {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version  # handled by its callback


@app.command()
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
    from .runtime.bench.table import bench_table
    from .runtime.terminal import evaluation_table, note, print_json, say

    with needs_torch("demo", threads):
        from .export.demo import run_demo

        result = run_demo(out, seed=seed, overwrite=overwrite, note=note, options=plain_options())
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


@app.command()
def train(
    images: Annotated[Path, typer.Option(help="Folder of training images.")],
    labels: Annotated[Path, typer.Option(help="Folder of their label maps.")],
    label_space: Annotated[str, typer.Option(help="A built-in label space or a JSON file.")],
    network: Annotated[str, typer.Option(help="A network or package.module:factory.")],
    out: Out,
    input_size: Annotated[str, typer.Option(help="WxH that the model sees.")] = "1024x512",
    init: Annotated[Path | None, typer.Option(help="Weights to start from.")] = None,
    output: Output = None,
    config: Config = None,
    settings: Set = None,
    seed: Seed = None,
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    time_budget: Annotated[str | None, typer.Option(help="Stop in time, e.g. 20m.")] = None,
    memory_budget: Annotated[str | None, typer.Option(help="Peak memory, e.g. 6GB.")] = None,
    checkpoint_every: CheckpointEvery = "60s",
    threads: Threads = None,
    nice: Nice = BACKGROUND,
    as_json: Json = False,
) -> None:
    """Train a source model on labelled images."""
    with needs_torch("train", threads, nice):
        from .adapt import Job, resolve_config, train_bundle
        from .adapt.models import IMAGENET_INPUT, network_spec, parse_size
        from .runtime.labels import label_space as find_label_space

        chosen = with_losses(settings, None, seed)
        resolved = resolve_config("supervised", file=config, assignments=chosen, seed=seed)
        space = find_label_space(label_space)
        width, height = parse_size("--input-size", input_size)
        with run_options(resume, checkpoint_every, time_budget, memory_budget) as options:
            bundle = train_bundle(
                images,
                labels,
                space,
                network_spec(network, output=output),
                IMAGENET_INPUT.model_copy(update={"width": width, "height": height}),
                resolved,
                Job(out, overwrite, device, options),
                initial=init,
            )
    print_made(bundle, as_json)


@app.command(name="import")
def import_(
    weights: Annotated[Path, typer.Argument(help="A .pth, .pt or .safetensors file.")],
    network: Annotated[str, typer.Option(help="A network or package.module:factory.")],
    label_space: Annotated[str, typer.Option(help="A built-in label space or a JSON file.")],
    out: Out,
    input_size: Annotated[str, typer.Option(help="WxH that the model sees.")] = "1024x512",
    colour: Annotated[str | None, typer.Option(help="rgb or bgr.")] = None,
    mean: Annotated[str | None, typer.Option(help="a,b,c in 0-255 units.")] = None,
    std: Annotated[str | None, typer.Option(help="a,b,c in 0-255 units.")] = None,
    argument: Annotated[
        list[str] | None,
        typer.Option("--argument", metavar="KEY=VALUE", help="An argument of the network."),
    ] = None,
    output: Output = None,
    key: Annotated[
        str | None, typer.Option(help="Where in the file the weights lie, e.g. model.ema.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a bundle of a published checkpoint, or of one's own."""
    with needs_torch("import"):
        from .adapt.import_bundle import import_bundle
        from .runtime.labels import label_space as find_label_space
        from .runtime.terminal import note

        bundle = import_bundle(
            weights,
            network,
            find_label_space(label_space),
            out,
            input_size=input_size,
            colour=colour,
            mean=mean,
            std=std,
            arguments=argument or (),
            output=output,
            key=key,
            overwrite=overwrite,
            note=note,
        )
    print_made(bundle, as_json)


@app.command()
def adapt(
    bundle: BundleIn,
    frames: Annotated[list[str], typer.Argument(help="Folders, images or videos; no labels.")],
    out: Out,
    method: Annotated[
        str | None,
        typer.Option(help="See `roadshift methods`; unless given, --config's, or nightshift."),
    ] = None,
    config: Config = None,
    settings: Set = None,
    losses: Losses = None,
    seed: Seed = None,
    device: Device = "auto",
    max_frames: Annotated[int, typer.Option(min=1, help="Use at most so many frames.")] = 3000,
    gate: Annotated[
        str | None,
        typer.Option(
            help="Judge the result without labels, on frames set aside: refuse (exit code 5 or 6 "
            "where it is not promoted; the default), warn, or off."
        ),
    ] = None,
    older: Older = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    time_budget: Annotated[str | None, typer.Option(help="Stop in time, e.g. 20m.")] = None,
    memory_budget: Annotated[str | None, typer.Option(help="Peak memory, e.g. 6GB.")] = None,
    checkpoint_every: CheckpointEvery = "60s",
    student: Annotated[str | None, typer.Option(help="Black box: the network that learns.")] = None,
    label_space: Annotated[
        str | None, typer.Option(help="Black box: of its answers, unless it says so itself.")
    ] = None,
    input_size: Annotated[
        str | None, typer.Option(help="Black box: WxH that the student sees.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Black box: weights that the student starts from.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Black box: of what the student returns, its logits."),
    ] = None,
    allow_network: AllowNetwork = None,
    threads: Threads = None,
    nice: Nice = BACKGROUND,
    as_json: Json = False,
) -> None:
    """Adapt a model to unlabelled frames.

    For a black-box method BUNDLE may also be an .onnx file, a folder of predictions or
    package.module:function.
    """
    from .runtime.terminal import note

    with needs_torch("adapt", threads, nice):
        from .adapt import Job, Student, adapt_black_box, adapt_bundle, resolve_config
        from .adapt.judging.judge import choose_gate
        from .adapt.methods import adapting_method, choose_method
        from .adapt.models import pick_device
        from .adapt.pace import default_patience_s
        from .runtime.errors import ConfigError

        method = choose_method(method, config)
        black_box = adapting_method(method).black_box
        chosen = with_losses(settings, losses, seed)
        resolved = resolve_config(method, file=config, assignments=chosen, seed=seed)
        learner = Student(student, label_space, input_size, init, output)
        if not black_box and learner != Student():
            raise ConfigError(
                "--student, --label-space, --input-size, --init and --output are for black-box "
                "methods; "
                f"{method} starts from the bundle's own network."
            )
        gate = choose_gate(gate, method, black_box, note)
        if black_box and older:
            raise ConfigError("--older: a student of a black box is not judged; leave it out.")
        patience_s = default_patience_s(method, pick_device(device), config, chosen)
        with run_options(resume, checkpoint_every, time_budget, memory_budget) as options:
            job = Job(out, overwrite, device, replace(options, patience_s=patience_s))
            if black_box:
                adapted = adapt_black_box(
                    str(bundle), frames, resolved, job, learner, max_frames=max_frames
                )
            else:
                adapted = adapt_bundle(
                    opened_bundle(bundle, allow_network),
                    frames,
                    resolved,
                    job,
                    max_frames=max_frames,
                    gated=gate != "off",
                    older=older or (),
                )
    print_made(adapted, as_json)
    verdict = adapted.manifest.verdict
    error = verdict.error(adapted.path) if verdict else None
    if error is not None and gate == "refuse":
        raise error


@app.command()
def judge(
    incumbent: Annotated[Path, typer.Argument(help="The bundle in the car.")],
    candidate: Annotated[Path, typer.Argument(help="The bundle that may replace it.")],
    frames: Annotated[
        list[str], typer.Argument(help="Folders, images or videos that neither learned from.")
    ],
    device: Device = "auto",
    max_frames: Annotated[int, typer.Option(min=1, help="Look at no more, evenly spaced.")] = 32,
    older: Older = None,
    allow_network: AllowNetwork = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Judge a model against the one in the car.

    Needs no labels, but frames that neither learned from.
    Exit code 0: promote the candidate. 5: keep the incumbent. 6: ask a person.
    """
    from .runtime.bundle import open_bundle
    from .runtime.signals import stop_on_signals
    from .runtime.terminal import note, print_json, progress, verdict_table

    with needs_torch("judge", threads):
        from .adapt.judging.judge import judge_bundles

        with stop_on_signals() as stop_requested, progress("judge", "frames") as update:

            def stop() -> None:
                if stop_requested():
                    raise RunInterrupted("Stopped; nothing was judged.")

            verdict = judge_bundles(
                open_bundle(incumbent, allow_networks=allow_network or ()),
                open_bundle(candidate, allow_networks=allow_network or ()),
                frames,
                device=device,
                max_frames=max_frames,
                older=older or (),
                note=note,
                report=lambda done, total: update(done, total, ""),
                stop=stop,
            )
    if as_json:
        print_json(verdict.record())
    else:
        verdict_table(verdict)
    error = verdict.error(candidate)
    if error is not None:
        raise typer.Exit(error.exit_code)


@app.command()
def compare(
    bundle: BundleIn,
    frames: Annotated[list[str], typer.Argument(help="Folders, images or videos to adapt to.")],
    labels: Annotated[Path, typer.Option(help="Folder of label maps, to measure with.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of their images; FRAMES unless given.")
    ] = None,
    label_space: LabelSpaceOfFiles = None,
    label_map: LabelMapFile = None,
    methods: Annotated[
        str, typer.Option(help="all, or names with commas; name:variant for a variant.")
    ] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each method.")] = 1,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of each method that takes steps; its own otherwise.")
    ] = None,
    settings: Set = None,
    losses: Losses = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes.")] = Path(
        "roadshift-compare"
    ),
    device: Device = "auto",
    max_frames: Annotated[int, typer.Option(min=1, help="Adapt to at most so many.")] = 3000,
    time_budget: Annotated[str | None, typer.Option(help="Of each run, e.g. 20m.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Run anew what is finished or was stopped.")
    ] = False,
    allow_network: AllowNetwork = None,
    threads: Threads = None,
    nice: Nice = BACKGROUND,
    as_json: Json = False,
) -> None:
    """Adapt with several methods and measure them side by side.

    Every method starts from the same bundle, with the same frames, steps and seeds. The same
    command takes up finished runs and goes on where it was stopped.
    """
    from .runtime.addresses import without_password
    from .runtime.bundle import open_bundle
    from .runtime.terminal import comparison_table, note, print_json

    with needs_torch("compare", threads, nice):
        from .adapt import Job
        from .adapt.compare import compare as compare_methods
        from .adapt.compare import measured_pairs
        from .adapt.compare_report import write_report
        from .adapt.compare_rows import comparison_rows
        from .adapt.contenders import choose_contenders

        chosen = with_losses(settings, losses)
        contenders = choose_contenders(methods, chosen, seeds=seeds, steps=steps)
        pairs = measured_pairs(frames, images, labels)
        source = open_bundle(bundle, allow_networks=allow_network or ())
        mapping = labels_through(source.label_space, label_space, label_map)
        with run_options(False, "60s", time_budget, None, "compare", "done") as options:
            comparison = compare_methods(
                source,
                frames,
                pairs,
                contenders,
                Job(out, overwrite, device, options),
                label_map=mapping,
                max_frames=max_frames,
            )
        rows = comparison_rows(comparison)
        command = shlex.join(["roadshift", *map(without_password, sys.argv[1:])])
        write_report(comparison, rows, out, command, device=device)
    note(f"wrote {out / 'compare.md'}")
    if as_json:
        print_json(rows)
    else:
        comparison_table(rows)
    if not comparison.succeeded:
        raise typer.Exit(1)


@app.command()
def reproduce(
    recipe: Annotated[str, typer.Argument(help="Such as gta5-cityscapes-iapc, or a TOML file.")],
    data: Annotated[Path, typer.Option(help="Root of the target's data set, as published.")],
    checkpoint: Annotated[Path, typer.Option(help="The source model: a checkpoint or a bundle.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    seed: Seed = None,
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    memory_budget: Annotated[str | None, typer.Option(help="Peak memory, e.g. 6GB.")] = None,
    checkpoint_every: CheckpointEvery = "60s",
    allow_network: AllowNetwork = None,
    threads: Threads = None,
    nice: Nice = BACKGROUND,
    as_json: Json = False,
) -> None:
    """Adapt and measure as a published row says.

    Puts both figures side by side.
    """
    from .runtime.terminal import evaluation_table, print_json, table

    with needs_torch("reproduce", threads, nice):
        from .adapt.recipes import find_recipe
        from .adapt.reproduction import reproduce as reproduce_row

        file = find_recipe(recipe)
        with run_options(resume, checkpoint_every, None, memory_budget) as options:
            result = reproduce_row(
                file,
                data,
                checkpoint,
                out,
                seed=seed,
                overwrite=overwrite,
                device=device,
                options=options,
                allow_networks=allow_network or (),
            )
    if as_json:
        print_json(result)
        return
    published, before, after = result["published"], result["source_only"], result["measured"]
    evaluation_table({"source only": before, "adapted": after})
    rows = [
        ("source only, mIoU", published["source_only"], before["miou"]),
        ("adapted, mIoU", published["miou"], after["miou"]),
    ]
    if "miou_13" in after:
        rows += [
            ("source only, mIoU*", published["source_only_13"], before["miou_13"]),
            ("adapted, mIoU*", published["miou_13"], after["miou_13"]),
        ]
    table(f"\n{result['row']}, percent", ["", "published", "measured"], rows)


@app.command(name="eval")
def eval_(
    bundle: BundleIn,
    images: Annotated[Path, typer.Option(help="Folder of images.")],
    labels: Annotated[Path, typer.Option(help="Folder of their label maps.")],
    label_space: LabelSpaceOfFiles = None,
    label_map: LabelMapFile = None,
    backend: Backend = "auto",
    artefact: Annotated[str | None, typer.Option(help="The bundle's file to run.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    allow_network: AllowNetwork = None,
    as_json: Json = False,
) -> None:
    """Measure mIoU and per-class IoU against labels."""
    from .runtime.evaluation import evaluate
    from .runtime.images import labelled_pairs
    from .runtime.metrics import evaluation_record
    from .runtime.terminal import evaluation_table, note, print_json, progress

    check_label_options(label_space, label_map)
    pairs = labelled_pairs(images, labels, note=note)
    with engine_of(bundle, backend, device, artefact, threads, allow_network) as engine:
        note(engine.reason)
        mapping = labels_through(engine.label_space, label_space, label_map)
        with progress("eval", "frames") as update:
            confusion = evaluate(
                engine,
                pairs,
                mapping,
                lambda done, n: update(done, n, ""),
                note=note,
            )
        space = mapping.target if mapping else engine.label_space
        record = evaluation_record(confusion, space, engine.backend, mapping)
    if as_json:
        print_json(record)
    else:
        evaluation_table({engine.backend: record})


@app.command()
def export(
    bundle: BundleIn,
    to: Annotated[str, typer.Option(help="Formats, separated by commas: onnx, tensorrt.")] = "onnx",
    precision: Annotated[
        str, typer.Option(help="With commas: fp32, fp16, bf16, int8, fp8, int8-cpu.")
    ] = "fp32",
    logits: Annotated[bool, typer.Option("--logits", help="Also give raw scores.")] = False,
    argmax: Annotated[
        str,
        typer.Option(
            help="Where labels are made: graph, runtime (from logits), or auto, the faster here."
        ),
    ] = "auto",
    frames: Annotated[
        list[str] | None, typer.Option(help="Frames to compare on; built-in scenes unless given.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Folder of their label maps, to measure mIoU with.")
    ] = None,
    label_space: LabelSpaceOfFiles = None,
    label_map: LabelMapFile = None,
    opset: Annotated[
        int | None, typer.Option(help="Version of ONNX's operators; the exporter's unless given.")
    ] = None,
    calibration: Annotated[
        list[str] | None, typer.Option(help="Frames of the road to quantise for, not compared on.")
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(help="Percent of pixels that must keep their class; by precision if absent."),
    ] = None,
    max_miou_drop: Annotated[
        float | None, typer.Option(help="Points of mIoU that a precision may lose against fp32.")
    ] = None,
    refittable: Annotated[
        bool, typer.Option("--refittable", help="TensorRT: weights can be swapped later.")
    ] = False,
    refit: Annotated[
        Path | None,
        typer.Option(metavar="OLD", help="TensorRT: swap weights into this bundle's plans."),
    ] = None,
    workspace: Annotated[
        str | None, typer.Option(help="TensorRT: device memory for one layer, e.g. 2GiB.")
    ] = None,
    allow_network: AllowNetwork = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Export a bundle's model and verify the result against it."""
    from .runtime.bundle import open_bundle
    from .runtime.phases import PhaseDisplay
    from .runtime.terminal import note, print_json, say
    from .runtime.units import parse_memory

    with needs_torch("export", threads):
        from .export.artefacts import export_bundle
        from .export.judge import Floors
        from .export.outcome import PartialExportError
        from .export.plan_maker import PlanOptions

        plans = PlanOptions(
            refittable,
            open_bundle(refit) if refit else None,
            parse_memory("--workspace", workspace) if workspace else None,
        )
        opened = opened_bundle(bundle, allow_network)
        mapping = labels_through(opened.label_space, label_space, label_map)
        refused = None
        with PhaseDisplay() as display:  # its stretches are short and many
            try:
                record = export_bundle(
                    opened,
                    to,
                    precisions=precision,
                    frames=frames or (),
                    labels=labels,
                    label_map=mapping,
                    calibration=calibration or (),
                    with_logits=logits,
                    argmax=argmax,
                    opset=opset,
                    floors=Floors(min_agreement, max_miou_drop),
                    plans=plans,
                    note=note,
                    report=lambda done, total, text: display.show(
                        "export", "steps", done, total, text
                    ),
                )
            except PartialExportError as error:
                record, refused = error.record, error
    if as_json:
        print_json(record)
    for row in () if as_json else record["artefacts"]:
        say(
            f"{bundle / row['path']}: {row['precision']}, {made_how(row)}, "
            f"{row['bytes'] / 2**20:.1f} MiB, same class as torch on "
            f"{row['label_agreement']:.3f} % of the pixels of {counted(row['frames'], 'frame')} "
            f"({row['compared_on']})"
            + (
                f", logits differ by at most {row['max_difference']:.1e}"
                if "max_difference" in row
                else ""
            )
            + (f", mIoU {row['miou']:.2f} %" if "miou" in row else "")
            + "."
        )
    if refused is not None:
        raise refused


@app.command()
def run(
    bundle: BundleIn,
    frames: Annotated[
        list[str],
        typer.Argument(
            help="Folders, images or videos; or one camera:0 (camera:0?size=1280x720&fps=30), or "
            "the URL of one RTSP or HTTP stream."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A folder, or a .mp4 file; figures alone unless given."),
    ] = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="Blend labels over frames.")] = False,
    realtime: Annotated[
        bool,
        typer.Option(
            "--realtime",
            help="Play a recording as a camera gives it, dropping what comes too fast.",
        ),
    ] = False,
    fps: Annotated[
        float | None,
        typer.Option(min=0.1, help="Rate of images, 10 unless given; of a live source's video."),
    ] = None,
    duration: Annotated[
        str | None, typer.Option(help="Stop after this time, e.g. 90s or 8h.")
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many frames were read.")
    ] = None,
    backend: Backend = "auto",
    artefact: Annotated[str | None, typer.Option(help="The bundle's file to run.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
    allow_network: AllowNetwork = None,
    as_json: Json = False,
) -> None:
    """Segment a recording, a camera or a stream.

    Writes label maps, overlays or a video.
    """
    from .runtime.live import open_source
    from .runtime.output import run_frames
    from .runtime.signals import stop_on_signals
    from .runtime.terminal import note, print_json, progress, run_line, say
    from .runtime.units import parse_duration

    source = open_source(frames, note=note)
    seconds = parse_duration("--duration", duration) if duration else None
    with (
        stop_on_signals() as stop_requested,
        engine_of(bundle, backend, device, artefact, threads, allow_network) as engine,
    ):
        note(engine.reason)
        with progress("run", "frames") as update:
            summary = run_frames(
                source,
                engine,
                out,
                overlay=overlay,
                overwrite=overwrite,
                realtime=realtime,
                fps=fps,
                duration_s=seconds,
                max_frames=max_frames,
                stop_requested=stop_requested,
                note=note,
                report=lambda done, dropped: update(
                    done, source.length, f"{dropped} dropped" if dropped else ""
                ),
            )
    if as_json:
        print_json(summary)
    else:
        say(run_line(summary))
    if summary["lost"]:
        raise FrameError(summary["lost"])
    if summary["ended_by"] == "signal" and summary["reconnects"] is None:
        raise typer.Exit(RunInterrupted.exit_code)  # a recording that was not run to its end


@app.command()
def bench(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Model bundles.")],
    frames: Annotated[
        Path | None, typer.Option(help="Frames to time; random images unless given.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Their label maps, to measure mIoU as well.")
    ] = None,
    label_space: LabelSpaceOfFiles = None,
    label_map: LabelMapFile = None,
    queries: Annotated[
        int | None, typer.Option(min=1, help="Timed frames of a row; 200 unless given.")
    ] = None,
    duration: Annotated[
        str | None, typer.Option(help="Time each row for so long at least, e.g. 60s.")
    ] = None,
    warmup: Annotated[
        int | None, typer.Option(min=0, help="Frames before timing; until steady unless given.")
    ] = None,
    camera: Annotated[
        float | None, typer.Option(metavar="FPS", help="Frames arrive at this rate, ready or not.")
    ] = None,
    backends: Annotated[
        str, typer.Option(help="auto, all, or names with commas; see docs/bench.md.")
    ] = "auto",
    rounds: Annotated[
        int, typer.Option(min=1, help="Rows take turns; 1: one engine at a time in memory.")
    ] = 5,
    device: Device = "auto",
    threads: Threads = None,
    plots: Annotated[
        Path | None, typer.Option(help="Folder for latency.svg and accuracy.svg.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write the rows as a baseline.")] = None,
    compare_with: Annotated[
        Path | None,
        typer.Option("--compare", help="A baseline; exit code 3 where this run is worse."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Percent by which times and memory may grow.")
    ] = 10.0,
    max_drop: Annotated[
        float, typer.Option(min=0, help="Points by which agreement and mIoU may fall.")
    ] = 0.1,
    any_machine: Annotated[
        bool, typer.Option("--any-machine", help="Compare with another machine's baseline.")
    ] = False,
    allow_network: AllowNetwork = None,
    as_json: Json = False,
) -> None:
    """Measure every artefact on every backend.

    Latency, memory, energy, label agreement and mIoU.
    """
    from .runtime.bench import (
        BenchSettings,
        check_bundle,
        check_none_failed,
        measure_bundle,
    )
    from .runtime.bench.baseline import (
        check_can_save,
        check_comparable,
        compare_baseline,
        load_baseline,
        save_baseline,
    )
    from .runtime.bench.plots import check_can_plot, write_plots
    from .runtime.bench.row import scenario
    from .runtime.bench.table import bench_table, print_comparison
    from .runtime.labels import label_space as find_label_space
    from .runtime.printable import printable
    from .runtime.terminal import note, print_json, progress
    from .runtime.units import parse_duration

    check_label_options(label_space, label_map)
    settings = BenchSettings(
        frames=frames,
        labels=labels,
        label_space=find_label_space(label_space) if label_space else None,
        label_map=label_map,
        queries=queries,
        duration_s=parse_duration("--duration", duration) if duration else None,
        warmup=warmup,
        camera_fps=camera,
        rounds=rounds,
        backends=backends,
        device=device,
        threads=threads,
    )
    baseline = load_baseline(compare_with) if compare_with else None
    if baseline is not None:
        check_comparable(baseline, scenario(camera), any_machine=any_machine)
    if save is not None:
        check_can_save(save)
    if plots is not None:
        check_can_plot(plots)
    import_torch_backend()
    opened = {bundle: opened_bundle(bundle, allow_network) for bundle in bundles}
    for one in opened.values():  # before the first is timed, which takes minutes
        check_bundle(one, settings)
    measured = []
    for bundle in bundles:
        with progress("bench", "steps") as update:
            found = measure_bundle(opened[bundle], settings, note=note, report=update)
        measured += [replace(m, row={"bundle": printable(str(bundle)), **m.row}) for m in found]
    rows = [m.row for m in measured]
    comparison = None
    if baseline is not None:
        comparison = compare_baseline(baseline, rows, tolerance=tolerance, max_drop=max_drop)
    if plots is not None:  # files first: what was measured is kept though it cannot be printed
        for picture in write_plots(measured, plots):
            note(f"wrote {picture}")
    if save is not None and (comparison is None or comparison.passed):
        save_baseline(save, rows)
        note(f"wrote {save}")
    if as_json:
        print_json(rows)
    else:
        bench_table(rows)
    if comparison is not None and compare_with is not None:
        print_comparison(comparison, on_stdout=not as_json)
        comparison.check(compare_with)
    check_none_failed(measured)


@app.command()
def info(bundle: BundleIn, as_json: Json = False) -> None:
    """What a bundle holds and comes from; checks every hash."""
    from .runtime.bundle import open_bundle
    from .runtime.onnx_graph import refused_models
    from .runtime.terminal import note, print_json, table, verdict_table

    opened = open_bundle(bundle)
    for sentence in refused_models(opened):
        note(sentence)
    if as_json:
        print_json(
            {"path": str(bundle), "hash": opened.hash, **opened.manifest.model_dump(mode="json")}
        )
        return
    manifest = opened.manifest
    seen, origin = manifest.input, manifest.provenance
    pixels = f"{seen.colour}, gamma {seen.gamma:g}, mean {seen.mean}, std {seen.std}"
    rows = [
        ("hash", opened.hash),
        ("network", manifest.network.name),
        ("label space", f"{opened.label_space.name}, {opened.label_space.num_classes} classes"),
        ("input", f"{seen.width}x{seen.height} {pixels}"),
        ("made by", ", ".join(filter(None, (origin.method, origin.created, origin.device)))),
    ]
    known = {"parent": origin.parent, "frames": origin.frames, "seed": origin.seed}
    rows += [(name, str(value)) for name, value in known.items() if value is not None]
    rows += [(m.name, f"{m.value} {m.unit} ({m.how})") for m in manifest.measured]
    table(str(bundle), ["", ""], rows)
    table(
        "\nartefacts",
        ["file", "kind", "precision", "bytes", "sha256"],
        [(a.path, a.kind, a.precision, a.bytes, a.sha256[:12]) for a in manifest.artefacts],
    )
    if manifest.verdict is not None:
        verdict_table(manifest.verdict, **run_seconds(opened))


@app.command()
def networks(as_json: Json = False) -> None:
    """The networks that can be trained, imported and adapted."""
    with needs_torch("networks"):
        from .adapt.networks import network_summaries

        listing("networks", [summary._asdict() for summary in network_summaries()], as_json)


@app.command()
def methods(as_json: Json = False) -> None:
    """The adaptation methods."""
    with needs_torch("methods"):
        from .adapt import METHODS

        rows = [
            {"name": m.name, "summary": m.summary, "variants": list(m.presets), "source": m.source}
            for m in METHODS.values()
        ]
    listing("methods", rows, as_json)


@app.command(name="label-spaces")
def label_spaces(as_json: Json = False) -> None:
    """The built-in label spaces; any other is a JSON file."""
    from .runtime.labels import LABEL_SPACES, label_space

    spaces = [label_space(name) for name in LABEL_SPACES]
    rows = [{"name": s.name, "classes": s.num_classes, "names": list(s.classes)} for s in spaces]
    listing("label spaces", rows, as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine can do, and what to install for more."""
    from .runtime.doctor import diagnose
    from .runtime.terminal import print_json, table

    checks = diagnose()
    if as_json:
        print_json(checks)
        return
    marks = {True: "ok", None: "--", False: "!!"}
    table(
        "",
        ["", "what", "found", "advice"],
        [(marks[c["ok"]], c["check"], c["found"], c["advice"]) for c in checks],
    )


if __name__ == "__main__":
    main()
