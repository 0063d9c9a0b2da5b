"""Recipes: every file in configs/ says what its paper says, and a small one is reproduced."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from roadshift.adapt.methods import build_stages, resolve_config
from roadshift.adapt.models.loading import load_network
from roadshift.adapt.networks import NETWORKS, build_network
from roadshift.adapt.run.config import read_toml
from roadshift.adapt.workflows.recipes import (
    FOLDER,
    SOURCES,
    find_recipe,
    read_recipe,
    recipe_names,
    settings_file,
)
from roadshift.adapt.workflows.reproduction import reproduce
from roadshift.cli import app
from roadshift.commands.tables import published_tables
from roadshift.runtime.arguments import ProgressUpdate
from roadshift.runtime.bundle import Bundle, open_bundle
from roadshift.runtime.errors import (
    ConfigError,
    FrameError,
    LabelSpaceError,
    NetworkError,
    OutputError,
    RunInterrupted,
)
from roadshift.runtime.labels import label_space
from run_cases import run_options
from typer.testing import CliRunner

# mIoU, mIoU*, and both of the paper's source model, as papers and their repositories print them.
PUBLISHED: dict[str, tuple[float | None, ...]] = {
    "gta5-cityscapes-iapc": (49.4, None, 36.6, None),
    "synthia-cityscapes-iapc": (45.3, 52.7, 35.2, 40.5),
    "gta5-cityscapes-ld": (45.5, None, 35.7, None),
    "gta5-cityscapes-ldbe": (49.2, None, 35.7, None),
    "synthia-cityscapes-ld": (42.6, 50.1, 32.5, 37.6),
    "synthia-cityscapes-ldbe": (43.5, 51.1, 32.5, 37.6),
    "gta5-cityscapes-atp": (52.6, None, None, None),
    "synthia-cityscapes-atp": (49.0, 57.9, None, None),
    "cityscapes-rome-atp": (55.9, None, None, None),
    "cityscapes-rio-atp": (57.8, None, None, None),
    "cityscapes-tokyo-atp": (50.5, None, None, None),
    "cityscapes-taipei-atp": (51.1, None, None, None),
    "gta5-cityscapes-das3": (50.7, None, None, None),
    "gta5-cityscapes-das3-aug": (51.1, None, None, None),
    "synthia-cityscapes-das3": (52.1, None, None, None),
    "gta5-cityscapes-atp-vgg16": (39.8, None, None, None),
    "gta5-cityscapes-atp-black-box": (45.3, None, None, None),
    "gta5-cityscapes-atp-black-box-distilled": (38.6, None, None, None),
    "gta5-cityscapes-atp-black-box-propagate": (44.4, None, None, None),
    "gta5-cityscapes-atp-black-box-teach": (40.4, None, None, None),
}
FIGURES = ("miou", "miou_13", "source_only", "source_only_13")
every_recipe = pytest.mark.parametrize("name", PUBLISHED)

TINY = """
method = "iapc"

[recipe]
row = "Nothing to Cityscapes"
reference = "this test"
data = "cityscapes"
network = "fast_scnn"
label_space = "synthia16"
input_size = [64, 32]
evaluation_size = [96, 64]
checkpoint_from = "this test"

[recipe.published]
miou = 10.0
miou_13 = 11.0
source_only = 9.0
iou = { road = 12.5 }

[iapc]
variant = "paper"

