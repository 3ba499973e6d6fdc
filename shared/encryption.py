"""Encryption of what is stored: webhook secrets, the headers that clients add to their webhooks, ends of jobs.

AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits for each value, as text:

enc:v1:{id of the key}:{base64 of nonce, ciphertext and tag}

The associated data names the purpose and the tenant, so that a value copied to another place is refused. A value
without the marker was stored in plain, by an earlier version or without a key, and is read as it is.
"""

import base64
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from shared.errors import TileqError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MARKER = "enc:v1:"
KEY_BYTES = 32
KEY_ID_CHARS = 8  #: of the key's SHA-256
_NONCE_BYTES = 12

Purpose = Literal["webhook-secret", "webhook-header"]


class DecryptionFailed(TileqError):
    """A stored secret can't be decrypted."""


class Keyring:
    """The keys of TILEQ_SECRETS_KEY: the first one encrypts, every one decrypts. Without keys values stay in plain.

    Raises `ValueError`, without the key, where one is not 32 bytes in base64.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._keys = {key_id(raw): raw for raw in map(_decoded, keys)}

    @classmethod
    def of(cls, setting: str) -> "Keyring":
        """Return the keyring of a setting: keys in base64, commas or line ends between."""
        return cls([key for key in setting.replace("\n", ",").replace(" ", ",").split(",") if key])

    @property
    def ids(self) -> list[str]:
        """The ids of the keys, the one that encrypts first."""
        return list(self._keys)

    def encrypt(self, value: str, purpose: Purpose, tenant: str) -> str:
        """Return `value` encrypted with the first key; as it is without keys, or where it is empty."""
        if not self._keys or not value:
            return value
        used = self.ids[0]
        return f"{MARKER}{used}:{seal(self._keys[used], value.encode(), _context(purpose, tenant))}"

    def decrypt(self, value: str, purpose: Purpose, tenant: str) -> str:
        """Return what was encrypted, or `value` where it is in plain.

        Raises `DecryptionFailed` where its key is missing, or where it was changed or belongs to another place.
        """
        if not value.startswith(MARKER):
            return value
        used, _, text = value.removeprefix(MARKER).partition(":")
        if used not in self._keys:
            raise DecryptionFailed(f"a stored {purpose} needs the key {used}; add it to TILEQ_SECRETS_KEY")
        try:
            return unseal(self._keys[used], text, _context(purpose, tenant)).decode()
        except ValueError as error:
            raise DecryptionFailed(
                f"a stored {purpose} of tenant {tenant} was changed; it can't be decrypted"
            ) from error

    def renew(self, value: str, purpose: Purpose, tenant: str) -> str:
        """Return `value` encrypted with the first key; as it is where it is that already, or without keys."""
        if not self._keys or value.startswith(f"{MARKER}{self.ids[0]}:"):
            return value
        return self.encrypt(self.decrypt(value, purpose, tenant), purpose, tenant)

    def encrypt_headers(self, headers: Mapping[str, str], tenant: str) -> dict[str, str]:
        """Return `headers` with encrypted values."""
        return {name: self.encrypt(value, "webhook-header", tenant) for name, value in headers.items()}

    def decrypt_headers(self, headers: Mapping[str, str], tenant: str) -> dict[str, str]:
        """Return `headers` with their values. Raises `DecryptionFailed`."""
        return {name: self.decrypt(value, "webhook-header", tenant) for name, value in headers.items()}

    def renew_headers(self, headers: Mapping[str, str], tenant: str) -> dict[str, str]:
        """Return `headers` with every value encrypted with the first key. Raises `DecryptionFailed`."""
        return {name: self.renew(value, "webhook-header", tenant) for name, value in headers.items()}


def new_key() -> str:
    """Return a fresh key: 32 random bytes in base64."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def seal(key: bytes, data: bytes, context: bytes) -> str:
    """Return `data` encrypted with `key`, bound to `context`: base64 of nonce, ciphertext and tag."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return base64.b64encode(nonce + _aes_gcm(key).encrypt(nonce, data, context)).decode()


def unseal(key: bytes, text: str, context: bytes) -> bytes:
    """Return what `seal` encrypted. Raises `ValueError` where it was changed, or has another key or context."""
    try:
        sealed = base64.b64decode(text, validate=True)
        return _aes_gcm(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
    except Exception as error:  # InvalidTag, or base64 that is none
        raise ValueError("encrypted data was changed, or has another key") from error


def key_id(raw: bytes) -> str:
    """Return the id of a key, which names it without telling it."""
    return hashlib.sha256(raw).hexdigest()[:KEY_ID_CHARS]


def _decoded(key: str) -> bytes:
    try:
        raw = base64.b64decode(key, validate=True)
    except ValueError:
        raise ValueError("a key is not base64; `tileq secrets new-key` makes one") from None
    if len(raw) != KEY_BYTES:
        raise ValueError(f"a key holds {len(raw)} bytes, not {KEY_BYTES}; `tileq secrets new-key` makes one")
    return raw


def _context(purpose: Purpose, tenant: str) -> bytes:
    return f"tileq:{purpose}:{tenant}".encode()


def _aes_gcm(key: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # only where there is a key

    return AESGCM(key)
