"""Settings of a run: frozen, typed, checked once, and written whole into the manifest.

A run's settings come from four places, each over the one before: the fields' own defaults, the
method's preset for the chosen ``variant``, a TOML file, and ``--set section.key=value``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...runtime.errors import ConfigError, arg
from ...runtime.older_python import Self, tomllib
from ...runtime.regular_files import read_regular_file
from .renamed_settings import Renamed, RenamedValues, Renames, in_new_names, in_new_words

_LARGEST_TOML = 1 << 20  # bytes

LARGEST = 10**9  # of any number of a section: beyond it float32 and counters overflow


class Settings(BaseModel):
    """Base of every settings section: immutable, an unknown key or a giant number is an error.

    Raises:
        ConfigError: a section that is made by its class names each value that it does not take.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    renamed: ClassVar[Renames] = {}  # fields by the names that they had before
    renamed_values: ClassVar[RenamedValues] = {}  # values of fields by their names before

    if not TYPE_CHECKING:  # type checkers know each field

        def __init__(self, **values):
            try:
                super().__init__(**values)
            except ValidationError as error:
                cls = type(self)
                problems = "; ".join(_problems(cls, error, named=_argument))
                raise ConfigError(f"{cls.__name__}: {problems}.") from error

        # As pydantic marks its own: a section within another is validated without it.
        __init__.__pydantic_base_init__ = True

    @model_validator(mode="before")
    @classmethod
    def _by_new_names(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return in_new_words(in_new_names(values, cls.renamed), cls.renamed_values)

    @model_validator(mode="after")
    def _no_giant(self) -> Self:
        for name, value in self:
            limit = self.largest(name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and abs(number) > limit:
                    raise ValueError(f"{name} must be at most {limit}, got {shown(number)}")
        return self

    @classmethod
    def largest(cls, name: str) -> int:
        """The largest magnitude that the field ``name`` may have."""
        del name
        return LARGEST


# Of the images whose predictions are averaged; memory grows with the square of one.
Scales = tuple[Annotated[float, Field(le=8)], ...]


class TrainingConfig(Settings):
    """Settings of the trainer. Sizes are pixels as [width, height]."""

    steps: int = Field(default=250, ge=0)  # optimiser steps of the whole run, shared by its stages
    batch_size: int = Field(default=4, ge=1)  # frames an optimiser step
    micro_batch: int | None = Field(default=None, ge=1)  # frames a forward pass, if fewer
    frame_size: tuple[int, int] | None = None  # frames are fitted to it; None: the model's input
    crop_size: tuple[int, int] | None = None  # None: ``crop_share`` of the frame
    crop_share: float = Field(default=1.0, gt=0, le=1)  # of each side, where crop_size is not set
    scale: tuple[float, float] = (1.0, 1.0)  # zoom of a crop, drawn uniformly
    scale_values: Scales = ()  # zooms to draw from, each as often, in place of scale's
    flip: bool = True  # mirror half of the crops
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=1e-3, gt=0)
    frozen_lr: float | None = Field(default=None, gt=0)  # with no or still BN statistics; None: lr
    classifier_lr_factor: float = Field(default=10.0, gt=0)
    learn: Literal["all", "norm", "head", "lora"] = "all"  # of what the method would let learn
    lora_rank: int = Field(default=8, ge=1, le=4096)  # r of the change B A of an attention weight
    lora_scale: float = Field(default=2.0, gt=0, le=1e4)  # times which it is added
    momentum: float = Field(default=0.9, ge=0, lt=1)  # SGD's momentum; AdamW's first-moment decay
    nesterov: bool = False
    repeated_updates: bool = False  # SGD's, as in published code: see `RepeatingSgd`
    weight_decay: float = Field(default=5e-4, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    warmup_factor: float = Field(default=0.1, gt=0, le=1)  # share of lr at step 0 of the warm-up
    warmup_replaces_decay: bool = False  # the warm-up stands in for the decay; else times it
    poly_power: float = Field(default=0.9, ge=0)
    schedule_steps: int | None = Field(default=None, ge=1)  # of the decay; None: steps
    schedule_restarts: bool = False  # warm-up and decay begin anew with every stage
    max_grad_norm: float | None = Field(default=None, gt=0)
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    compile: bool = False  # the student by torch.compile, which takes minutes
    max_bad_steps: int = Field(default=5, ge=1)  # non-finite steps in a row before the run gives up

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be [low, high] with 0 < low <= high, got {self.scale}")
        if self.scale_values and (min(self.scale_values) <= 0 or self.scale != (1.0, 1.0)):
            raise ValueError(
                "scale_values must be above 0, and stands in place of scale: leave that at [1, 1], "
                "or set scale_values to []"
            )
        for name in ("frame_size", "crop_size"):
            size = getattr(self, name)
            if size is not None and min(size) < 16:
                raise ValueError(f"{name} must be at least 16x16 pixels, got {size}")
        if self.schedule_restarts and self.schedule_steps is None:
            raise ValueError("schedule_restarts needs schedule_steps, the horizon of each stage")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if self.repeated_updates and (self.optimizer != "sgd" or self.learn == "lora"):
            raise ValueError("repeated_updates is for optimizer=sgd, and not for learn=lora")
        if self.micro_batch is not None and self.micro_batch > self.batch_size:
            raise ValueError(
                f"micro_batch {self.micro_batch} is above batch_size {self.batch_size}"
            )
        return self


class AugmentConfig(Settings):
    """Photometric noise of the student's view; geometry is never touched."""

    policy: Literal["none", "jitter", "autoaugment", "daformer"] = "jitter"
    brightness: float = Field(default=0.2, ge=0, le=1)  # jitter: factor drawn from [1 - b, 1 + b]
    contrast: float = Field(default=0.2, ge=0, le=1)
    saturation: float = Field(default=0.2, ge=0, le=1)
    blur: float = Field(default=0.0, ge=0, le=100)  # jitter: Gaussian, sigma of 0 to so many pixels
    before_crop: bool = False  # on the whole frame, whose histogram then counts; else on the crop


class NegativeLearningConfig(Settings):
    """LD's negative learning beside any method's own terms; the fields are as those of ``ld``."""

    weight: float = Field(default=0.0, ge=0)  # of L_neg; 0: the method as it is
    complementary: Literal["ranked", "ranked_below", "random"] = "ranked"
    rank_draw: Literal["pixel", "step"] = "pixel"
    rank_spread: int = Field(default=3, ge=0)


class WatchConfig(Settings):
    """Looks at the frames set aside while a run adapts; without such frames there are none."""

    every: int | None = Field(default=None, ge=0)  # steps; 0: never; None: see `steps_between`

    def steps_between(self, steps: int) -> int:
        """Steps from look to look in a run of ``steps``: unless set, an eighth, but at least 10."""
        return max(10, math.ceil(steps / 8)) if self.every is None else self.every


class RunConfig(Settings):
    """Everything that decides a run besides the model and the frames."""

    renamed: ClassVar[Renames] = {
        "losses": Renamed("loss_backend"),
        "blend": Renamed("weight_interpolation"),
    }

    method: str
    seed: int = Field(default=0, ge=0, lt=2**32)  # any that numpy takes
    tone: Literal["auto", "none"] = "auto"  # a gamma for the frames if it helps: see `align_tone`
    warm_start: Literal["mixed", "target", "source"] = "mixed"  # whose BN statistics to start from
    statistics_share: float | None = Field(default=None, ge=0, le=1)  # mixed: the target's; None:
    # found on the frames, see `statistics_share`
    freeze_bn: bool | None = None  # its statistics, while learning; None: where some are mixed
    # Share of the way from the weights at the start to those after the last step, see `Trainer.run`
    weight_interpolation: float = Field(default=1.0, gt=0, le=1)
    final_bn: bool = True  # after the last step, BN statistics of the clean frames, unless frozen
    bn_batch_size: int = Field(default=8, ge=1)  # frames a batch of BN re-estimation
    loss_backend: Literal["auto", "reference", "tiled", "triton"] = "auto"  # what computes losses
    teacher_cache: bool = False  # iapc, pseudo: the frozen teacher's logits are kept on disk
    training: TrainingConfig = TrainingConfig()
    augment: AugmentConfig = AugmentConfig()
    watch: WatchConfig = WatchConfig()
    negative_learning: NegativeLearningConfig = NegativeLearningConfig()
    method_config: dict[str, Any] = {}  # the method's own section, resolved and validated

    @model_validator(mode="after")
    def _shares_make_sense(self) -> Self:
        if self.statistics_share is not None and self.warm_start != "mixed":
            raise ValueError(
                f"statistics_share is for warm_start=mixed, not for {self.warm_start}; leave one "
                "of the two out"
            )
        if self.negative_learning.weight and self.training.compile:
            raise ValueError(
                "negative_learning reads the student's logits, which training.compile hides; leave "
                "one of the two out"
            )
        return self

    @classmethod
    def largest(cls, name: str) -> int:
        """See `Settings.largest`; seeds have a range of their own."""
        return 2**32 if name == "seed" else super().largest(name)


Config = TypeVar("Config", bound=Settings)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on top, section by section."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = merge(below, value)
        merged[key] = value
    return merged


def leaves(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Settings in sections by dotted key: ``{"iapc": {"weight_pe": 1}}`` gives "iapc.weight_pe"."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found.update(leaves(value, f"{before}{key}."))
        else:
            found[f"{before}{key}"] = value
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a nested dictionary.

    Raises:
        ConfigError: the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(read_regular_file(path, _LARGEST_TOML).decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: not a TOML file of settings: nested too deep.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}.") from error
    except ValueError as error:  # Python turns no text of more than 4,300 digits into a number
        raise ConfigError(
            f"{path}: not a TOML file of settings: a whole number in it has thousands of digits."
        ) from error


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """``["iapc.weight_pe=0.5", "warm_start=none"]`` as a nested dictionary; values are TOML.

    Raises:
        ConfigError: an entry is not ``key=value``.
    """
    values: dict[str, Any] = {}
    for entry in assignments:
        key, equals, text = entry.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise ConfigError(
                f"{arg('assignments')} {shown(entry)}: write it as section.key=value."
            )
        value = _toml_value(entry, text)
        for part in reversed(key.split(".")):
            value = {part.strip(): value}
        values = merge(values, value)
    return values


def _toml_value(entry: str, text: str) -> Any:
    """The value on the right side of ``entry``; a bare word is a string."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    except (RecursionError, ValueError) as error:  # brackets or digits by the thousand
        raise ConfigError(
            f"{arg('assignments')} {shown(entry)}: is no value of a setting."
        ) from error
    return table["value"] if len(table) == 1 else text  # a second line is no second setting


def check_given_once(assignments: Sequence[str], **options: object) -> None:
    """Refuse assignments of which one would be ignored for the sake of another.

    Args:
        options: what was given of the same settings in options of their own; ``None``: nothing.

    Raises:
        ConfigError: two set the same key, or one a section and the other a key inside it.
    """
    seen: dict[tuple[str, ...], str] = {
        (name,): f"{arg(name)} {shown(value)}"
        for name, value in options.items()
        if value is not None
    }
    for entry in assignments:
        key = tuple(part.strip() for part in entry.partition("=")[0].split("."))
        given = f"{arg('assignments')} {shown(entry)}"
        for other, before in seen.items():
            shorter = min(len(key), len(other))
            if key[:shorter] == other[:shorter]:
                raise ConfigError(f"{before} and {given} are both given; leave one of them out.")
        seen[key] = given


def shown(value: object) -> str:
    """``repr`` in at most 60 characters, also of what has no printable form of its own."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers of thousands of digits, deep nesting
        return "a giant number" if isinstance(value, int) else "a giant value"
    return text if len(text) <= 60 else f"{text[:57]}..."


def validate(config_type: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """``values`` as a ``config_type``.

    Raises:
        ConfigError: names every key that is unknown, of the wrong type or out of range.
    """
    try:
        return config_type.model_validate(dict(values))
    except ValidationError as error:
        problems = "; ".join(_problems(config_type, error))
        raise ConfigError(f"{where}: {problems}.") from error


def _problems(
    config_type: type[BaseModel], error: ValidationError, named: Callable[[str], str] = str
) -> list[str]:
    """Clauses on what is wrong with which key, ``named`` as whoever gave the values knows it."""
    problems = []
    for detail in error.errors():
        key = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            fields = _section(config_type, detail["loc"][:-1]).model_fields
            known = ", ".join(name for name in fields if name != "method_config")
            problems.append(f"unknown key {shown(key)} (known: {known})")
        elif detail["type"] == "missing":
            problems.append(f"missing key {key!r}")
        elif detail["type"] == "value_error":  # ours, whole sentences
            sentence = detail["msg"].removeprefix("Value error, ")
            problems.append(f"{key}.{sentence}" if key else sentence)
        else:
            problems.append(f"{named(key)}: {detail['msg']}, got {shown(detail['input'])}")
    return problems


def _argument(key: str) -> str:
    """A key of a section that is made by its class: the argument of that name, or below it."""
    first, dot, rest = key.partition(".")
    return f"{arg(first)}{dot}{rest}"


def _section(config_type: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    """The settings class that stands at ``path`` inside ``config_type``."""
    for name in path:
        inner = config_type.model_fields[str(name)].annotation
        assert isinstance(inner, type)
        assert issubclass(inner, BaseModel)  # only a section can have an unknown key
        config_type = inner
    return config_type
