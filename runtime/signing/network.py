"""The network of a bundle, as far as its maker fixes it: all but the weights."""

from __future__ import annotations

import hashlib
import json

from ..bundle import Artefact, Bundle
from ..engines.onnx.skeleton import skeleton
from ..engines.onnx.structure import StructureError
from ..errors import SignatureError
from .statement import Network


def network_of(bundle: Bundle) -> Network:
    """The network of a bundle; ONNX models that cannot be compared with others are left out.

    Raises:
        BundleError: a file was changed after the bundle was opened.
    """
    graphs = dict[str, str]()
    for artefact in bundle.manifest.artefacts:
        if artefact.kind == "onnx":
            try:
                graphs[artefact.path] = _skeleton(bundle, artefact)
            except StructureError:
                continue  # a garage cannot adapt this one
    return Network(_described(bundle), graphs)


def check_network(bundle: Bundle, network: Network | None) -> None:
    """Refuse what a garage adapted from a model of another network, or cannot be compared with it.

    Args:
        bundle: that a garage signed.
        network: of its maker's model, as the maker signed it.

    Raises:
        SignatureError: it is another network, brings compiled code, or nothing is known of it.
        BundleError: a file was changed after the bundle was opened.
    """
    if network is None:
        raise SignatureError(
            f"{bundle.path}: its maker's signature does not say what the network is; have the "
            "maker sign the exported model again with roadshift sign."
        )
    if _described(bundle) != network.described:
        raise SignatureError(
            f"{bundle.path}: its manifest says another network, other classes or another input "
            "than its maker's model has; a garage may change weights alone."
        )
    for artefact in bundle.manifest.artefacts:
        if artefact.kind == "tensorrt":
            raise SignatureError(
                f"{bundle.file(artefact)}: is a compiled plan, which cannot be compared with what "
                "its maker signed; leave it out, the vehicle builds its own."
            )
        if artefact.kind == "onnx":
            _check_graph(bundle, artefact, network)


def _check_graph(bundle: Bundle, artefact: Artefact, network: Network) -> None:
    where = bundle.file(artefact)
    try:
        found = _skeleton(bundle, artefact)
    except StructureError as error:
        raise SignatureError(
            f"{where}: {error}, and cannot be compared with what its maker signed; export it again."
        ) from error
    if found not in network.graphs.values():
        of = f"precision {artefact.precision}"
        signed = ", ".join(network.graphs) or "none"
        raise SignatureError(
            f"{where}: is not a graph of its maker's model with other weights (ONNX models that "
            f"the maker signed: {signed}); have the maker export and sign one in {of}, and export "
            "with the same versions."
        )


def _skeleton(bundle: Bundle, artefact: Artefact) -> str:
    in_runtime = artefact.details.get("argmax") == "runtime"
    align_corners = bool(artefact.details.get("align_corners")) if in_runtime else None
    return skeleton(bundle.content(artefact), align_corners)


def _described(bundle: Bundle) -> str:
    """SHA-256 of what the manifest says of the network; gamma is adapted, like a weight."""
    manifest = bundle.manifest
    document = {
        "network": manifest.network.model_dump(mode="json"),
        "label_space": manifest.label_space,
        "input": manifest.input.model_dump(mode="json", exclude={"gamma"}),
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
