"""/readyz and POST of the running process, on servers that answer and yet take no job."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from services.cli.local.ports import free_ports
from tests.integration.intake.conftest import Process, started
from tests.valkeys import Server, valkeys
from tests.waiting import eventually

pytestmark = pytest.mark.integration


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Server]:
    with valkeys(tmp_path / "store", {}) as (server,):
        yield server


def submit(http: httpx.Client) -> httpx.Response:
    return http.post("/v1/jobs", json={"prompt": "What is it?"})


def refusal(intake: Process, name: str) -> str:
    """Return the reason of `name` once /readyz is red, with POST refusing just then."""
    with intake.client() as http:
        eventually(lambda: http.get("/readyz").status_code == 503, within=15)
        answer = submit(http)
        assert (answer.status_code, answer.json()["code"]) == (503, "queue_unavailable")
        assert "127.0.0.1" not in answer.text
        return str(http.get("/readyz").json()["dependencies"][name]["reason"])


def test_a_store_that_became_a_replica_takes_no_job_and_is_back_when_it_leads_again(
    environment: Mapping[str, str], store: Server, tmp_path: Path
) -> None:
    (nobody,) = free_ports(1)
    with started(environment, tmp_path, TILEQ_REDIS_URL=store.url) as intake, intake.client() as http:
        assert submit(http).status_code == 202
        store.admin.replicaof("127.0.0.1", str(nobody))
        assert "takes no writes" in refusal(intake, "redis")
        store.admin.replicaof("NO", "ONE")
        eventually(lambda: submit(http).status_code == 202, within=5)


def test_a_broker_of_its_own_that_is_gone_takes_no_job(environment: Mapping[str, str], tmp_path: Path) -> None:
    (nobody,) = free_ports(1)
    more = {"TILEQ_BROKER_URL": f"redis://127.0.0.1:{nobody}/0"}
    with started(environment, tmp_path, ready="/healthz", **more) as intake:
        assert "the broker takes no messages" in refusal(intake, "broker")


def test_a_store_whose_durability_may_not_be_known_takes_no_job_until_that_is_accepted(
    environment: Mapping[str, str], store: Server, tmp_path: Path
) -> None:
    store.admin.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-info")  # type: ignore[no-untyped-call]
    url = store.url.replace("://", "://app:pw@")
    with started(environment, tmp_path, ready="/healthz", TILEQ_REDIS_URL=url) as intake:
        assert "whether it keeps writes is not known" in refusal(intake, "redis")
    accepted = {"TILEQ_REDIS_URL": url, "TILEQ_REQUIRE_AOF": "false"}
    with started(environment, tmp_path, ready="/healthz", **accepted) as intake, intake.client() as http:
        eventually(lambda: submit(http).status_code == 202, within=15)
