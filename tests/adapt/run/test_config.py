"""Settings: where they come from, what is refused, and the presets' published numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from roadshift.adapt.methods import METHODS, build_stages, find_method, resolve_config
from roadshift.adapt.run.config import (
    AugmentConfig,
    RunConfig,
    Settings,
    TrainingConfig,
    WatchConfig,
    check_given_once,
    merge,
    parse_assignments,
    read_toml,
    validate,
)
from roadshift.cli import app
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.console.flags import flag_of
from roadshift.runtime.errors import ConfigError
from typer.testing import CliRunner

# --- merging and parsing ------------------------------------------------------------------------


def test_merge_lays_section_over_section_and_leaves_its_arguments() -> None:
    base = {"a": 1, "s": {"x": 1, "y": {"p": 1}}, "t": {"z": 1}, "u": 3}
    over = {"b": 2, "s": {"y": {"q": 2}, "x": 9}, "t": 5, "u": {"v": 4}}
    assert merge(base, over) == {
        "a": 1,
        "b": 2,
        "s": {"x": 9, "y": {"p": 1, "q": 2}},
        "t": 5,
        "u": {"v": 4},
    }
    assert base == {"a": 1, "s": {"x": 1, "y": {"p": 1}}, "t": {"z": 1}, "u": 3}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-4", 1e-4),
        ("true", True),
        ("none", "none"),
        ('"none"', "none"),
        ("[512, 256]", [512, 256]),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_an_assignment_is_a_toml_value_or_a_bare_word(text: str, value: Any) -> None:
    assert parse_assignments([f"iapc.deep.key={text}"]) == {"iapc": {"deep": {"key": value}}}


def test_assignments_share_sections_and_the_last_one_counts() -> None:
    given_values = parse_assignments(["a.x=1", "a.y=2", "b=3", " a . x = 4 "])
    assert given_values == {"a": {"x": 4, "y": 2}, "b": 3}


@pytest.mark.parametrize("entry", ["steps", "=3", "a..b=3", ".a=3", " =1"])
def test_an_assignment_without_key_or_value_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"write it as section\.key=value"):
        parse_assignments([entry])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    keys=st.lists(st.from_regex(r"[a-z_]{1,6}", fullmatch=True), min_size=1, max_size=4),
    value=st.one_of(st.integers(-(10**9), 10**9), st.booleans(), st.floats(allow_nan=False)),
)
def test_any_number_survives_an_assignment(keys: list[str], value: Any) -> None:
    text = str(value).lower()
    parsed: Any = parse_assignments([f"{'.'.join(keys)}={text}"])
    for key in keys:
        parsed = parsed[key]
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_toml_file_that_is_missing_or_is_not_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        read_toml(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    for content in (b"steps = = 3", b"\xff\xfe"):
        bad.write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.toml: not a TOML file"):
            read_toml(bad)


# --- validation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"steps": -1}, r"training\.steps.*greater than or equal to 0, got -1"),
        ({"lr": 0}, r"training\.lr"),
        ({"lr": float("nan")}, r"training\.lr"),
        ({"batch_size": "many"}, r"training\.batch_size.*got 'many'"),
        ({"momentum": 1}, r"training\.momentum"),
        ({"optimizer": "adam"}, r"training\.optimizer"),
        ({"scale": [1.2, 0.8]}, r"0 < low <= high, got \(1\.2, 0\.8\)"),
        ({"scale": [0, 1]}, "0 < low <= high"),
        ({"crop_size": [512, 8]}, r"crop_size must be at least 16x16 pixels, got \(512, 8\)"),
        ({"frame_size": [8, 512]}, "frame_size must be at least 16x16"),
        ({"crop_size": [512]}, r"training\.crop_size"),
        ({"batch_size": 2, "micro_batch": 4}, "micro_batch 4 is above batch_size 2"),
        ({"nesterov": True, "momentum": 0}, "nesterov needs a momentum"),
        ({"repeated_updates": True, "optimizer": "adamw"}, "repeated_updates is for optimizer=sgd"),
        ({"scale_values": [0.5, 0.0]}, "scale_values must be above 0"),
        ({"scale_values": [0.5], "scale": [0.5, 1.5]}, "stands in place of scale"),
        ({"repeated_updates": True, "learn": "lora"}, "repeated_updates is for .* not for learn"),
        ({"stepz": 3}, r"unknown key 'training\.stepz' \(known: steps, batch_size.*amp"),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(
    training: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(RunConfig, {"method": "iapc", "training": training}, "settings")


def test_every_problem_is_named_at_once() -> None:
    values = {"method": "iapc", "sede": 1, "seed": -1, "augment": {"policy": "wild", "blur": -1}}
    with pytest.raises(ConfigError) as caught:
        validate(RunConfig, values, "settings")
    text = str(caught.value)
    assert text.startswith("settings: ")
    assert all(
        part in text for part in ("'sede'", "seed", "augment.policy", "'wild'", "augment.blur")
    )
    assert "known: method, seed, tone, warm_start" in text
    assert "method_config" not in text


def test_settings_cannot_be_changed() -> None:
    config = RunConfig(method="iapc")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        config.training.lr = 1  # type: ignore[misc]


@pytest.mark.parametrize("section", [TrainingConfig, AugmentConfig, RunConfig])
def test_unknown_keys_are_refused_in_every_section(section: type[Settings]) -> None:
    with pytest.raises(ConfigError, match="unknown key 'speed'"):
        validate(section, {"speed": 1}, "here")


# --- the order of the sources -------------------------------------------------------------------


def test_default_preset_file_assignment_and_seed_each_over_the_last(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'method = "iapc"\nseed = 4\n[training]\nsteps = 7\nlr = 0.5\n'
        '[iapc]\nvariant = "reference"\nweight_pe = 0.1\nweight_ps = 0.2\n'
    )
    config = resolve_config("iapc", file=file, assignments=["training.lr=0.25", "iapc.weight_ps=3"])
    assert (config.training.steps, config.training.lr) == (7, 0.25)
    assert config.training.warmup_steps == 5000  # the preset's
    assert config.training.momentum == 0.9  # the field's own
    assert config.method_config["variant"] == "reference"
    assert (config.method_config["weight_pe"], config.method_config["weight_ps"]) == (0.1, 3)
    assert config.method_config["weight_im"] == 2.0
    assert config.seed == 4
    assert resolve_config("iapc", file=file, seed=5).seed == 5


def test_a_file_for_another_method_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('method = "bn_stats"\n')
    with pytest.raises(
        ConfigError, match=r"run\.toml is written for method 'bn_stats', not 'iapc'"
    ):
        resolve_config("iapc", file=file)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["iapc.variant=papper"], "variant 'papper' is unknown; there are paper, reference, roads"),
        (["iapc.variant=[1]"], r"variant \[1\] is unknown"),
        (["iapc=3"], "iapc is a section"),
        (["iapc.weight_xx=1"], r"unknown key 'weight_xx' \(known: variant, weight_ia"),
        (["iapc.weight_im=-1"], "weight_im: .*got -1"),
        (["iapc.importance=second"], "importance: "),
        (["tent.lr=1"], "settings of tent are for runs of it"),
        (["training.lrr=1"], r"unknown key 'training\.lrr'"),
        (["warm_start=maybe"], "warm_start: "),
        (["method_config.weight_im=1"], r"give these settings as \[iapc\]"),
        (["method=iapc"], "cannot change the method; use method iapc"),
        (["method=ld"], "cannot change the method; use method ld"),
        (["nosuch.x=1"], "unknown key 'nosuch'"),
        (["recipe.row=1"], "unknown key 'recipe'"),
        (["supervised.label_smoothing=0.1"], "settings of supervised are for runs of it"),
        (["training.steps=3\nseed=4"], r"training\.steps: .*got '3\\nseed=4'"),
        (["training=3"], "training: "),
        (["iapc.weight_pe.x=3"], "weight_pe: "),
        ([f"iapc.weight_{name}=0" for name in ("ia", "pe", "ps", "im")], "must be above 0"),
    ],
)
def test_a_bad_setting_of_a_run_is_one_sentence(assignments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_config("iapc", assignments=assignments)


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=", ".join(METHODS)):
        resolve_config("tentt")


@pytest.mark.parametrize(
    ("given_entries", "options"),
    [
        (["training.lr=1", " training . lr =2"], {}),
        (["a=1", "b=2", "a=1"], {}),
        (["iapc=3", "iapc.weight_pe=1"], {}),
        (["iapc.weight_pe=1", "iapc={weight_pe=2}"], {}),
        (["loss_backend=tiled"], {"loss_backend": "reference"}),
        (["loss_backend=tiled"], {"loss_backend": "tiled"}),
        (["seed=1"], {"seed": 0}),
    ],
)
def test_what_is_given_twice_is_refused(
    given_entries: list[str], options: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match="are both given; leave one of them out"):
        check_given_once(given_entries, **options)


def test_what_is_given_once_is_not_refused() -> None:
    check_given_once(["a.x=1", "a.y=2", "ax=3", "seed=1"], loss_backend="tiled", seed=None)


@pytest.mark.parametrize(
    ("command", "settings_", "words"),
    [
        ("adapt", ["--seed", "1", "--set", "seed=2"], "--seed 1 and --set 'seed=2'"),
        (
            "adapt",
            ["--loss-backend", "tiled", "--set", "loss_backend=reference"],
            "--loss-backend 'tiled' and",
        ),
        (
            "adapt",
            ["--losses", "tiled", "--set", "loss_backend=reference"],
            "--loss-backend 'tiled' and",
        ),
        (
            "adapt",
            ["--loss-backend", "tiled", "--set", "losses=reference"],
            "losses and loss_backend are both given",
        ),
        (
            "compare",
            ["--loss-backend", "tiled", "--losses", "tiled"],
            "--losses and --loss-backend are both given",
        ),
        ("adapt", ["--set", "seed=1", "--set", "seed=1"], "--set 'seed=1' and"),
        ("adapt", ["--set", "method=iapc"], "use --method iapc"),
        ("compare", ["--set", "method=iapc"], "takes its methods from --methods"),
        ("compare", ["--steps", "3", "--set", "training.steps=4"], "--steps and --set training.s"),
        (
            "compare",
            ["--methods", "iapc:paper", "--set", "iapc.variant=reference"],
            "--methods iapc:paper and --set iapc.variant=reference",
        ),
    ],
)
def test_no_option_is_silently_ignored(
    command: str, settings_: list[str], words: str, source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    words_of = [command, str(source.path), str(frames_dir), "--out", str(tmp_path / "o")]
    labels = ["--labels", str(frames_dir)] if command == "compare" else []
    ran = CliRunner().invoke(app, [*words_of, *labels, *settings_])
    assert isinstance(ran.exception, ConfigError)
    assert words in ran.exception.told(flag_of)
    assert list(tmp_path.iterdir()) == []


# --- numbers beyond all sense ---------------------------------------------------------------------

GIANTS = ["1e308", "-1e308", "1e-320", "inf", "nan", "0", "-1", str(10**30), "9" * 5000]
GIANTS += ["0x" + "f" * 5000, "1" + "0" * 400, "[" * 3000, "{" * 3000, "true", '""', "[]", "{}"]


def numeric_fields(config_type: type[BaseModel], where: str) -> list[str]:
    """Every field of a section that is a number, or several."""
    return [
        f"{where}{name}"
        for name, field in config_type.model_fields.items()
        if any(part in str(field.annotation) for part in ("int", "float"))
    ]


SHARED = [
    *numeric_fields(RunConfig, ""),
    *numeric_fields(TrainingConfig, "training."),
    *numeric_fields(AugmentConfig, "augment."),
    *numeric_fields(WatchConfig, "watch."),
]
OWN = [
    (name, field)
    for name in (*METHODS, "supervised")
    for field in numeric_fields(find_method(name).Config, f"{name}.")
]


def refusal(method: str, assignment: str) -> str | None:
    """The sentence with which it is refused; None if it is a setting that a run can begin with."""
    try:
        config = resolve_config(method, assignments=[assignment])
    except ConfigError as error:
        return str(error)
    build_stages(config)
    json.dumps(config.model_dump(mode="json"), allow_nan=False)
    return None


@pytest.mark.parametrize(("method", "field"), [*[("iapc", field) for field in SHARED], *OWN])
def test_a_number_beyond_all_sense_is_a_setting_or_a_sentence(method: str, field: str) -> None:
    refusals = [refusal(method, f"{field}={number}") for number in GIANTS]
    sentences = [sentence for sentence in refusals if sentence is not None]
    assert len(sentences) >= 10
    assert all(len(sentence) < 1200 and "\n" not in sentence for sentence in sentences)


@pytest.mark.parametrize(
    "content", [b"a = " + b"[" * 100_000, b"a = " + b"9" * 6000, b"#" * 2**21, b"\0"]
)
def test_a_file_that_is_no_settings_file_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.toml: "):
        read_toml(file)
    with pytest.raises(ConfigError, match="run: cannot be read"):
        read_toml(tmp_path / "run")


def test_a_number_that_python_does_not_read_is_told_in_our_words(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("seed = " + "9" * 5000)
    with pytest.raises(ConfigError, match="a whole number in it has thousands of digits") as caught:
        read_toml(file)
    assert "set_int_max_str_digits" not in str(caught.value)


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(b"\xef\xbb\xbfseed = 3\n")
    assert read_toml(file) == {"seed": 3}


# --- presets ------------------------------------------------------------------------------------


def at(config: RunConfig, dotted: str) -> Any:
    value: Any = config.model_dump(mode="json")
    for key in dotted.split("."):
        value = value[key]
    return value


PUBLISHED = {  # METHODS: Tables III-V and Sec. IV of the paper
    "method_config.weight_ia": 0.2,
    "method_config.weight_pe": 0.5,
    "method_config.weight_ps": 0.04,
    "method_config.weight_im": 2.0,
    "method_config.memory_decay": 0.9999,
    "method_config.prototype_momentum": 0.99,
    "method_config.importance": "margin_ratio",
    "method_config.prototypes": "per_image",
    "method_config.memory": "ema",
    "training.optimizer": "sgd",
    "training.momentum": 0.9,
    "training.weight_decay": 5e-4,
    "training.lr": 1e-4,
    "training.classifier_lr_factor": 10,
    "training.poly_power": 0.9,
    "training.crop_size": [512, 256],
    "training.batch_size": 6,
    "augment.policy": "autoaugment",
    "tone": "none",
    "warm_start": "source",
    "final_bn": False,
}
PAPER = PUBLISHED | {
    "training.frame_size": [1024, 512],
    "training.scale": [1.0, 1.0],
    "training.nesterov": False,
    "training.repeated_updates": False,
    "training.warmup_steps": 0,
    "training.warmup_replaces_decay": False,
    "augment.before_crop": False,
    "method_config.importance_of": "probabilities",
    "method_config.pseudo_labels": "online",
    "method_config.crop_classes": 0,
    "method_config.prototype_view": "crop",
    "method_config.absent_prototypes": "exclude",
    "method_config.similarity": "dot",  # eq. 10
    "method_config.normalise": "linear",
    "method_config.prototype_labels": "pixels",
    "method_config.agree_with": "student",
    "method_config.class_balance": "none",
    "method_config.entropy_epsilon": 0.0,
    "method_config.memory_mode": "eval",
    "method_config.clean_pass": False,
}
REFERENCE = PUBLISHED | {
    "training.frame_size": [1280, 640],
    "training.scale": [0.8, 1.2],
    "training.nesterov": True,
    "training.repeated_updates": True,
    "training.warmup_steps": 5000,
    "training.warmup_factor": 0.1,
    "training.warmup_replaces_decay": True,
    "augment.before_crop": True,
    "training.schedule_steps": 100_000,
    "training.steps": 9000,
    "method_config.importance_of": "logits",
    "method_config.pseudo_labels": "offline",
    "method_config.label_scales": [0.8, 1.0, 0.6],
    "method_config.crop_classes": 10,
    "method_config.crop_draws": 10,
    "method_config.prototype_view": "unscaled",
    "method_config.absent_prototypes": "zero",
    "method_config.similarity": "cosine",
    "method_config.normalise": "softmax",
    "method_config.temperature": 1.0,
    "method_config.prototype_labels": "grid",
    "method_config.agree_with": "pseudo_label",
    "method_config.class_balance": "rare",
    "method_config.rare_fraction": 64 * 64 / (512 * 256),
    "method_config.agreement_balance": "pseudo_label",
    "method_config.entropy_epsilon": 1e-5,
    "method_config.memory_mode": "train",
    "method_config.clean_pass": True,
}


@pytest.mark.parametrize(("variant", "numbers"), [("paper", PAPER), ("reference", REFERENCE)])
def test_a_variant_resolves_to_the_published_numbers(variant: str, numbers: dict[str, Any]) -> None:
    config = resolve_config("iapc", assignments=[f"iapc.variant={variant}"])
    assert at(config, "method_config.variant") == variant
    assert {key: at(config, key) for key in numbers} == numbers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["iapc.temperature=0.5"], "temperature is for normalise=softmax"),
        (["iapc.crop_classes=3"], "set pseudo_labels=offline"),
        (["iapc.pseudo_labels=offline", "iapc.label_scales=[]"], "at least one number"),
        (["iapc.pseudo_labels=offline", "iapc.label_scales=[1.0, 0.0]"], "all above 0"),
    ],
)
def test_a_setting_of_iapc_that_could_do_nothing_is_refused(
    settings: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_config("iapc", assignments=["iapc.variant=paper", *settings])


def test_iapc_for_small_data_starts_from_target_statistics_and_ends_on_clean_ones() -> None:
    config = resolve_config("iapc")
    assert at(config, "method_config.variant") == "roadshift"
    assert (config.tone, config.warm_start, config.final_bn) == ("auto", "mixed", True)
    assert config.weight_interpolation == 0.5


def test_bn_stats_is_the_warm_start_alone() -> None:
    config = resolve_config("bn_stats")
    assert (config.tone, config.warm_start, config.final_bn) == ("none", "mixed", False)
    assert config.training.steps == 0
    assert build_stages(config) == []


@pytest.mark.parametrize("method", [*METHODS, "supervised"])
def test_a_resolved_run_survives_the_manifest(method: str) -> None:
    config = resolve_config(method, seed=3)
    stored = config.model_dump(mode="json")
    again = validate(RunConfig, stored, "manifest")
    assert again == config
    assert [s.name for s in build_stages(again)] == [s.name for s in build_stages(config)]


@pytest.mark.parametrize("method", METHODS)
def test_every_preset_of_every_method_is_valid(method: str) -> None:
    for variant in METHODS[method].presets:
        chosen = [f"{method}.variant={variant}"] if len(METHODS[method].presets) > 1 else []
        assert resolve_config(method, assignments=chosen).method == method


def test_training_a_source_model_is_not_offered_as_an_adaptation() -> None:
    assert "supervised" not in METHODS
    assert [stage.name for stage in build_stages(resolve_config("supervised"))] == ["supervised"]


# --- sections made by their classes --------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "argument", "words"),
    [
        ({"steps": -1}, "steps", "TrainingConfig: steps: Input should be greater .*, got -1"),
        ({"scale": (1, "a")}, "scale", r"TrainingConfig: scale\.1: .*, got 'a'"),
        ({"steps": "x", "batch_size": 0}, "steps", "; batch_size: Input should be"),
        ({"nothing": 1}, None, "TrainingConfig: unknown key 'nothing' .known: steps, "),
        ({"lr": 1e30}, None, "TrainingConfig: lr must be at most 1000000000"),
    ],
)
def test_typed_settings_refuse_a_value_as_any_function_does(
    values: dict[str, Any], argument: str | None, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        TrainingConfig(**values)
    assert caught.value.argument == argument


def test_a_section_within_others_is_still_told_by_its_place() -> None:
    with pytest.raises(ConfigError, match=r"^settings: training\.steps: Input .*, got -1\.$"):
        validate(RunConfig, {"method": "iapc", "training": {"steps": -1}}, "settings")
    made = TrainingConfig(steps=3)
    assert made.model_fields_set == {"steps"}
    assert made.model_copy(update={"steps": 4}) == TrainingConfig(steps=4)
