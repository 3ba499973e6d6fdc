"""The synchronous client of the job store."""

import pytest

from shared.errors import QueueUnavailable
from shared.keys import ApiKey
from shared.store import keys, transitions
from shared.store.client import Store, memory_store


@pytest.fixture
def store() -> Store:
    return memory_store()


def test_commands_that_run_together_are_answered_in_their_order(store: Store) -> None:
    store.run(keys.put("h", ApiKey(tenant="acme", name="k", created=1)))
    found = store.run_together([keys.count_keys(), transitions.read_job("", "job_none"), keys.get("h")])
    assert found[:2] == [1, None]
    assert found[2][0].tenant == "acme"


def test_commands_that_run_together_load_scripts_that_the_server_lost(store: Store) -> None:
    store.run_together([keys.count_keys()])
    store.client.script_flush()
    assert store.run_together([keys.count_keys(), transitions.read_job("", "job_none")]) == [0, None]


def test_an_error_of_one_command_is_raised(store: Store) -> None:
    store.client.set(f"{store.prefix}keys", "no hash")
    with pytest.raises(QueueUnavailable, match="key_get"):
        store.run_together([transitions.read_job("", "job_none"), keys.count_keys()])
