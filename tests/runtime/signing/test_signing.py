"""Keys, signatures, what a vehicle trusts, and the other implementation of the format."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from roadshift.runtime.bundle import Bundle, open_bundle
from roadshift.runtime.errors import ConfigError, OutputError, SignatureError
from roadshift.runtime.signing import (
    PrivateKey,
    Trust,
    create_trust,
    generate_key,
    load_private_key,
    load_public_key,
    open_trust,
    sign_bundle,
    update_trust,
    verify_bundle,
)
from roadshift.runtime.signing.envelope import Envelope, parse_envelope, signed
from roadshift.runtime.signing.statement import parse_statement
from roadshift.runtime.signing.trust_updates import Changes, changed, countersign, propose
from signed_bundles import adapted_from, small_bundle

NOW = datetime(2027, 1, 1, tzinfo=timezone.utc)
DAY = timedelta(days=1)


@pytest.fixture
def key(tmp_path: Path) -> Callable[..., PrivateKey]:
    def make(name: str, algorithm: str = "ed25519") -> PrivateKey:
        path = tmp_path / f"{name}.key"
        if not path.exists():
            generate_key(path, algorithm)  # type: ignore[arg-type]
        return load_private_key(path)

    return make


Keys = Callable[..., PrivateKey]


def trusting(
    folder: Path, makers: list[PrivateKey], garages: list[PrivateKey], **how: int
) -> Trust:
    return create_trust(
        folder / "trust",
        {f"maker{i}": one.public for i, one in enumerate(makers)},
        {f"garage{i}": one.public for i, one in enumerate(garages)},
        **how,
    )


def fresh(bundle: Bundle) -> Bundle:
    return open_bundle(bundle.path)


@pytest.mark.parametrize("algorithm", ["ed25519", "ecdsa-p256"])
def test_what_a_trusted_maker_signed_is_trusted(tmp_path: Path, key: Keys, algorithm: str) -> None:
    maker = key("maker", algorithm)
    bundle = small_bundle(tmp_path / "b")
    before = bundle.hash
    sign_bundle(bundle, maker, version=7)
    found = verify_bundle(fresh(bundle), trusting(tmp_path, [maker], []), now=NOW)
    assert (found.role, found.version, found.signers) == ("maker", 7, (maker.public.id,))
    assert fresh(bundle).hash == before, "signing does not change the bundle"


def test_private_keys_stay_in_their_file(tmp_path: Path) -> None:
    path = tmp_path / "k"
    public = generate_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_public_key(tmp_path / "k.pub") == public
    assert "PRIVATE" not in repr(load_private_key(path))
    for again in (path, tmp_path / "k.pub"):
        with pytest.raises(OutputError, match="exists, and no key is replaced"):
            generate_key(again if again.suffix != ".pub" else tmp_path / "k")
    path.chmod(0o640)
    with pytest.raises(SignatureError, match=r"others may read .*chmod 600"):
        load_private_key(path)


def test_encrypted_keys_want_their_password(tmp_path: Path) -> None:
    path = tmp_path / "k"
    generate_key(path, password="open sesame")
    with pytest.raises(SignatureError, match="is encrypted"):
        load_private_key(path)
    with pytest.raises(SignatureError, match="the password is wrong"):
        load_private_key(path, "close sesame")
    assert load_private_key(path, "open sesame").public == load_public_key(tmp_path / "k.pub")
    generate_key(tmp_path / "plain")
    with pytest.raises(SignatureError, match="has no password"):
        load_private_key(tmp_path / "plain", "x")


def test_a_threshold_of_makers(tmp_path: Path, key: Keys) -> None:
    one, two = key("one"), key("two", "ecdsa-p256")
    trust = trusting(tmp_path, [one, two], [], maker_threshold=2)
    bundle = small_bundle(tmp_path / "b")
    sign_bundle(bundle, one, version=3)
    with pytest.raises(SignatureError, match="1 signature of a maker for version 3, and 2 are"):
        verify_bundle(fresh(bundle), trust)
    sign_bundle(bundle, two)  # takes the version that is there
    assert verify_bundle(fresh(bundle), trust).version == 3
    sign_bundle(bundle, two, version=4)  # they no longer agree
    with pytest.raises(SignatureError, match="for version 4"):
        verify_bundle(fresh(bundle), trust)


def test_signatures_and_keys_expire_and_are_revoked(tmp_path: Path, key: Keys) -> None:
    maker, other = key("maker"), key("other")
    bundle = small_bundle(tmp_path / "b")
    sign_bundle(bundle, maker, expires=NOW)
    trust = trusting(tmp_path, [maker, other], [])
    assert verify_bundle(fresh(bundle), trust, now=NOW - DAY).expires == NOW
    with pytest.raises(SignatureError, match="expired on 2027-01-01T00:00:00Z"):
        verify_bundle(fresh(bundle), trust, now=NOW)
    for what, sentence in (
        (Changes(revoke_keys={maker.public.id: "lost"}), r"was revoked \(lost\)"),
        (Changes(revoke_models={bundle.hash: "hallucinates"}), r"model was revoked \(halluc"),
        (Changes(remove=(maker.public.id,)), "is not trusted here"),
        (Changes(minimum_version=1 << 52), "nothing before"),
    ):
        newer = Trust(trust.path, changed(trust, what))
        with pytest.raises(SignatureError, match=sentence):
            verify_bundle(fresh(bundle), newer, now=NOW - DAY)


def test_a_key_expires_where_a_change_says_so(tmp_path: Path, key: Keys) -> None:
    maker, other = key("maker"), key("other")
    bundle = small_bundle(tmp_path / "b")
    sign_bundle(bundle, maker, expires=NOW + DAY)
    trust = create_trust(
        tmp_path / "t",
        {"maker": maker.public, "other": other.public},
        expire_keys={maker.public.id[:12]: NOW},
    )
    assert open_trust(trust.path).document.keys[other.public.id].expires is None
    assert verify_bundle(fresh(bundle), trust, now=NOW - DAY).expires == NOW
    with pytest.raises(SignatureError, match=r"the key maker .* expired on 2027-01-01T00:00:00Z"):
        verify_bundle(fresh(bundle), trust, now=NOW)
    again = Changes(add={"maker": {"renamed": maker.public}})
    assert changed(trust, again).keys[maker.public.id].expires == "2027-01-01T00:00:00Z"
    never = Changes(expire_keys={maker.public.id: None})
    assert verify_bundle(fresh(bundle), Trust(trust.path, changed(trust, never)), now=NOW)
    third = key("third").public
    both = Changes(add={"maker": {"third": third}}, expire_keys={third.id: NOW})
    assert changed(trust, both).keys[third.id].expires == "2027-01-01T00:00:00Z"
    gone = Changes(remove=(other.public.id,), expire_keys={other.public.id: NOW})
    with pytest.raises(SignatureError, match="0 of its keys begin with"):
        changed(trust, gone)


def test_a_signature_that_names_no_key_counts_for_none(tmp_path: Path, key: Keys) -> None:
    maker, bundle = key("maker"), small_bundle(tmp_path / "bundle")
    path = sign_bundle(bundle, maker)
    said = parse_envelope(path.read_bytes())
    path.write_bytes(Envelope("", said.payload, said.signature).to_bytes())
    with pytest.raises(SignatureError, match="a signature does not say which key it is of"):
        verify_bundle(fresh(bundle), trusting(tmp_path, [maker], []))


def test_a_garage_signs_only_what_comes_from_a_maker(tmp_path: Path, key: Keys) -> None:
    maker, garage, stranger = key("maker"), key("garage"), key("stranger")
    source = small_bundle(tmp_path / "source")
    adapted = adapted_from(source, tmp_path / "adapted")
    trust = trusting(tmp_path, [maker], [garage])
    with pytest.raises(SignatureError, match="is not signed; have its maker"):
        sign_bundle(adapted, garage, "garage", parent=source)
    with pytest.raises(ConfigError, match="a garage signs what was adapted"):
        sign_bundle(adapted, garage, "garage")
    sign_bundle(adapted, garage)  # as if it were a maker
    with pytest.raises(SignatureError, match="signed as maker, and is a garage here"):
        verify_bundle(fresh(adapted), trust)
    sign_bundle(source, stranger)
    sign_bundle(adapted, garage, "garage", parent=fresh(source))
    with pytest.raises(SignatureError, match="is not trusted here"):
        verify_bundle(fresh(adapted), trust)
    sign_bundle(source, maker)
    sign_bundle(adapted, garage, "garage", parent=fresh(source), version=9)
    found = verify_bundle(fresh(adapted), trust)
    assert (found.role, found.version, found.ancestors) == ("garage", 9, (source.hash,))
    with pytest.raises(SignatureError, match=r"adapted from a model that was revoked .*: bad"):
        verify_bundle(
            fresh(adapted),
            Trust(trust.path, changed(trust, Changes(revoke_models={source.hash: "bad"}))),
        )
    # Adapted again, from what a garage signed: the way leads on to the maker.
    again = adapted_from(adapted, tmp_path / "again")
    sign_bundle(again, garage, "garage", parent=fresh(adapted))
    assert verify_bundle(fresh(again), trust).ancestors == (adapted.hash, source.hash)
    other = small_bundle(tmp_path / "other", seed=1)
    with pytest.raises(SignatureError, match="was not made from"):
        sign_bundle(again, garage, "garage", parent=other)


def test_a_forged_ancestor_is_not_believed(tmp_path: Path, key: Keys) -> None:
    maker, garage, thief = key("maker"), key("garage"), key("thief")
    source = small_bundle(tmp_path / "source")
    sign_bundle(source, maker)
    rogue = adapted_from(small_bundle(tmp_path / "own", seed=2), tmp_path / "rogue")
    sign_bundle(fresh(open_bundle(tmp_path / "own")), thief)
    sign_bundle(rogue, garage, "garage", parent=open_bundle(tmp_path / "own"))
    parents = rogue.path / "signatures" / "parents"
    (path,) = parents.iterdir()
    envelope = parse_envelope(path.read_bytes())
    forged = Envelope(maker.public.id, envelope.payload, envelope.signature)
    path.write_bytes(forged.to_bytes())  # says that the maker signed it
    (maker_signature,) = (source.path / "signatures").iterdir()
    shutil.copy(maker_signature, parents / "0.sig.json")  # of another model
    with pytest.raises(SignatureError, match="is forged or damaged"):
        verify_bundle(fresh(rogue), trusting(tmp_path, [maker], [garage]))


def test_what_changes_after_signing_is_found(tmp_path: Path, key: Keys) -> None:
    maker = key("maker")
    trust = trusting(tmp_path, [maker], [])

    def case(name: str) -> Bundle:
        bundle = small_bundle(tmp_path / name)
        sign_bundle(bundle, maker)
        return bundle

    added = case("added")
    (added.path / "extra.bin").write_bytes(b"x")
    linked = case("linked")
    target = linked.path / "model.onnx"
    target.rename(tmp_path / "elsewhere")
    target.symlink_to(tmp_path / "elsewhere")
    hard = case("hard")
    os.link(hard.path / "model.onnx", tmp_path / "second")
    unsigned = case("unsigned")
    shutil.rmtree(unsigned.path / "signatures")
    edited = case("edited")
    text = (edited.path / "manifest.json").read_text()
    (edited.path / "manifest.json").write_text(text.replace('"gamma": 1.0', '"gamma": 1.1'))
    for bundle, sentence in (
        (added, "extra.bin: is not listed"),
        (linked, "is a symbolic link"),
        (hard, "has a second name elsewhere"),
        (unsigned, "is not signed"),
        (edited, "is not the one that was signed"),
    ):
        with pytest.raises(SignatureError, match=sentence):
            verify_bundle(open_bundle(bundle.path), trust)
    fewer = case("fewer")
    (path,) = (fewer.path / "signatures").iterdir()
    statement = parse_statement(parse_envelope(path.read_bytes()).payload)
    manifest_alone = replace(statement, files={"manifest.json": statement.model})
    path.write_bytes(signed(manifest_alone.payload(), maker).to_bytes())
    with pytest.raises(SignatureError, match="sign the bundle anew"):
        verify_bundle(fresh(fewer), trust)


def test_updates_of_what_is_trusted(tmp_path: Path, key: Keys) -> None:
    one, two, three, garage = key("one"), key("two"), key("three"), key("garage")
    trust = trusting(tmp_path, [one, two], [garage], maker_threshold=2)
    update = propose(
        changed(
            trust, Changes(add={"maker": {"three": three.public}}, remove=(one.public.id[:9],))
        ),
        [one],
    )
    before = (trust.path / "trust.json").read_bytes()
    with pytest.raises(SignatureError, match="signed by 1 of the makers trusted so far, and 2"):
        update_trust(trust.path, update)
    update = countersign(update, two)
    with pytest.raises(SignatureError, match="signed by 1 of the makers that it names, and 2"):
        update_trust(trust.path, update)
    assert (trust.path / "trust.json").read_bytes() == before
    with pytest.raises(SignatureError, match="signed by 0 of the makers"):
        update_trust(trust.path, propose(changed(trust, Changes()), [three, garage]))
    update = countersign(update, three)
    new = update_trust(trust.path, update)
    assert set(new.keys("maker")) == {two.public.id, three.public.id}
    assert open_trust(trust.path).document.version == 2
    with pytest.raises(SignatureError, match="an older or equal one is never taken"):
        update_trust(trust.path, update)
    with pytest.raises(SignatureError, match="no signed update"):
        update_trust(trust.path, b"{}")
    with pytest.raises(SignatureError, match="0 of its keys begin with 'ffff'"):
        changed(new, Changes(revoke_keys={"ffff": ""}))
    with pytest.raises(SignatureError, match="no key is a maker's"):
        changed(new, Changes(remove=(two.public.id, three.public.id)))


def test_damaged_trust_documents_are_sentences(tmp_path: Path, key: Keys) -> None:
    trust = trusting(tmp_path, [key("maker")], [])
    path = trust.path / "trust.json"
    good = path.read_text()
    for text, sentence in (
        ("{", "is not JSON"),
        (good.replace('"threshold": 1', '"threshold": 2', 1), "asks for 2 signatures of 1 key"),
        (good.replace("maker0", "x").replace('"version"', '"verzion"'), "invalid at 'verzion'"),
        (good.replace("BEGIN PUBLIC KEY", "BEGIN PUBLIC CAT"), "holds no public key"),
    ):
        path.write_text(text)
        with pytest.raises(SignatureError, match=sentence):
            open_trust(trust.path)
    with pytest.raises(SignatureError, match=r"has no trust\.json"):
        open_trust(tmp_path)
    maker = key("maker")
    with pytest.raises(SignatureError, match="has both roles"):
        create_trust(tmp_path / "both", {"m": maker.public}, {"g": maker.public})


def test_openssf_model_signing_reads_ours_and_ours_reads_theirs(tmp_path: Path, key: Keys) -> None:
    model_signing = pytest.importorskip(
        "model_signing", reason="the other implementation, model-signing, is not installed"
    )
    maker = key("maker", "ecdsa-p256")
    bundle = small_bundle(tmp_path / "b")
    path = sign_bundle(bundle, maker, version=3)
    public = tmp_path / "maker.key.pub"
    verifying = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public)
    verifying.verify(bundle.path, path)

    path.unlink()
    theirs = bundle.path / "signatures" / "theirs.sig.json"
    hashing = model_signing.hashing.Config().set_ignored_paths(
        paths=[bundle.path / "signatures"], ignore_git_paths=False
    )
    model_signing.signing.Config().set_hashing_config(hashing).use_elliptic_key_signer(
        private_key=tmp_path / "maker.key"
    ).sign(bundle.path, theirs)
    found = verify_bundle(fresh(bundle), trusting(tmp_path, [maker], []))
    assert (found.role, found.version) == ("maker", 0)
    (bundle.path / "model.onnx").write_bytes(b"x" * (bundle.path / "model.onnx").stat().st_size)
    with pytest.raises(ValueError, match="Signature mismatch"):
        verifying.verify(bundle.path, theirs)


@pytest.mark.parametrize("given", ["9fc5c1786d86", "", "x" * 64, "A" * 64])
def test_a_model_is_revoked_by_its_whole_hash(tmp_path: Path, key: Keys, given: str) -> None:
    trust = trusting(tmp_path, [key("maker")], [])
    with pytest.raises(SignatureError) as caught:
        changed(trust, Changes(revoke_models={given: "bad"}))
    assert "is not the whole hash of a model; give all 64 of its digits" in str(caught.value)
    assert "roadshift info" in str(caught.value)
