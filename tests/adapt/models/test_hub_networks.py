"""Models of hub folders are told for the package's networks that they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from roadshift.adapt.models.hub_folder import HubFolder
from roadshift.adapt.models.hub_networks import OF_MODEL_TYPE, OwnNetwork, hub_network
from roadshift.adapt.networks import NETWORKS
from roadshift.runtime.errors import NetworkError

B0 = {
    "model_type": "segformer",
    "hidden_sizes": [32, 64, 160, 256],
    "depths": [2, 2, 2, 2],
    "decoder_hidden_size": 256,
    "num_attention_heads": [1, 2, 5, 8],
}


def folder(config: dict[str, Any]) -> HubFolder:
    return HubFolder(Path("m"), config, {}, "", ())


def test_a_published_size_is_known_by_its_widths_and_depths() -> None:
    read = OF_MODEL_TYPE["segformer"]
    assert read(B0) == OwnNetwork("segformer_b0", {})
    wide = {**B0, "hidden_sizes": [64, 128, 320, 512]}
    assert read(wide) == OwnNetwork("segformer_b1", {})
    assert read({**wide, "depths": [3, 6, 40, 3], "decoder_hidden_size": 768}) == OwnNetwork(
        "segformer_b5", {}
    )


def test_another_size_is_arguments_of_the_smallest() -> None:
    read = OF_MODEL_TYPE["segformer"]
    asked = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1], "decoder_hidden_size": 16}
    kept = {"num_attention_heads": [1, 1, 2, 2], "sr_ratios": [4, 4, 2, 1], "mlp_ratios": [2] * 4}
    assert read({**B0, **asked, **kept}) == OwnNetwork(
        "segformer_b0",
        {
            "widths": [8, 16, 24, 32],
            "depths": [1, 2, 1, 1],
            "decoder_width": 16,
            "heads": [1, 1, 2, 2],
            "reductions": [4, 4, 2, 1],
            "expansions": [2, 2, 2, 2],
        },
    )
    b5 = {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 6, 40, 3], "decoder_hidden_size": 768}
    assert read({**b5, "mlp_ratios": [2] * 4}) == OwnNetwork(
        "segformer_b5", {"expansions": [2, 2, 2, 2]}
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strides": [2, 2, 2, 2]}, r"whose strides is \[2, 2, 2, 2\], and \[4, 2, 2, 2\] in ours"),
        ({"patch_sizes": [7] * 4}, r"whose patch_sizes is .*, and \[7, 3, 3, 3\] in ours"),
        ({"num_channels": 4}, "whose num_channels is 4, and 3 in ours"),
        ({"hidden_act": "relu"}, "whose hidden_act is 'relu', and 'gelu' in ours"),
    ],
    ids=str,
)
def test_what_ours_cannot_express_is_said(change: dict[str, Any], said: str) -> None:
    with pytest.raises(NetworkError, match=f"{said}; build it with the installed transformers"):
        hub_network(folder({**B0, **change}), None)


def test_the_network_of_the_type_is_taken_unless_the_user_names_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(_: object) -> OwnNetwork:
        return OwnNetwork("fast_scnn", {"variant": "paper"})

    monkeypatch.setitem(OF_MODEL_TYPE, "road", read)
    model = folder({"model_type": "road", "depths": [1]})
    chosen = hub_network(model, None)
    assert (chosen.name, chosen.arguments) == ("fast_scnn", {"variant": "paper"})
    assert hub_network(model, "espnetv2").arguments == {}
    by_package = hub_network(model, "transformers:AutoModelForSemanticSegmentation")
    assert by_package.arguments == {"config": {"model_type": "road", "depths": [1]}}


def test_a_type_whose_network_is_not_here_says_how_it_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(OF_MODEL_TYPE, "road", lambda _: OwnNetwork("road_net", {}))
    assert "road_net" not in NETWORKS
    for kind in ("road", "upernet"):
        with pytest.raises(NetworkError, match=f"of type {kind}, .*network transformers:Auto"):
            hub_network(folder({"model_type": kind}), None)
