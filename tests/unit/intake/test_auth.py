"""Who is let in."""

from typing import Any

import pytest

from services.intake.auth import fixed_key
from shared.keys import ApiKey, digest, new_key
from shared.store import keys
from tests.unit.intake.app_fixture import App, problem, running_app

KEY = "tq_secret"
PATHS = ("", "/result", "/events", "/deliveries", "/images/0")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def make_key(intake: App, tenant: str, **more: Any) -> str:
    key = new_key()
    intake.store.run(keys.put(digest(key), ApiKey(tenant, "test", 1.0, **more)))
    return key


class TestWithoutKeys:
    """Only this machine, as itself."""

    def test_whoever_sits_here_is_served(self, intake: App) -> None:
        assert intake.http.get("/v1/jobs").status_code == 200

    @pytest.mark.parametrize("host", ["localhost:8000", "LOCALHOST", "127.0.0.1", "127.8.9.1:80", "[::1]:8000"])
    def test_under_any_name_of_loopback(self, intake: App, host: str) -> None:
        assert intake.http.get("/v1/jobs", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", "[::2]", "[", ""]
    )
    def test_a_name_rebound_to_loopback_is_not(self, intake: App, host: str) -> None:
        problem(intake.http.get("/v1/jobs", headers={"Host": host}), 401, "missing_key")

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://[", "http://127.0.0.1.evil.example"])
    def test_a_foreign_page_is_not(self, intake: App, origin: str) -> None:
        problem(intake.http.get("/v1/jobs", headers={"Origin": origin}), 401, "missing_key")

    def test_a_page_of_this_machine_is(self, intake: App) -> None:
        assert intake.http.get("/v1/jobs", headers={"Origin": "http://localhost:3000"}).status_code == 200

    @pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
    def test_what_came_through_a_proxy_is_not(self, intake: App, header: str) -> None:
        problem(intake.http.get("/v1/jobs", headers={header: "127.0.0.1"}), 401, "missing_key")

    @pytest.mark.parametrize("client", ["10.0.0.7", "192.168.1.4", "fe80::1"])
    def test_another_machine_is_not(self, client: str) -> None:
        with running_app(client=client) as intake:
            assert "tileq keys create" in problem(intake.http.get("/v1/jobs"), 401, "missing_key")["detail"]

    def test_the_first_key_ends_it(self, intake: App) -> None:
        make_key(intake, "acme")
        problem(intake.http.get("/v1/jobs"), 401, "missing_key")

    def test_health_is_for_everybody(self) -> None:
        with running_app(client="10.0.0.7") as intake:
            assert intake.http.get("/healthz").status_code == 200
            assert intake.http.get("/readyz").status_code == 200


class TestWithKeys:
    """The key decides."""

    def test_a_key_opens_its_tenant(self, intake: App) -> None:
        acme, other = make_key(intake, "acme"), make_key(intake, "other")
        id = intake.submit("?", headers=bearer(acme)).json()["id"]
        assert intake.http.get(f"/v1/jobs/{id}", headers=bearer(acme)).status_code == 200
        assert intake.http.get("/v1/jobs", headers=bearer(other)).json()["data"] == []

    def test_another_tenants_job_and_none_answer_alike(self, intake: App) -> None:
        acme, other = make_key(intake, "acme"), make_key(intake, "other")
        id = intake.submit("?", headers=bearer(acme)).json()["id"]
        foreign = bearer(other) | {"X-Request-Id": "same"}
        for path in PATHS:
            there = intake.http.get(f"/v1/jobs/{id}{path}", headers=foreign)
            nowhere = intake.http.get(f"/v1/jobs/job_{'0' * 36}{path}", headers=foreign)
            problem(there, 404, "not_found")
            assert there.content == nowhere.content
        for path in ("cancel", "retry", f"deliveries/msg_{'0' * 36}_succeeded/redeliver"):
            problem(intake.http.post(f"/v1/jobs/{id}/{path}", headers=foreign), 404, "not_found")
        problem(intake.http.delete(f"/v1/jobs/{id}", headers=foreign), 404, "not_found")
        problem(
            intake.http.post("/v1/jobs", json={"prompt": "?", "parent": id}, headers=foreign), 422, "unknown_parent"
        )

    def test_a_fixed_key_needs_no_store(self) -> None:
        with running_app(api_keys=(f"acme={KEY}",)) as intake:
            assert intake.http.get("/v1/jobs", headers=bearer(KEY)).status_code == 200
            problem(intake.http.get("/v1/jobs"), 401, "missing_key")
            problem(intake.http.get("/v1/jobs", headers=bearer("tq_other")), 401, "invalid_key")

    @pytest.mark.parametrize("more", [{"revoked": 1.0}, {"expires": 2.0}])
    def test_a_key_that_is_over_is_invalid(self, intake: App, more: dict[str, float]) -> None:
        key = make_key(intake, "acme", **more)
        problem(intake.http.get("/v1/jobs", headers=bearer(key)), 401, "invalid_key")
        problem(intake.http.get("/v1/jobs"), 401, "missing_key")

    def test_a_revoked_key_is_believed_no_longer_than_it_is_cached(self, intake: App) -> None:
        key = make_key(intake, "acme")
        assert intake.http.get("/v1/jobs", headers=bearer(key)).status_code == 200
        intake.store.run(keys.put(digest(key), ApiKey("acme", "test", 1.0, revoked=2.0)))
        problem(intake.http.get("/v1/jobs", headers=bearer(key)), 401, "invalid_key")

    @pytest.mark.parametrize(
        "header", ["Bearer", "Bearer ", "Basic dTpw", "tq_secret", "Bearer " + "x" * 8000, "Bearer é".encode()]
    )
    def test_what_is_no_key_is_invalid(self, intake: App, header: str | bytes) -> None:
        make_key(intake, "acme")
        answer = intake.http.get(
            "/v1/jobs", headers=[(b"Authorization", header if isinstance(header, bytes) else header.encode())]
        )
        problem(answer, 401, "invalid_key")
        assert answer.headers["www-authenticate"] == "Bearer"

    def test_two_headers_are_one_too_many(self, intake: App) -> None:
        key = make_key(intake, "acme")
        headers = [("Authorization", f"Bearer {key}"), ("Authorization", "Bearer tq_other")]
        problem(intake.http.get("/v1/jobs", headers=headers), 401, "invalid_key")

    def test_a_key_in_the_query_opens_nothing(self, intake: App) -> None:
        key = make_key(intake, "acme")
        problem(intake.http.get(f"/v1/jobs?key={key}"), 401, "missing_key")

    def test_nothing_is_read_or_stored_for_a_stranger(self, intake: App) -> None:
        make_key(intake, "acme")
        problem(intake.submit("?", b"no picture"), 401, "missing_key")
        assert list(intake.objects.keys("")) == []


def test_nobody_is_let_in_while_the_store_is_down(intake: App) -> None:
    intake.server.connected = False
    problem(intake.http.get("/v1/jobs"), 503, "queue_unavailable")
    problem(intake.http.get("/v1/jobs", headers=bearer("tq_any")), 503, "queue_unavailable")


@pytest.mark.parametrize("entry", ["acme", "acme=secret", "Acme=tq_a", "=tq_a", "a b=tq_c"])
def test_a_fixed_key_that_is_none_is_not_repeated(entry: str) -> None:
    with pytest.raises(ValueError, match="TILEQ_API_KEYS") as caught:
        fixed_key(entry)
    assert "secret" not in str(caught.value)
