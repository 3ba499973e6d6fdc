"""The secrets that sign, over the double and a real Valkey."""

from typing import Any

import pytest

from shared.encryption import DecryptionFailed, Keyring, new_key
from shared.store.client import Store
from shared.store.secrets import active_secrets, retire_keys, rotate_secret, use_keys
from shared.webhooks.signing import new_secret
from tests.integration.shared.test_transitions import store

__all__ = ["store"]


def test_a_tenant_gets_one_secret_and_keeps_it(store: Store) -> None:
    first = store.run(active_secrets("acme"))
    assert len(first) == 1
    assert store.run(active_secrets("acme")) == first
    assert store.run(active_secrets("beta")) != first


def test_both_sign_during_the_overlap_and_one_after_it(store: Store) -> None:
    (old,) = store.run(active_secrets("acme"))
    new, newest = new_secret(), new_secret()
    store.run(rotate_secret("acme", new, 60))
    assert store.run(active_secrets("acme")) == [new, old]
    store.run(rotate_secret("acme", newest, 0))
    assert store.run(active_secrets("acme")) == [newest]


def test_a_secret_configured_anew_signs_and_the_one_before_goes_on_for_a_while(store: Store) -> None:
    old, new = new_secret(), new_secret()
    assert store.run(active_secrets("local", old)) == [old]
    assert store.run(active_secrets("local", new)) == [new, old]
    assert store.run(active_secrets("local", new)) == [new, old]


def test_a_rotated_secret_is_not_undone_by_the_configured_one(store: Store) -> None:
    given, rotated = new_secret(), new_secret()
    store.run(active_secrets("local", given))
    store.run(rotate_secret("local", rotated, 60, given))
    assert store.run(active_secrets("local", given)) == [rotated, given]


def test_rotating_first_keeps_the_configured_one_for_the_overlap(store: Store) -> None:
    given, rotated = new_secret(), new_secret()
    store.run(rotate_secret("local", rotated, 60, given))
    assert store.run(active_secrets("local", given)) == [rotated, given]


def test_secrets_are_stored_encrypted_and_sign_as_before(store: Store) -> None:
    keyring, given, rotated = Keyring([new_key()]), new_secret(), new_secret()
    assert store.run(active_secrets("local", given, keyring)) == [given]
    store.run(rotate_secret("local", rotated, 60, given, keyring))
    (generated,) = store.run(active_secrets("acme", "", keyring))
    assert store.run(active_secrets("local", given, keyring)) == [rotated, given]
    stored = str(store.client.hgetall(f"{store.prefix}secret:local")) + str(
        store.client.hgetall(f"{store.prefix}secret:acme")
    )
    assert not [secret for secret in (given, rotated, generated) if secret in stored]


def test_a_configured_secret_that_was_stored_in_plain_is_still_known(store: Store) -> None:
    given, rotated, keyring = new_secret(), new_secret(), Keyring([new_key()])
    fields: Any = {"current": rotated, "configured": given, "previous": given, "previous_until": "99999999999"}
    store.client.hset(f"{store.prefix}secret:local", mapping=fields)
    assert store.run(active_secrets("local", given, keyring)) == [rotated, given]
    assert store.client.hget(f"{store.prefix}secret:local", "configured") != given


def test_a_secret_whose_key_is_missing_is_refused_and_kept(store: Store) -> None:
    keyring = Keyring([new_key()])
    before = store.run(active_secrets("acme", "", keyring))
    with pytest.raises(DecryptionFailed):
        store.run(active_secrets("acme"))
    assert store.run(active_secrets("acme", "", keyring)) == before


def test_a_process_learns_which_keys_in_use_it_lacks(store: Store) -> None:
    old, new = Keyring([new_key()]), Keyring([new_key()])
    assert store.run(use_keys(old)) == []
    assert store.run(use_keys(Keyring())) == old.ids
    assert store.run(use_keys(new)) == old.ids
    store.run(retire_keys(new))
    assert store.run(use_keys(new)) == []
