"""Encryption of what lies on disk: AES-256-GCM, with numbered keys from a file.

Every context (a life, the payload files) has a key of its own, derived by HKDF, so that no key ever
encrypts more than what one context holds, and nothing can be moved from one context to another.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from e2i_serving.exceptions import ConfigurationError, EncryptionError
from e2i_serving.settings import Settings
from e2i_serving.typing import Cipher

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
LARGEST_NUMBER = 2**32 - 1
_CONTEXTS = 256
_LINE = re.compile(r"(\d{1,10})\s+([A-Za-z0-9+/=_-]+)\s*(?:#\s*(.*))?")


class Key(NamedTuple):
    """A key of the file.

    Attributes:
        number: From 1; what was encrypted says which key by it.
        secret: 32 bytes.
        made: When, as the file says it; empty when it does not.
    """

    number: int
    secret: bytes
    made: str = ""

    def __repr__(self) -> str:
        """Without the secret, so that no log or traceback shows it."""
        return f"Key(number={self.number}, made={self.made!r})"


class FileCipher:
    """Encrypts with the first key of a file and decrypts with any of them. Any thread may call it.

    A key that was added to the file later is found when something needs it; the first one stays the one
    that encrypts for as long as the process lives.

    Args:
        path: The key file.

    Raises:
        ConfigurationError: The file can't be read, others may read it, or a line is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _state(path)
        keys = read_keys(path)
        self._keys = {key.number: key.secret for key in keys}
        self._key_id = keys[0].number
        # Deriving a key costs some twenty times what a small message does.
        self._aead: Callable[[int, str], AESGCM] = lru_cache(maxsize=_CONTEXTS)(self._derive)
        self._aead(self._key_id, "")  # imports what encrypts now, not with the first request

    @property
    def key_id(self) -> int:
        """Number of the key that ``encrypt`` uses."""
        return self._key_id

    def encrypt(self, context: str, data: bytes | bytearray | memoryview) -> bytes:
        """Encrypt for a context: nonce of 12 bytes, encrypted bytes, tag of 16 bytes."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aead(self._key_id, context).encrypt(nonce, data, _associated(self._key_id, context))

    def decrypt(self, key_id: int, context: str, data: bytes) -> bytes:
        """Read what ``encrypt`` gave.

        Raises:
            EncryptionError: The key is not in the file, or the data is not what was encrypted for this context.
        """
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # only where encryption is configured

        if key_id not in self._keys:
            self._read_again()
        if key_id not in self._keys:
            raise EncryptionError(
                f"Key {key_id} is not in {self._path}. Put its line back; what it encrypted waits until then."
            )
        try:
            return self._aead(key_id, context).decrypt(
                data[:NONCE_BYTES], data[NONCE_BYTES:], _associated(key_id, context)
            )
        except (InvalidTag, ValueError) as error:
            raise EncryptionError(
                f"What is encrypted for {context!r} with key {key_id} can't be read: it was altered, or the line of "
                f"key {key_id} in {self._path} is not the one that encrypted it."
            ) from error

    def _derive(self, key_id: int, context: str) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # as above
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415  # as above
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415  # as above

        hkdf = HKDF(SHA256(), KEY_BYTES, salt=None, info=context.encode())
        return AESGCM(hkdf.derive(self._keys[key_id]))

    def _read_again(self) -> None:
        try:
            state = _state(self._path)
            if state == self._seen:
                return
            found = {key.number: key.secret for key in read_keys(self._path)}
        except ConfigurationError as error:
            raise EncryptionError(str(error)) from error
        self._seen = state  # not of a file that could not be read: to mend its mode changes nothing of its state
        # Those it has stay: their derived keys are cached.
        self._keys = found | self._keys


def cipher_of(settings: Settings) -> Cipher | None:
    """The cipher that the settings ask for; ``None`` when they ask for none.

    Raises:
        ConfigurationError: The key file can't be used.
    """
    path = settings.encryption_key_file
    return FileCipher(path.expanduser().absolute()) if path is not None else None


def read_keys(path: Path) -> list[Key]:
    """The keys of a file, in its order: the first encrypts.

    Raises:
        ConfigurationError: The file can't be read, others may read it, or a line is wrong.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"The key file {path} can't be read: {error}. `e2i-serving keys new --file {path}` makes one."
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigurationError(f"Others than its owner may use the key file {path}. Run `chmod 600 {path}`.")
    keys: list[Key] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if (stripped := line.strip()) and not stripped.startswith("#"):
            keys.append(_parse(stripped, f"Line {number} of the key file {path}"))
    if not keys:
        raise ConfigurationError(f"The key file {path} holds no key. `e2i-serving keys new --file {path}` makes one.")
    numbers = [key.number for key in keys]
    if len(set(numbers)) < len(numbers):
        raise ConfigurationError(f"The key file {path} gives two keys the same number. Each needs its own.")
    return keys


def add_key(path: Path) -> Key:
    """Make a key and put it first in the file, which is made when it is not there.

    Returns:
        The new key; its number is one more than the largest there.

    Raises:
        ConfigurationError: The file that is there can't be used, or can't be written.
    """
    there = path.exists()
    number = max((key.number for key in read_keys(path)), default=0) + 1 if there else 1
    if number > LARGEST_NUMBER:
        raise ConfigurationError(f"The key file {path} has no number left for a new key. Begin another file.")
    key = Key(number, os.urandom(KEY_BYTES), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    line = f"{key.number} {base64.b64encode(key.secret).decode()} # {key.made}\n"
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(line + (path.read_text(encoding="utf-8") if there else ""))
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise ConfigurationError(f"The key file {path} can't be written: {error}.") from error
    return key


def _parse(line: str, where: str) -> Key:
    # What is wrong is never quoted: it may be all but one character of a key.
    matched = _LINE.fullmatch(line)
    if matched is None or not 1 <= int(matched[1]) <= LARGEST_NUMBER:
        raise ConfigurationError(f"{where} is no key: write `<number from 1> <base64 of {KEY_BYTES} bytes>`.")
    try:
        secret = base64.b64decode(matched[2], validate=True)
    except binascii.Error as error:
        raise ConfigurationError(f"{where} is no key: what follows the number is not base64.") from error
    if len(secret) != KEY_BYTES:
        raise ConfigurationError(f"{where} is no key: it has {len(secret)} bytes, not {KEY_BYTES}.")
    return Key(int(matched[1]), secret, (matched[3] or "").strip())


def _associated(key_id: int, context: str) -> bytes:
    return key_id.to_bytes(4, "big") + context.encode()


def _state(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigurationError(
            f"The key file {path} can't be read: {error}. `e2i-serving keys new --file {path}` makes one."
        ) from error
    return found.st_ino, found.st_mtime_ns, found.st_size


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
