"""Keys that sign and check: Ed25519 and ECDSA over P-256, in PEM files."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from ..atomic import flush, output_error, output_errors
from ..errors import ConfigError, MissingDependencyError, SignatureError, arg
from ..file_names import beside
from ..given import path_of
from ..regular_files import read_regular_file
from ..words import shortened

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    _Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    _Public = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

Algorithm = Literal["ed25519", "ecdsa-p256"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
PUBLIC_SUFFIX = ".pub"

_LARGEST = 64 << 10  # bytes of a PEM file
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class PublicKey:
    """A key that checks signatures.

    Attributes:
        pem: its SubjectPublicKeyInfo (RFC 5280), as OpenSSL writes it.
        algorithm: of its signatures.
    """

    pem: str
    algorithm: Algorithm

    @property
    def id(self) -> str:
        """SHA-256 of ``pem``, in hexadecimal: the key's name in signatures and in lists."""
        return hashlib.sha256(self.pem.encode()).hexdigest()

    @cached_property
    def _key(self) -> _Public:
        return _public_of(self.pem.encode(), "a public key")

    def is_signature_of(self, signature: bytes, message: bytes) -> bool:
        """Tell whether the owner of the private key signed exactly these bytes."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            if isinstance(self._key, ec.EllipticCurvePublicKey):
                self._key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
            else:
                self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, repr=False)
class PrivateKey:
    """A key that signs. It has no text form: nothing prints it and nothing writes it again."""

    _key: _Private
    public: PublicKey

    def sign(self, message: bytes) -> bytes:
        """The signature of ``message``: 64 bytes of Ed25519, or ECDSA's in DER."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(message, ec.ECDSA(hashes.SHA256()))
        return self._key.sign(message)


def generate_key(
    path: str | Path, algorithm: Algorithm = "ed25519", password: str | None = None
) -> PublicKey:
    """Make a pair of keys: the private one in ``path``, which its owner alone may read (mode 600).

    The public one, for those who check, is beside it, with ".pub" appended.

    Args:
        password: encrypts the private key's file (PKCS #8, scrypt or PBKDF2 as OpenSSL has it).

    Raises:
        ConfigError: there is no such algorithm, or the password is empty.
        OutputError: one of the files exists or cannot be written; a key is never replaced.
        MissingDependencyError: the package cryptography is not installed.
    """
    if algorithm not in ALGORITHMS:
        raise ConfigError(
            f"{arg('algorithm')} {shortened(repr(algorithm))}: give one of {', '.join(ALGORITHMS)}."
        )
    if password == "":
        raise ConfigError("The password is empty; give one, or None for none.")
    path = path_of("path", path)
    _needs_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    key: _Private = (
        ed25519.Ed25519PrivateKey.generate()
        if algorithm == "ed25519"
        else ec.generate_private_key(ec.SECP256R1())
    )
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password.encode())
    public = _described(key.public_key())
    beside_it = beside(path, "{}" + PUBLIC_SUFFIX)
    _refuse_existing(beside_it)
    _write_new(
        path,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        ),
        0o600,
    )
    try:
        _write_new(beside_it, public.pem.encode(), 0o644)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # some file systems cannot flush a folder
        flush(path.parent)
    return public


def load_private_key(path: str | Path, password: str | None = None) -> PrivateKey:
    """The private key of a PEM file that nobody but its owner may read.

    Raises:
        SignatureError: it cannot be read, others may read it, it is encrypted and ``password`` is
            missing or wrong, or it is no key of a known algorithm.
        MissingDependencyError: the package cryptography is not installed.
    """
    _needs_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    path = path_of("path", path)
    content = _read(path, "the private key")
    if b"PUBLIC KEY" in content:
        raise SignatureError(
            f"{path}: holds a public key; give the private one, which roadshift keygen wrote "
            f"beside it without {PUBLIC_SUFFIX}."
        )
    mode = path.stat().st_mode
    if mode & _OTHERS:
        raise SignatureError(
            f"{path}: others may read this private key (mode {stat.S_IMODE(mode):o}); make another "
            f"one if they could have, or say chmod 600 {path}."
        )
    try:
        key = serialization.load_pem_private_key(
            content, password.encode() if password is not None else None
        )
    except TypeError as error:  # a password is missing, or given for a key that has none
        needs = "has no password" if password is not None else "is encrypted"
        raise SignatureError(
            f"{path}: this private key {needs}; commands read the password from "
            "ROADSHIFT_KEY_PASSWORD."
        ) from error
    except ValueError as error:
        reason = "or the password is wrong" if password is not None else "or is damaged"
        raise SignatureError(f"{path}: holds no private key in PEM, {reason}.") from error
    if not isinstance(key, (ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)):
        raise _other_kind(path)
    return PrivateKey(key, _described(key.public_key(), path))


def load_public_key(path: str | Path) -> PublicKey:
    """The public key of a PEM file.

    Raises:
        SignatureError: it cannot be read, or is no public key of a known algorithm.
        MissingDependencyError: the package cryptography is not installed.
    """
    content = _read(Path(path), "the public key")
    return _described(_public_of(content, str(path)), path)


def public_key(pem: str, where: str) -> PublicKey:
    """The public key of PEM text that was found at ``where``; SignatureError as above."""
    return _described(_public_of(pem.encode(), where), where)


def _public_of(pem: bytes, where: str) -> _Public:
    _needs_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = "; give the .pub file beside it" if b"PRIVATE KEY" in pem else ""
        raise SignatureError(f"{where}: holds no public key in PEM{hint}.") from error
    if not isinstance(key, (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)):
        raise _other_kind(where)
    return key


def _described(key: _Public, where: str | Path = "the key") -> PublicKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    algorithm: Algorithm = "ed25519"
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name != "secp256r1":
            raise _other_kind(where)
        algorithm = "ecdsa-p256"
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return PublicKey(pem.decode(), algorithm)


def _other_kind(where: str | Path) -> SignatureError:
    return SignatureError(
        f"{where}: is a key of another kind; make one with roadshift keygen (Ed25519, or ECDSA "
        "over P-256)."
    )


def _read(path: Path, what: str) -> bytes:
    try:
        return read_regular_file(path, _LARGEST)
    except OSError as error:
        raise SignatureError(f"{path}: {what} cannot be read ({error.strerror}).") from error


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise output_error(FileExistsError(errno.EEXIST, "exists, and no key is replaced"), path)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not exist, with its mode from the first moment, flushed."""
    _refuse_existing(path)
    with output_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _needs_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "Signatures need the package cryptography; install it with "
            "pip install 'roadshift[vehicle]'."
        ) from error
