"""Commands on API keys; see `shared/keys.py`."""

from typing import Any

from shared.keys import ApiKey
from shared.store.command import StoreCommand


def put(hashed: str, key: ApiKey) -> StoreCommand[int]:
    """Store or change a key under its digest."""
    return StoreCommand("key_put", (hashed, key.to_json()), int, durable=True)


def get(hashed: str) -> StoreCommand[tuple[ApiKey | None, float]]:
    """The key of this digest or None, and the store's clock in seconds since the epoch."""

    def parse(answer: Any) -> tuple[ApiKey | None, float]:
        return (ApiKey.from_json(answer[0]) if answer[0] else None), float(answer[2])

    return StoreCommand("key_get", (hashed,), parse)


def list_all() -> StoreCommand[dict[str, ApiKey]]:
    """All keys by digest."""
    return StoreCommand(
        "key_list",
        (),
        lambda flat: {hashed: ApiKey.from_json(text) for hashed, text in zip(flat[::2], flat[1::2], strict=True)},
    )


def count_keys() -> StoreCommand[int]:
    """How many keys are stored, revoked and expired ones included."""
    return StoreCommand("key_get", ("",), lambda answer: int(answer[1]))


def server_time() -> StoreCommand[float]:
    """The store's clock, in seconds since the epoch."""
    return StoreCommand("key_get", ("",), lambda answer: float(answer[2]))
