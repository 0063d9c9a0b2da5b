"""`roadshift networks`, `methods` and `label-spaces`."""

from __future__ import annotations

from .learning import needs_torch
from .options import Json


def networks(as_json: Json = False) -> None:
    """The networks that can be trained, imported and adapted."""
    from .tables import listing

    with needs_torch("networks"):
        from ..adapt.networks import network_summaries

        listing("networks", [summary._asdict() for summary in network_summaries()], as_json)


def methods(as_json: Json = False) -> None:
    """The adaptation methods."""
    from .tables import listing

    with needs_torch("methods"):
        from ..adapt import METHODS

        rows = [
            {"name": m.name, "summary": m.summary, "variants": list(m.presets), "source": m.source}
            for m in METHODS.values()
        ]
    listing("methods", rows, as_json)


def label_spaces(as_json: Json = False) -> None:
    """The built-in label spaces; any other is a JSON file."""
    from ..runtime.labels import LABEL_SPACES, label_space
    from .tables import listing

    spaces = [label_space(name) for name in LABEL_SPACES]
    rows = [{"name": s.name, "classes": s.num_classes, "names": list(s.classes)} for s in spaces]
    listing("label spaces", rows, as_json)
