"""Which of the package's networks a hub folder's model is."""

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


@pytest.mark.parametrize(
    "change", [{"depths": [1] * 4}, {"sr_ratios": [4, 4, 2, 1]}, {"num_channels": 4}], ids=str
)
def test_another_variant_is_none_of_ours(change: dict[str, Any]) -> None:
    assert OF_MODEL_TYPE["segformer"]({**B0, **change}) is None


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


def test_a_size_that_nobody_published_is_no_unknown_type() -> None:
    small = folder({"model_type": "segformer", "depths": [1, 1, 1, 1]})
    with pytest.raises(NetworkError, match=r"of type segformer, of no published size; name one of"):
        hub_network(small, None)
