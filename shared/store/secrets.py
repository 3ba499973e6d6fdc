"""Commands on the webhook secrets of a tenant, and on the keys that encrypt stored secrets (`shared/encryption.py`)."""

import hashlib
from collections.abc import Sequence

from shared.encryption import Keyring
from shared.store.command import StoreCommand
from shared.webhooks.signing import new_secret

_PLAIN = Keyring()


def active_secrets(tenant: str, configured: str = "", keyring: Keyring = _PLAIN) -> StoreCommand[list[str]]:
    """The secrets that sign for `tenant` now, newest first; a tenant without one gets a new one.

    A secret newly `configured` by the deployment signs from its first use; the one before it signs for another day.
    Raises `DecryptionFailed` where `keyring` lacks the key of one.
    """

    def parse(stored: list[str]) -> list[str]:
        return list(dict.fromkeys(keyring.decrypt(secret, "webhook-secret", tenant) for secret in stored))

    return StoreCommand("active_secrets", (tenant, *_candidates(tenant, configured, keyring)), parse)


def rotate_secret(
    tenant: str, new: str, overlap: float, configured: str = "", keyring: Keyring = _PLAIN
) -> StoreCommand[float]:
    """Make `new` the secret of `tenant`; the one before signs too for `overlap` seconds. Returns until when."""
    stored = keyring.encrypt(new, "webhook-secret", tenant)
    args = (tenant, stored, overlap, *_candidates(tenant, configured, keyring))
    return StoreCommand("rotate_secret", args, float, durable=True)


def use_keys(keyring: Keyring) -> StoreCommand[list[str]]:
    """Note that the first key encrypts from now on; return the ids of keys in use that `keyring` lacks."""
    return StoreCommand("secrets_keys", ("use", *keyring.ids), list)


def retire_keys(keyring: Keyring) -> StoreCommand[list[str]]:
    """Note that nothing is encrypted with any key but the first any more; return the ids that were in use."""
    return StoreCommand("secrets_keys", ("retire", *keyring.ids), list)


def replace_stored(key: str, field: str, old: str, new: str) -> StoreCommand[bool]:
    """Set the `field` of a hash, named without the prefix, to `new` if it is still `old`; return whether it was."""
    return StoreCommand("replace_stored", (key, field, old, new), bool, durable=True)


def missing_keys_problem(missing: Sequence[str]) -> str | None:
    """Return why a process can't start whose keyring lacks the keys `missing`, which are in use; None where it can."""
    if not missing:
        return None
    return (
        f"TILEQ_SECRETS_KEY lacks the key {', '.join(sorted(missing))}, with which stored secrets are encrypted. "
        "Add it behind the others; `tileq secrets reencrypt` makes it unnecessary."
    )


def _candidates(tenant: str, configured: str, keyring: Keyring) -> tuple[str, str, str, str]:
    """Return the configured secret encrypted, its fingerprint, it in plain, and a secret for a tenant without any."""
    fingerprint = hashlib.sha256(configured.encode()).hexdigest() if configured else ""
    stored = keyring.encrypt(configured, "webhook-secret", tenant)
    return stored, fingerprint, configured, keyring.encrypt(new_secret(), "webhook-secret", tenant)
