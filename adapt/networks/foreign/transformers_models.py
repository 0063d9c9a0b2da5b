"""Semantic segmentation by the installed ``transformers``, built from the settings of a folder.

``transformers:AutoModelForSemanticSegmentation``, or one of its classes by name, is a network like
any ``package.module:factory``: a user names it, and each later command asks to allow the package.
More than allowing is asked here, since the settings come from whoever made the folder:

- nothing but the package's own ``...ForSemanticSegmentation`` classes is built, never another
  callable of the package, and from settings alone: no name is looked up on the hub;
- code of the folder (``auto_map``) is refused, and so are quantised weights and a backbone that
  is named instead of described, which would be downloaded;
- settings that choose code, such as an implementation of attention, which may be a kernel that
  the hub holds, are left out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ....runtime.errors import NetworkError
from ....runtime.words import shortened

PACKAGE = "transformers"
AUTO = "AutoModelForSemanticSegmentation"
_ENDING = "ForSemanticSegmentation"
# What a network does not depend on, or what would choose code or weights.
_LEFT_OUT = frozenset(
    {"architectures", "id2label", "label2id", "num_labels", "name_or_path", "transformers_version"}
    | {"dtype", "torch_dtype", "attn_implementation", "experts_implementation", "problem_type"}
    | {"use_pretrained_backbone", "task_specific_params"}
)
_REFUSED = {
    "auto_map": "names code of its own (auto_map), and none of it is ever run",
    "custom_pipelines": "names code of its own (custom_pipelines), and none of it is ever run",
    "quantization_config": "is of quantised weights, which cannot learn",
}


def is_of_transformers(name: str) -> bool:
    """True of ``transformers:ANYTHING``."""
    return name.partition(":")[0] == PACKAGE


def model_settings(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The part of ``config.json`` that a bundle keeps: it describes the network, and does nothing.

    Raises:
        NetworkError: it asks for code, for a download or for quantised weights.
    """
    for key, value in config.items():
        if key in _REFUSED and value:
            raise NetworkError(f"{where}: {_REFUSED[key]}; use another checkpoint.")
        if key == "backbone" and isinstance(value, str):
            raise NetworkError(
                f"{where}: names its backbone ({shortened(value)}), which would be looked up "
                "elsewhere, instead of describing it (backbone_config); save the model again with "
                "a recent transformers."
            )
    return {
        key: model_settings(value, where) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _LEFT_OUT and key not in _REFUSED and not key.startswith("_")
    }


def transformers_factory(attribute: str, where: str) -> Callable[..., nn.Module]:
    """A factory that is given the number of classes as ``num_labels``, and ``config``.

    Raises:
        NetworkError: ``attribute`` is none of the package's segmentation classes.
    """
    if not attribute.endswith(_ENDING):
        raise NetworkError(
            f"{where}: of {PACKAGE}, only its classes for semantic segmentation are built; name "
            f"{PACKAGE}:{AUTO}."
        )

    def build(num_labels: int, config: Mapping[str, Any] | None = None) -> nn.Module:
        made, model = _prepared(attribute, config, num_labels, where)
        with _quiet():
            built: nn.Module = (
                model.from_config(made, trust_remote_code=False, attn_implementation="eager")
                if attribute == AUTO
                else model._from_config(made, attn_implementation="eager")
            )
        return built

    return build


def in_installed_names(
    attribute: str,
    config: Mapping[str, Any],
    num_labels: int,
    state: Mapping[str, Tensor],
    where: str,
) -> dict[str, Tensor]:
    """Published weights under the names that the installed version of the package has.

    Versions differ in them, and the package tells old names from new ones as it reads a file.

    Raises:
        NetworkError: the weights are not those of the network.
    """
    made, _ = _prepared(attribute, config, num_labels, where)
    with _quiet():
        model = type(transformers_factory(attribute, where)(num_labels, config))
        network, info = model.from_pretrained(  # type: ignore[attr-defined]
            None,
            config=made,
            state_dict=dict(state),
            attn_implementation="eager",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    missing = sorted(name for name in info["missing_keys"] if "num_batches" not in name)
    differing = sorted(str(entry[0]) for entry in info["mismatched_keys"])
    if missing or differing:
        first = (missing or differing)[0]
        raise NetworkError(
            f"{where}: the weights do not fit the network: {len(missing)} names are missing and "
            f"{len(differing)} have another shape ({first}, ...); fetch the folder again."
        )
    found: dict[str, Tensor] = {n: t.detach().clone() for n, t in network.state_dict().items()}
    return found


def _prepared(
    attribute: str, config: Mapping[str, Any] | None, num_labels: int, where: str
) -> tuple[Any, Any]:
    """The package's own configuration object, and its class of models."""
    if config is None or not isinstance(config.get("model_type"), str):
        raise NetworkError(
            f"{where}: is built from the config.json of a folder; import that with hf:FOLDER."
        )
    package = _package(where)
    model = getattr(package, attribute, None)
    if model is None:
        raise NetworkError(
            f"{where}: the installed {PACKAGE} {package.__version__} has no {attribute}; name "
            f"{PACKAGE}:{AUTO}, or install another version."
        )
    settings = plain(model_settings(config, where))
    kind = settings.pop("model_type")
    try:
        made = package.AutoConfig.for_model(kind, **settings, num_labels=num_labels)
    except Exception as error:  # of settings that the package's class refuses in its own way
        raise NetworkError(
            f"{where}: the installed {PACKAGE} {package.__version__} cannot read its config.json "
            f"({_first_line(error)}); install the version that wrote it."
        ) from error
    return made, model


def plain(value: Any) -> Any:
    """``value`` as plain dictionaries and lists, anew: the package changes what it is given."""
    if isinstance(value, Mapping):
        return {name: plain(child) for name, child in value.items()}
    return [plain(child) for child in value] if isinstance(value, list) else value


def _package(where: str) -> Any:
    try:
        return importlib.import_module(PACKAGE)
    except ImportError as error:
        raise NetworkError(
            f"{where}: needs {PACKAGE}, which is not installed; `pip install 'roadshift[hub]'` "
            f"brings it. ({_first_line(error)})"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the package's progress bars and reports of loading from a command's output."""
    logging = importlib.import_module(f"{PACKAGE}.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return shortened((str(error).splitlines() or [type(error).__name__])[0], 120)
