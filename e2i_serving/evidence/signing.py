"""Ed25519 keys: the one that signs checkpoints, and those that signatures are checked with."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from e2i_serving.exceptions import EvidenceError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PUBLIC_SUFFIX: Final = ".pub"
_ID_DIGITS: Final = 16


class SigningKey:
    """A private key that signs.

    Attributes:
        key_id: The first 16 hex digits of the SHA-256 of the public key's 32 bytes.
        public_pem: The public key, as PEM.
    """

    def __init__(self, private: Ed25519PrivateKey) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415  # heavy

        self._private = private
        public = private.public_key()
        self.key_id = _key_id(public)
        self.public_pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, data: bytes) -> str:
        """The signature of data, 128 hex digits."""
        return self._private.sign(data).hex()


class PublicKeys:
    """Public keys by their id, to check signatures with."""

    def __init__(self, keys: Iterable[Ed25519PublicKey]) -> None:
        self._keys = {_key_id(key): key for key in keys}

    @property
    def ids(self) -> list[str]:
        """The ids of the keys."""
        return sorted(self._keys)

    def verify(self, key_id: str, data: bytes, signature: str) -> bool | None:
        """Whether a signature is right; ``None`` when its key is not among these."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # heavy

        key = self._keys.get(key_id)
        if key is None:
            return None
        try:
            key.verify(bytes.fromhex(signature), data)
        except (InvalidSignature, ValueError):
            return False
        return True


def open_signing_key(path: Path) -> SigningKey:
    """Read the signing key from a PEM file; make both when the file is not there.

    Args:
        path: The file, readable by its owner alone.

    Raises:
        EvidenceError: It can't be read or made, others may read it, or it holds no Ed25519 key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415  # heavy
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415  # heavy

    try:
        if not path.exists():
            _make(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise EvidenceError(f"Others than its owner may use the signing key {path}. Run `chmod 600 {path}`.")
        private = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise EvidenceError(f"The signing key {path} can't be read or made: {error}.") from error
    except (ValueError, TypeError) as error:
        raise EvidenceError(f"{path} is no private key in PEM without a password: {error}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise EvidenceError(f"{path} holds a key of another kind than Ed25519. `openssl genpkey -algorithm ed25519`.")
    return SigningKey(private)


def read_public_keys(paths: Iterable[Path]) -> PublicKeys:
    """Read public keys.

    Args:
        paths: PEM files, of public keys or of the private ones.

    Raises:
        EvidenceError: A file can't be read, or holds no Ed25519 key.
    """
    return PublicKeys([_read_public(path) for path in paths])


def _read_public(path: Path) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415  # heavy
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415  # heavy
        load_pem_private_key,
        load_pem_public_key,
    )

    try:
        content = path.read_bytes()
        is_private = b"PRIVATE KEY" in content
        key = load_pem_private_key(content, None) if is_private else load_pem_public_key(content)
    except OSError as error:
        raise EvidenceError(f"The public key {path} can't be read: {error}.") from error
    except (ValueError, TypeError) as error:
        raise EvidenceError(f"{path} is no key in PEM: {error}") from error
    if isinstance(key, Ed25519PrivateKey):
        return key.public_key()
    if isinstance(key, Ed25519PublicKey):
        return key
    raise EvidenceError(f"{path} holds a key of another kind than Ed25519.")


def _make(path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415  # heavy
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415  # heavy
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(beside, path)  # unlike a rename, it never replaces the key that another process just made
        except FileExistsError:
            return
    finally:
        beside.unlink(missing_ok=True)


def _key_id(public: Ed25519PublicKey) -> str:
    return sha256(public.public_bytes_raw()).hexdigest()[:_ID_DIGITS]