[training]
steps = 2
batch_size = 2
frame_size = [64, 32]
crop_size = [32, 32]
amp = "off"
"""
WIDTH, HEIGHT = 96, 64
Reproduce = Callable[..., dict[str, Any]]


# ---- the files that come with roadshift ----------------------------------------------------------


def test_there_is_one_recipe_for_each_row() -> None:
    assert set(recipe_names()) == set(PUBLISHED)


# Frames to adapt on of each layout; NTHU Cross-City's are of one city.
TRAINING_FRAMES = {"cityscapes": 2975, "crosscity": 3200}


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n.split("-")[2] in ("atp", "das3")])
def test_teach_makes_ten_passes_over_the_target_frames_at_most(name: str) -> None:
    recipe, file = read_recipe(find_recipe(name)), find_recipe(name)
    config = resolve_config(recipe.method, file=file)
    shares = {stage.name: stage.share for stage in build_stages(config)}
    if name.endswith("distilled"):
        assert list(shares) == ["distil"]
        return
    steps = config.training.steps * shares["teach"] // sum(shares.values())
    passes = steps * config.training.batch_size / TRAINING_FRAMES[recipe.data]
    assert 8 < passes <= 10


def test_das3s_row_of_50_7_is_without_strong_augmentation() -> None:
    config = resolve_config("das3", file=find_recipe("gta5-cityscapes-das3"))
    assert config.augment.policy == "none"


@every_recipe
def test_a_recipe_says_what_its_paper_says_and_where_it_is_measured(name: str) -> None:
    recipe = read_recipe(find_recipe(name))
    figures = recipe.published
    assert PUBLISHED[name] == tuple(figures.model_dump()[key] for key in FIGURES)
    source, target = name.split("-")[:2]
    assert recipe.row.lower().startswith(f"{source} to {target}")
    assert recipe.evaluation_size == (2048, 1024)
    assert recipe.network == ("deeplab_v2_vgg16" if "vgg16" in name else "deeplab_v2_resnet101")
    assert recipe.network in NETWORKS
    classes = label_space(recipe.label_space).num_classes
    if source == "synthia":
        assert classes == (16 if figures.miou_13 else 13)
    else:
        assert classes == {"gta5": 19, "cityscapes": 13}[source]


@every_recipe
def test_a_recipe_holds_its_whole_schedule_and_asks_for_no_extras_of_ours(name: str) -> None:
    file = find_recipe(name)
    values = read_toml(file)
    method = values["method"]
    assert values[method]["variant"] in ("paper", "reference")
    told = {"steps", "batch_size", "frame_size", "crop_size", "lr", "momentum", "weight_decay"}
    assert told <= set(values["training"])
    config = resolve_config(method, file=file)
    assert (config.tone, config.warm_start, config.final_bn) == ("none", "source", False)
    assert config.training.steps == values["training"]["steps"]
    assert config.method_config["variant"] == values[method]["variant"]


@every_recipe
def test_the_page_of_recipes_gives_the_same_figures(name: str) -> None:
    page = (Path(__file__).parents[3] / "docs/recipes.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    published, source = (cell.strip() for cell in line.split("|")[3:5])
    miou, starred, source_only, source_starred = PUBLISHED[name]
    assert published == f"{miou}" + (f", mIoU* {starred}" if starred else "")
    assert source == f"{source_only or ''}" + (
        f", mIoU* {source_starred}" if source_starred else ""
    )


# ---- reading one ---------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    return file


def test_a_recipe_is_found_by_name_or_by_file(tiny: Path) -> None:
    assert find_recipe("gta5-cityscapes-iapc").name == "gta5-cityscapes-iapc.toml"
    assert find_recipe(str(tiny)) == tiny
    with pytest.raises(ConfigError, match=r"no recipe 'gta5'; give a file, or one of .*-iapc"):
        find_recipe("gta5")


def test_a_bare_name_of_settings_is_a_recipe_and_a_path_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings_file(None) is None
    assert settings_file(Path("gta5-cityscapes-iapc")) == FOLDER / "gta5-cityscapes-iapc.toml"
    assert settings_file(Path("gta5"), SOURCES) == SOURCES / "gta5.toml"
    for path in ("gta5.toml", "configs/gta5", "./gone.toml"):  # a file that is or is not there
        assert settings_file(Path(path), SOURCES) == Path(path)
    (tmp_path / "gta5").write_text("")
    assert settings_file(Path("gta5"), SOURCES) == Path("gta5")
    with pytest.raises(ConfigError, match=r"no recipe 'synthia13'; give a file, or one of .*gta5"):
        settings_file(Path("synthia13"), SOURCES)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('method = "iapc"', "", r"tiny\.toml: is no recipe, .* gta5-cityscapes-iapc"),
        (TINY, 'method = "iapc"', r"tiny\.toml: is no recipe"),
        ('method = "iapc"', 'method = "supervised"', "learns from labels"),
        ("row =", "rows =", r"tiny\.toml, section recipe: missing key 'row'; unknown key 'rows'"),
        ("miou = 10.0", "miou = 110.0", "published.miou: .*110"),
        ("road = 12.5", "raod = 12.5", r"published\.iou names raod, and label space synthia16 has"),
        ('"cityscapes"', '"city"', "no layout 'city'; choose one of gta5"),
        ("synthia16", "camvid11", "label space camvid11 lacks bicycle, bus, "),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_with_the_reason(
    tiny: Path, old: str, new: str, says: str
) -> None:
    tiny.write_text(TINY.replace(old, new))
    with pytest.raises(ConfigError, match=says):
        read_recipe(tiny)


def test_an_unknown_label_space_is_refused(tiny: Path) -> None:
    tiny.write_text(TINY.replace("synthia16", "synthia17"))
    with pytest.raises(LabelSpaceError, match="synthia17"):
        read_recipe(tiny)


def test_a_recipe_is_also_a_configuration_and_its_row_no_setting(tiny: Path) -> None:
    assert resolve_config("iapc", file=tiny).training.steps == 2
    with pytest.raises(ConfigError, match="unknown key 'recipe'"):
        resolve_config("iapc", file=tiny, assignments=["recipe.row=x"])


# ---- reproducing one -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images to adapt on, without labels, and two to measure on, of 96x64."""
    root, rng = tmp_path_factory.mktemp("cityscapes"), np.random.default_rng(0)
    for split, city, count in (("train", "aachen", 3), ("val", "lindau", 2)):
        for kind in ("leftImg8bit", "gtFine"):
            (root / kind / split / city).mkdir(parents=True)
        for i in range(count):
            blocks = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3))
            image = blocks.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
            name = f"{city}_{i:06d}_000019"
            assert cv2.imwrite(
                str(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png"), image
            )
            ids = rng.integers(0, 34, (HEIGHT, WIDTH)).astype(np.uint8)
            if split == "val":
                assert cv2.imwrite(
                    str(root / f"gtFine/{split}/{city}/{name}_gtFine_labelIds.png"), ids
                )
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Fast-SCNN of 16 classes that tells several of them apart, as people save one."""
    torch.manual_seed(0)
    network = build_network("fast_scnn", 16)
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(4, 3, 32, 64))
        for parameter in network.classifier_parameters():
            parameter.mul_(20)
    path = tmp_path_factory.mktemp("published") / "source.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, path)
    return path


@pytest.fixture
def run(tiny: Path, cityscapes: Path, checkpoint: Path, tmp_path: Path) -> Reproduce:
    """``run(resume=True)`` and so on: the tiny recipe into ``tmp_path/out``."""

    def run(
        data: Path = cityscapes,
        source: Path = checkpoint,
        out: Path = tmp_path / "out",
        overwrite: bool = False,
        seed: int | None = None,
        seeds: int = 1,
        initial: Path | None = None,
        allow_networks: Sequence[str] = (),
        **options: Any,
    ) -> dict[str, Any]:
        return reproduce(
            tiny,
            data,
            source,
            run_options(out, overwrite=overwrite, **options),
            seed=seed,
            seeds=seeds,
            initial=initial,
            allow_networks=allow_networks,
        )

    return run


def measured_slowly(bundle: Bundle, root: Path) -> dict[str, float | None]:
    """IoU in percent, by class: logits upsampled to the label maps, pixel counts in plain loops."""
    network, space = load_network(bundle, torch.device("cpu")), bundle.label_space
    counts = np.zeros((16, 3), int)  # both, truth, prediction
    for path in sorted(root.glob("leftImg8bit/val/*/*.png")):
        image = cv2.resize(cv2.imread(str(path))[..., ::-1], (64, 32), interpolation=cv2.INTER_AREA)
        spec = bundle.manifest.input
        x = (torch.from_numpy(image.astype(np.float32)) - torch.tensor(spec.mean)) / torch.tensor(
            spec.std
        )
        with torch.no_grad():
            logits = network(x.permute(2, 0, 1)[None]).logits
        z = F.interpolate(
            logits, (HEIGHT, WIDTH), mode="bilinear", align_corners=network.align_corners
        )
        found = z.argmax(dim=1)[0].numpy()
        labels = str(path).replace("leftImg8bit.png", "gtFine_labelIds.png")
        ids = cv2.imread(labels.replace("/leftImg8bit/", "/gtFine/"), cv2.IMREAD_UNCHANGED)
        assert space.raw_ids is not None
        for y, x_ in np.ndindex(ids.shape):
            truth = space.raw_ids.get(int(ids[y, x_]))
            if truth is not None:
                counts[truth, 1] += 1
                counts[found[y, x_], 2] += 1
                counts[truth, 0] += truth == found[y, x_]
    union = counts[:, 1] + counts[:, 2] - counts[:, 0]
    return {
        name: 100 * float(both) / float(all_of) if all_of else None
        for name, both, all_of in zip(space.classes, counts[:, 0], union, strict=True)
    }


def test_both_models_are_measured_at_the_stated_size_and_put_beside_the_paper(
    run: Reproduce, cityscapes: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    assert list(cityscapes.glob("gtFine/train/aachen/*")) == []  # so no label helps to adapt
    result = run(note=notes.append)
    assert json.loads((tmp_path / "out/result.json").read_text()) == result
    source, adapted = (open_bundle(tmp_path / "out" / name) for name in ("source", "adapted"))
    for bundle, record in ((source, result["source_only"]), (adapted, result["measured"])):
        slow = measured_slowly(bundle, cityscapes)
        assert record["iou"] == pytest.approx(slow)
        thirteen = [slow[name] for name in label_space("synthia13").classes]
        present = [value for value in thirteen if value is not None]
        assert record["miou_13"] == pytest.approx(np.mean(present))
        assert record["frames"] == 2
    assert len({result["source_only"]["miou"], result["source_only"]["miou_13"]}) == 2
    assert result["gain"] == result["measured"]["miou"] - result["source_only"]["miou"] != 0
    assert (result["recipe"], result["method"], result["frames"]) == ("tiny", "iapc", 3)
    assert result["evaluation_size"] == [96, 64]
    assert result["published"] == {
        "miou": 10.0,
        "miou_13": 11.0,
        "source_only": 9.0,
        "source_only_13": None,
        "iou": {"road": 12.5},
        "source_only_iou": {},
    }
    origin = adapted.manifest.provenance
    assert (origin.parent, origin.method, origin.frames) == (source.hash, "iapc", 3)
    assert source.manifest.provenance.configuration == {"weights": "source.pth"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "source",
        "adapted",
        "result.json",
    }
    assert any("source only: " in note and "mIoU at 96x64" in note for note in notes)


def test_a_black_box_row_teaches_a_student_from_the_source_models_answers(
    run: Reproduce, tiny: Path, checkpoint: Path, tmp_path: Path
) -> None:
    tiny.write_text(
        TINY.replace("[iapc]", "[atp_black_box]")
        .replace('"iapc"', '"atp_black_box"')
        .replace('variant = "paper"', 'variant = "paper"\nstages = ["teach"]')
        .replace("crop_size = [32, 32]", "crop_size = [128, 64]")  # batch norm sees 16 values at
        .replace("frame_size = [64, 32]", "frame_size = [128, 64]")  # least; of two it explodes
        .replace("steps = 2", "steps = 2\nlr = 1e-6")
    )
    result = run()
    source, student = (open_bundle(tmp_path / "out" / name) for name in ("source", "adapted"))
    assert result["method"] == student.manifest.provenance.method == "atp_black_box"
    assert student.manifest.network == source.manifest.network
    origin = student.manifest.provenance
    assert origin.configuration["method_config"]["stages"] == ["teach"]
    started = run(initial=checkpoint, out=tmp_path / "from")  # as its teacher, and moves little
    assert started["measured"]["miou"] != result["measured"]["miou"]
    tiny.write_text(TINY)
    with pytest.raises(ConfigError, match="initial: iapc starts from the source model; leave it"):
        run(initial=checkpoint, out=tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("content", ["my notes", "{}", "[]", '{"miou": 1}'])
def test_a_result_of_another_program_is_not_overwritten(
    run: Reproduce, tmp_path: Path, content: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/result.json").write_text(content)
    with pytest.raises(OutputError, match=r"result\.json: exists and is no result of this command"):
        run()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result.json"]
    assert (tmp_path / "out/result.json").read_text() == content


@pytest.mark.usefixtures("one_thread")
def test_a_run_stopped_while_measuring_goes_on_without_adapting_again(
    run: Reproduce, tmp_path: Path
) -> None:
    seen: list[ProgressUpdate] = []
    with pytest.raises(RunInterrupted, match=r"stopped while measuring \(adapted\)"):
        run(
            report=seen.append,
            stop_requested=lambda: bool(seen) and seen[-1].task == "adapted",
        )
    assert [step.task for step in seen if step.done == 1] == ["source only", "iapc", "adapted"]
    before = open_bundle(tmp_path / "out/adapted").hash
    with pytest.raises(OutputError, match="already exists"):
        run()
    seen.clear()
    resumed = run(resume=True, report=seen.append)
    assert {step.task for step in seen} == {"source only", "adapted"}
    assert open_bundle(tmp_path / "out/adapted").hash == before
    assert json.loads((tmp_path / "out/result.json").read_text()) == resumed


def test_a_resumed_run_takes_no_other_runs_models_and_a_bundle_is_a_source_model_too(
    run: Reproduce, tmp_path: Path, checkpoint: Path
) -> None:
    first = run()
    with pytest.raises(OutputError, match="already exists"):
        run(resume=True, seed=1)
    other = tmp_path / "other.pth"
    other.write_bytes(checkpoint.read_bytes())
    with pytest.raises(OutputError, match=r"source: was not made from other\.pth"):
        run(resume=True, source=other)
    before = open_bundle(tmp_path / "out/adapted").hash
    assert run(source=tmp_path / "out/source", overwrite=True) == first
    assert open_bundle(tmp_path / "out/adapted").hash != before


def test_a_source_model_of_another_network_or_of_other_classes_is_refused(
    run: Reproduce, source: Bundle, tiny: Path
) -> None:
    with pytest.raises(NetworkError, match=r"its network is tiny_network:build, .* fast_scnn's"):
        run(source=source.path)
    tiny.write_text(TINY.replace('"fast_scnn"', '"tiny_network:build"'))
    with pytest.raises(LabelSpaceError, match=r"its label space is four, .* measured in synthia16"):
        run(source=source.path, allow_networks=["tiny_network"])


def test_code_that_a_recipe_names_is_not_run_unless_the_user_names_it(
    run: Reproduce,
    tiny: Path,
    cityscapes: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "of_a_recipe.py").write_text(f"open({str(ran)!r}, 'w')\ndef build(**_): ...\n")
    tiny.write_text(TINY.replace('"fast_scnn"', '"of_a_recipe:build"'))
    with pytest.raises(
        NetworkError, match=r"tiny\.toml: its network .*allow_networks=\['of_a_recipe'\]"
    ):
        run()
    command = ["reproduce", str(tiny), "--data", str(cityscapes), "--checkpoint", str(checkpoint)]
    command += ["--out", str(tmp_path / "out"), "--device", "cpu"]
    refused = CliRunner().invoke(app, [*command, "--allow-network", "another"])
    assert "allow_networks=['of_a_recipe']" in str(refused.exception)
    assert not ran.exists()
    allowed = CliRunner().invoke(app, [*command, "--allow-network", "of_a_recipe"])
    assert "the factory returned a NoneType" in str(allowed.exception)
    with pytest.raises(NetworkError, match="the factory returned a NoneType"):
        run(allow_networks=["of_a_recipe"])
    assert ran.exists()


def test_resized_images_are_refused_before_anything_is_written(
    run: Reproduce, tiny: Path, tmp_path: Path
) -> None:
    tiny.write_text(TINY.replace("[96, 64]", "[192, 128]"))
    with pytest.raises(FrameError, match=r"_leftImg8bit\.png is 96x64, .* measured at 192x128"):
        run()
    assert not (tmp_path / "out").exists()


def test_another_folder_than_the_data_sets_is_refused_before_anything_is_written(
    run: Reproduce, cityscapes: Path, tmp_path: Path
) -> None:
    with pytest.raises(FrameError, match="leftImg8bit/train, where Cityscapes keeps its images"):
        run(data=cityscapes / "leftImg8bit")
    with pytest.raises(OutputError, match="is not an existing folder"):
        run(out=tmp_path / "no/out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("one_thread")
def test_several_seeds_give_each_runs_figures_and_what_they_have_in_common(
    run: Reproduce, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="seed and seeds are both given"):
        run(seed=1, seeds=2)
    with pytest.raises(ConfigError, match="seeds 0: give 1 to"):
        run(seeds=0)
    result = run(seeds=3)
    assert json.loads((tmp_path / "out/result.json").read_text()) == result
    runs = result["seeds"]
    assert [one["seed"] for one in runs] == [0, 1, 2]
    for one in runs:
        origin = open_bundle(tmp_path / f"out/adapted-seed{one['seed']}").manifest.provenance
        assert origin.seed == one["seed"]
        assert one["gain"] == one["measured"]["miou"] - result["source_only"]["miou"]
    for key in ("miou", "miou_13"):
        values = [one["measured"][key] for one in runs]
        mean = sum(values) / 3
        deviation = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
        assert result["measured"][key] == pytest.approx(mean)
        assert result["measured"][f"{key}_std"] == pytest.approx(deviation)
    road = sum(one["measured"]["iou"]["road"] for one in runs) / 3
    assert result["measured"]["iou"]["road"] == pytest.approx(road)
    assert result["gain"] == pytest.approx(sum(one["gain"] for one in runs) / 3)
    published_tables(result)
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    spread = f"{result['measured']['miou']:.2f} ± {result['measured']['miou_std']:.2f}"
    assert ["adapted,", "mIoU", "10.00", *spread.split()] in lines
    assert ["adapted,", "road", "12.50", f"{road:.2f}"] in lines
    assert all(f"seed {seed}" in printed for seed in range(3))
    before = [open_bundle(tmp_path / f"out/adapted-seed{seed}").hash for seed in range(3)]
    assert run(seeds=3, resume=True) == result
    assert before == [open_bundle(tmp_path / f"out/adapted-seed{seed}").hash for seed in range(3)]


def test_what_the_command_needs_is_missed_by_name_unless_rows_are_listed() -> None:
    known = "gta5-cityscapes-iapc"
    for name, arguments in (("RECIPE", []), ("--data", [known]), ("--out", [])):
        more = [known, "--data", "d", "--checkpoint", "c"] if name == "--out" else arguments
        ran = CliRunner().invoke(app, ["reproduce", *more])
        assert ran.exit_code == 2
        assert f"{name}: it is missing; give it, or --list alone" in ran.output
    ran = CliRunner().invoke(app, ["reproduce", "--list", "--json"])
    assert ran.exit_code == 0, ran.output
    assert {row["recipe"] for row in json.loads(ran.stdout)} >= set(PUBLISHED)
    shown = CliRunner().invoke(app, ["reproduce", "--list"])
    assert "no recipe: " in shown.stdout


def test_a_recipe_that_there_is_not_is_said_before_what_else_is_missing() -> None:
    ran = CliRunner().invoke(app, ["reproduce", "gta5"])
    assert isinstance(ran.exception, ConfigError), ran.output
    assert "no recipe 'gta5'; give a file, or one of " in str(ran.exception)


def test_the_command_prints_both_figures(
    tiny: Path, cityscapes: Path, checkpoint: Path, tmp_path: Path
) -> None:
    command = ["reproduce", str(tiny), "--data", str(cityscapes), "--checkpoint", str(checkpoint)]
    ran = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "a"), "--device", "cpu"])
    assert ran.exit_code == 0, ran.output
    lines = [line.split() for line in ran.stdout.splitlines()]
    result = json.loads((tmp_path / "a/result.json").read_text())
    assert ["adapted,", "mIoU", "10.00", f"{result['measured']['miou']:.2f}"] in lines
    assert ["source", "only,", "mIoU*", "-", f"{result['source_only']['miou_13']:.2f}"] in lines
    for stage, unit in (("source only", "frames"), ("adapted", "frames"), ("iapc", "steps")):
        assert re.search(rf"^reproduce: \d+/\d+ {unit} .*{stage}", ran.stderr, re.MULTILINE), stage
        other = "steps" if unit == "frames" else "frames"
        assert not re.search(rf"^reproduce: \d+/\d+ {other} .*{stage}", ran.stderr, re.MULTILINE)
    ran = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "a"), "--resume", "--json"])
    assert json.loads(ran.stdout) == result
