"""Stored secrets: encrypted with the first key, read with any, and refused elsewhere."""

import pytest
from pydantic import SecretStr

from shared.encryption import MARKER, DecryptionFailed, Keyring, new_key
from shared.settings.secrets import SecretsSettings

OLD, NEW = new_key(), new_key()
SECRET = "whsec_c2VjcmV0"


def test_what_is_encrypted_holds_no_plain_text_and_is_read_back() -> None:
    keyring = Keyring([NEW])
    stored = keyring.encrypt(SECRET, "webhook-secret", "acme")
    assert stored.startswith(f"{MARKER}{keyring.ids[0]}:")
    assert SECRET not in stored
    assert keyring.decrypt(stored, "webhook-secret", "acme") == SECRET
    assert keyring.encrypt(SECRET, "webhook-secret", "acme") != stored


def test_without_a_key_values_stay_in_plain() -> None:
    assert Keyring().encrypt(SECRET, "webhook-secret", "acme") == SECRET


def test_what_an_earlier_version_stored_in_plain_is_read() -> None:
    assert Keyring([NEW]).decrypt(SECRET, "webhook-secret", "acme") == SECRET


def test_the_first_key_encrypts_and_every_key_decrypts() -> None:
    stored = Keyring([OLD]).encrypt(SECRET, "webhook-secret", "acme")
    both = Keyring.of(f"{NEW},{OLD}\n")
    assert both.decrypt(stored, "webhook-secret", "acme") == SECRET
    renewed = both.renew(stored, "webhook-secret", "acme")
    assert Keyring([NEW]).decrypt(renewed, "webhook-secret", "acme") == SECRET
    assert both.renew(renewed, "webhook-secret", "acme") == renewed


def test_a_missing_key_is_named_and_its_value_is_not_told() -> None:
    stored = Keyring([OLD]).encrypt(SECRET, "webhook-secret", "acme")
    with pytest.raises(DecryptionFailed, match=Keyring([OLD]).ids[0]) as caught:
        Keyring([NEW]).decrypt(stored, "webhook-secret", "acme")
    assert OLD not in str(caught.value)


@pytest.mark.parametrize("spoil", [lambda text: text[:-6] + "AAAA==", lambda text: text[:-4], lambda text: text + "!"])
def test_a_changed_value_is_refused(spoil: "object") -> None:
    keyring = Keyring([NEW])
    stored = keyring.encrypt(SECRET, "webhook-secret", "acme")
    assert callable(spoil)
    with pytest.raises(DecryptionFailed, match="changed"):
        keyring.decrypt(spoil(stored), "webhook-secret", "acme")


def test_a_value_copied_to_another_tenant_or_purpose_is_refused() -> None:
    keyring = Keyring([NEW])
    stored = keyring.encrypt(SECRET, "webhook-secret", "acme")
    with pytest.raises(DecryptionFailed):
        keyring.decrypt(stored, "webhook-secret", "beta")
    with pytest.raises(DecryptionFailed):
        keyring.decrypt(stored, "webhook-header", "acme")


@pytest.mark.parametrize("key", ["c2hvcnQ=", "no base64!", "A" * 43 + "=,c2hvcnQ="])
def test_a_key_that_is_none_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(ValueError, match="tileq secrets new-key") as caught:
        SecretsSettings(secrets_key=SecretStr(key))
    assert "c2hvcnQ" not in str(caught.value.errors()[0]["msg"])  # type: ignore[attr-defined]
