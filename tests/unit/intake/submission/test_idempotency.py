"""Idempotency keys: their lease, and where they are honoured or refused."""

import asyncio

import pytest

from services.intake.submission import idempotency
from services.intake.submission.idempotency import reserve_key
from shared.errors import IdempotencyInProgress
from shared.store import transitions
from tests.unit.intake.app_fixture import App, problem

KEY = {"Idempotency-Key": "K"}


def test_a_request_whose_intake_died_frees_its_key_within_seconds(intake: App) -> None:
    intake.submit("?", headers=KEY)
    (key,) = intake.store.client.keys("*:idem:*")
    intake.store.client.hdel(key, "subject")  # as it was before the job was committed, and never will be
    seconds = []
    for left in (idempotency.LEASE_S, 4, 1):
        intake.store.client.expire(key, left)
        answer = intake.submit("?", headers=KEY)
        problem(answer, 409, "idempotency_in_progress")
        seconds.append(answer.headers["retry-after"])
    assert seconds == ["1", "4", "1"]  # it may be alive; it has missed heartbeats; it is nearly free
    intake.store.client.delete(key)  # when that time is over
    assert intake.submit("?", headers=KEY).status_code == 202


def test_a_long_request_keeps_its_key_by_heartbeats(intake: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "HEARTBEAT_S", 0.01)
    store = intake.context.store

    async def play() -> None:
        async with reserve_key(store, "local", "K", "print"):
            (key,) = await store.client.keys("*:idem:*")
            await store.client.pexpire(key, 100)  # nearly over
            async with asyncio.timeout(10):
                while await store.client.pttl(key) <= 100:
                    await asyncio.sleep(0.01)
            with pytest.raises(IdempotencyInProgress):
                async with reserve_key(store, "local", "K", "print"):
                    pass

    intake.call(play)


def test_a_lease_that_went_to_another_request_is_not_extended(intake: App) -> None:
    intake.store.run(transitions.reserve("local", "K", "print", "mine", 60))
    assert not intake.store.run(transitions.extend_reservation("local", "K", "another", 600))


class TestHeader:
    """Where the header is sent."""

    def test_retry_is_one_new_job_for_one_key(self, intake: App) -> None:
        id, other = intake.answered(), intake.answered()
        first = intake.http.post(f"/v1/jobs/{id}/retry", headers=KEY)
        again = intake.http.post(f"/v1/jobs/{id}/retry", headers=KEY)
        assert (first.status_code, again.status_code, again.headers["idempotent-replayed"]) == (202, 202, "true")
        assert first.json()["id"] == again.json()["id"]
        problem(intake.http.post(f"/v1/jobs/{other}/retry", headers=KEY), 422, "idempotency_mismatch")

    @pytest.mark.parametrize("path", ["/v1/webhooks/test", "/v1/webhooks/secret/rotate"])
    def test_a_call_that_can_not_honour_it_says_so(self, intake: App, path: str) -> None:
        answer = intake.http.post(path, json={"url": "http://127.0.0.1:9/"}, headers=KEY)
        assert path in problem(answer, 400, "malformed_request")["detail"]

    @pytest.mark.parametrize("path", ["/v1/jobs", "/v1/batches", "/v1/webhooks/secret/rotate", "/v1/jobs/x/cancel"])
    def test_its_old_name_is_refused_with_the_right_one(self, intake: App, path: str) -> None:
        answer = intake.http.post(path, json={"prompt": "?"}, headers={"X-Idempotency-Key": "K"})
        assert "send Idempotency-Key" in problem(answer, 400, "malformed_request")["detail"]

    @pytest.mark.parametrize("name", ["X-Request-Idempotency-Key", "Idempotent-Key", "IdempotencyKey"])
    def test_so_is_every_other_name_of_it(self, intake: App, name: str) -> None:
        answer = intake.submit("?", headers={name: "K"})
        assert "send Idempotency-Key" in problem(answer, 400, "malformed_request")["detail"]
