"""A garage changes weights alone: another network than its maker's is refused in the vehicle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from roadshift.runtime.bundle import Bundle, BundleWriter, InputSpec, NetworkSpec, open_bundle
from roadshift.runtime.errors import SignatureError
from roadshift.runtime.signing import (
    Trust,
    create_trust,
    generate_key,
    load_private_key,
    sign_bundle,
    verify_bundle,
)
from roadshift.runtime.signing import sign as sign_module
from roadshift.runtime.signing.envelope import signed
from roadshift.runtime.signing.network import network_of
from roadshift.runtime.signing.statement import StatementError, parse_statement
from roadshift.runtime.signing.stored import stored_signatures
from signed_bundles import adapted_from, small_bundle
from tiny_onnx import tiny_onnx, tiny_weight


class Workshop:
    """A maker with a model, a garage, and a vehicle that trusts both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("maker", "garage"):
            generate_key(folder / name)
        self.maker, self.garage = (load_private_key(folder / name) for name in ("maker", "garage"))
        publics = {"maker": self.maker.public}, {"garage": self.garage.public}
        self.trust: Trust = create_trust(folder / "trust", *publics)
        self.source = small_bundle(folder / "source")
        sign_bundle(self.source, self.maker, version=1)

    def sign(self, bundle: Bundle) -> Bundle:
        sign_bundle(bundle, self.garage, "garage", parent=self.source, version=2)
        return open_bundle(bundle.path)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def deeper(content: bytes) -> bytes:
    model = onnx.ModelProto.FromString(content)
    model.graph.node.insert(3, onnx.helper.make_node("Relu", ["scores"], ["better"]))
    model.graph.node[4].input[0] = "better"
    return model.SerializeToString()


DEEPER = deeper(tiny_onnx(32, 16, tiny_weight(5)))


def rewritten(workshop: Workshop, **parts: object) -> Bundle:
    """A bundle that a garage adapted, with other parts than its parent has."""
    old = adapted_from(workshop.source, workshop.folder / "before").manifest
    kinds = {"kind": "onnx", "precision": "fp32"}
    content = tiny_onnx(32, 16, tiny_weight(5))
    with BundleWriter(workshop.folder / "rewritten") as writer:
        writer.add_bytes("model.onnx", parts.pop("onnx", content), **kinds)  # type: ignore[arg-type]
        if "plan" in parts:
            writer.add_bytes("model-fp32.plan", b"code", kind="tensorrt", precision="fp32")
            parts.pop("plan")
        given = {"network": old.network, "input": old.input, **parts}
        return writer.commit(
            label_space=workshop.source.label_space,
            provenance=old.provenance,
            **given,  # type: ignore[arg-type]
        )


def test_other_weights_are_what_a_garage_is_for(workshop: Workshop) -> None:
    adapted = workshop.sign(adapted_from(workshop.source, workshop.folder / "adapted"))
    assert verify_bundle(adapted, workshop.trust).role == "garage"
    toned = workshop.source.manifest.input.model_copy(update={"gamma": 0.7})
    assert verify_bundle(workshop.sign(rewritten(workshop, input=toned)), workshop.trust)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (
            {"onnx": deeper(tiny_onnx(32, 16, tiny_weight(5)))},
            "is not a graph of its maker's model",
        ),
        ({"onnx": b"no model"}, "is damaged, or no ONNX model, and cannot be compared"),
        ({"network": NetworkSpec(name="other")}, "says another network, other classes or another"),
        (
            {"input": InputSpec(width=32, height=16, mean=(9, 0, 0), std=(1, 1, 1))},
            "or another input than its maker's model",
        ),
        ({"plan": True}, "is a compiled plan, which cannot be compared"),
    ],
)
def test_anything_else_is_refused_when_signing_and_in_the_vehicle(
    workshop: Workshop, parts: dict[str, object], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rogue = rewritten(workshop, **parts)
    with pytest.raises(SignatureError, match=sentence):
        workshop.sign(rogue)
    assert not (rogue.path / "signatures").exists()
    monkeypatch.setattr(sign_module, "check_network", lambda *_: None)  # a garage's own tool
    with pytest.raises(SignatureError, match=sentence):
        verify_bundle(workshop.sign(rogue), workshop.trust)


def test_what_a_garage_says_of_the_network_does_not_count(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    rogue = rewritten(workshop, onnx=DEEPER)
    monkeypatch.setattr(sign_module, "check_network", lambda *_: None)
    monkeypatch.setattr(sign_module, "network_of", lambda _: network_of(workshop.source))
    with pytest.raises(SignatureError, match="is not a graph of its maker's model"):
        verify_bundle(workshop.sign(rogue), workshop.trust)


def without_network(workshop: Workshop) -> None:
    """The maker's signature as a version before, or another program, made it."""
    (stored,) = stored_signatures(workshop.source.path / "signatures")
    bare = replace(stored.statement, network=None)
    stored.path.write_bytes(signed(bare.payload(), workshop.maker).to_bytes())


def test_a_maker_who_does_not_say_what_the_network_is_has_to_sign_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_network(workshop)
    verify_bundle(workshop.source, workshop.trust)  # is the maker's own, and fine
    adapted = adapted_from(workshop.source, workshop.folder / "adapted")
    sentence = "maker's signature does not say what the network is"
    with pytest.raises(SignatureError, match=sentence):
        workshop.sign(adapted)
    monkeypatch.setattr(sign_module, "check_network", lambda *_: None)
    with pytest.raises(SignatureError, match=sentence):
        verify_bundle(workshop.sign(adapted), workshop.trust)


def test_a_model_that_was_not_exported_cannot_be_adapted_by_a_garage(workshop: Workshop) -> None:
    source = workshop.source.manifest
    with BundleWriter(workshop.folder / "bare") as writer:
        workshop.source = writer.commit(
            network=source.network,
            label_space=workshop.source.label_space,
            input=source.input,
            provenance=source.provenance,
        )
    sign_bundle(workshop.source, workshop.maker, version=1)
    adapted = adapted_from(workshop.source, workshop.folder / "adapted")
    with pytest.raises(SignatureError, match=r"the maker signed: none\); have the maker export"):
        workshop.sign(adapted)


BROKEN: list[Callable[[bytes], bytes]] = [
    lambda p: p.replace(b'"described"', b'"describes"'),
    lambda p: p.replace(b'"described": "', b'"described": "x'),
    lambda p: p.replace(b'"graphs": {', b'"graphs": 3, "x": {'),
    lambda p: p.replace(b'"model.onnx": "', b'"model.onnx": "x', 1),
]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_statement_with_a_broken_network_is_refused(
    workshop: Workshop, broken: Callable[[bytes], bytes]
) -> None:
    (stored,) = stored_signatures(workshop.source.path / "signatures")
    payload = stored.statement.payload()
    assert parse_statement(payload).network == network_of(workshop.source)
    assert broken(payload) != payload
    with pytest.raises(StatementError, match="its network"):
        parse_statement(broken(payload))
