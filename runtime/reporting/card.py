"""A model card: Markdown with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import __version__
from ..bundle import Bundle
from ..errors import ConfigError, arg
from ..printable import printable

_UNNAMED = "frames of the user"


def model_card(bundle: Bundle, evaluation: Mapping[str, Any] | None = None) -> str:
    """The card of a bundle.

    Args:
        evaluation: the document of `roadshift eval`, for the front matter's results.

    Raises:
        ConfigError: ``evaluation`` is none.
    """
    measured = evaluation is None or (
        isinstance(evaluation, Mapping) and isinstance(evaluation.get("miou"), (int, float))
    )
    if not measured:
        raise ConfigError(
            f"{arg('evaluation')}: is not the JSON document of roadshift eval; it has no mIoU."
        )
    manifest, origin = bundle.manifest, bundle.manifest.provenance
    verdict = manifest.verdict
    seen = manifest.input
    software = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    lines = [
        "---",
        *_front_matter(bundle, evaluation),
        "---",
        "",
        f"# {bundle.path.name}",
        "",
        f"A {manifest.network.name} that gives every pixel of a road scene one of "
        f"{len(bundle.label_space.classes)} classes ({bundle.label_space.name}), "
        + (f"made by {origin.method}" if origin.method else "of unknown origin")
        + f" on {origin.created}.",
        "",
        "## Use",
        "",
        f"    roadshift run {bundle.path.name} FRAMES",
        "",
        f"Frames are fitted to {seen.width}x{seen.height} pixels, {seen.colour.upper()}, mean "
        f"{list(seen.mean)}, standard deviation {list(seen.std)} (0 to 255), gamma {seen.gamma:g}.",
        f"Classes: {', '.join(bundle.label_space.classes)}.",
        "",
        "## Origin",
        "",
        f"- hash of the manifest: `{bundle.hash}`",
        f"- made from: `{origin.parent}`" if origin.parent else "- made from: nothing before it",
        f"- frames: {origin.frames if origin.frames is not None else 'not recorded'}; seed: "
        f"{origin.seed if origin.seed is not None else 'not recorded'}",
        f"- software: {software or 'not recorded'}",
        "",
        "## Judged",
        "",
        f"{verdict.decision}: {verdict.sentence}"
        if verdict
        else "No gate judged this model; it was not adapted, or the gate was off.",
        "",
        "## Limits",
        "",
        "A figure holds for the frames that it was measured on. The model gives every pixel a "
        "class, also where it has never seen the like.",
        "",
    ]
    return "\n".join(map(printable, lines))


def _data_set(evaluation: Mapping[str, Any]) -> str:
    """The images that were measured on: their path's end, which says nothing of the machine."""
    parts = Path(str(evaluation.get("images", ""))).parts
    return "/".join([part for part in parts if part not in ("/", "..")][-2:]) or _UNNAMED


def _front_matter(bundle: Bundle, evaluation: Mapping[str, Any] | None) -> list[str]:
    """YAML; every value is written as JSON, which YAML reads."""
    lines = [
        "library_name: roadshift",
        "pipeline_tag: image-segmentation",
        "tags:",
        *(f"- {tag}" for tag in ("roadshift", "semantic-segmentation", "autonomous-driving")),
    ]
    if evaluation is not None:
        name = json.dumps(bundle.path.name)
        lines += [
            "model-index:",
            f"- name: {name}",
            "  results:",
            "  - task:",
            "      type: image-segmentation",
            "    dataset:",
            f"      name: {json.dumps(_data_set(evaluation))}",
            "      type: custom",
            "    metrics:",
            "    - type: mean_iou",
            f"      value: {json.dumps(evaluation['miou'])}",
            f"      name: {json.dumps(f'mIoU in percent, Roadshift {__version__}')}",
        ]
    return lines
