"""Waiters hear of the changes that they wait for."""

import asyncio

import fakeredis
import pytest

from services.intake.clients.changes import Changes
from shared.events import changes_channel


def heard(change: str, *, ends_only: bool) -> bool:
    """Whether a waiter for `job_a` is told of `change`, before a later one that every waiter hears."""

    async def listen() -> bool:
        client = fakeredis.FakeAsyncRedis(decode_responses=True)
        changes = Changes(client, "p:", poll_s=60)
        listening = asyncio.create_task(changes.run())
        try:
            with changes.watch("job_a", ends_only=ends_only) as waiter, changes.watch("job_z") as other:
                assert await waiter.changed(10)  # the subscription has begun
                assert await other.changed(10)
                await client.publish(changes_channel("p:"), change)
                await client.publish(changes_channel("p:"), "job_z running")
                assert await other.changed(10)
                return await waiter.changed(0)
        finally:
            changes.closed = True
            listening.cancel()

    return asyncio.run(listen())


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled", "expired"])
@pytest.mark.parametrize("ends_only", [True, False])
def test_every_waiter_hears_of_the_end(state: str, ends_only: bool) -> None:
    assert heard(f"job_a {state}", ends_only=ends_only)


@pytest.mark.parametrize("change", ["job_a running", "job_a queued", "job_a"])
def test_only_who_follows_a_job_hears_of_the_rest(change: str) -> None:
    assert not heard(change, ends_only=True)
    assert heard(change, ends_only=False)


def test_nobody_hears_of_another_job() -> None:
    assert not heard("job_b succeeded", ends_only=False)
