"""The secrets that sign, over the double and a real Valkey."""

from shared.store.client import Store
from shared.store.secrets import active_secrets, rotate_secret
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
