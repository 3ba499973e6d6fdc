"""Waiters hear of the changes that they wait for."""

import asyncio

import fakeredis
import pytest

from services.intake.clients.changes import MAX_RECENT, Changes
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


def test_who_comes_after_the_end_hears_of_it_at_once() -> None:
    async def listen() -> None:
        client = fakeredis.FakeAsyncRedis(decode_responses=True)
        changes = Changes(client, "p:", poll_s=60)
        listening = asyncio.create_task(changes.run())
        with changes.watch("job_z") as other:
            assert await other.changed(10)
            for change in ["job_a succeeded", "job_b running", *(f"job_{n} failed" for n in range(MAX_RECENT - 1))]:
                await client.publish(changes_channel("p:"), change)
            await client.publish(changes_channel("p:"), "job_z running")
            assert await other.changed(10)
        for id, ended in (("job_a", True), ("job_b", False)):
            with changes.watch(id, ends_only=True) as late:
                assert await late.changed(0) == ended
        await client.publish(changes_channel("p:"), "job_c cancelled")  # one more than is remembered
        with changes.watch("job_c", ends_only=True) as waiter:
            assert await waiter.changed(10)
        with changes.watch("job_a", ends_only=True) as forgotten:
            assert not await forgotten.changed(0)
        changes.closed = True
        listening.cancel()

    asyncio.run(listen())
