"""What a user sees when a process dies, freezes or is not there yet."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.acceptance.client import Client, events
from tests.service import Service, service, started
from tests.waiting import eventually

pytestmark = pytest.mark.acceptance
SLOW = {"TILEQ_ECHO_DELAY": "0.4"}
LONG = "a long answer, " * 12  # 14 s with the slowed engine, which is never awaited


@pytest.fixture(scope="module")
def here() -> Iterator[Service]:
    """A service without vision workers: each test starts those it needs."""
    with service(vision=0) as running:
        yield running


@pytest.fixture
def api(here: Service) -> Iterator[Client]:
    with httpx.Client(base_url=here.url, timeout=60) as http:
        yield Client(http)


def test_a_job_waits_for_the_first_worker_to_start(here: Service, api: Client) -> None:
    job = api.submit("Anybody?")
    assert api.job(job["id"])["queue_position"] == 0
    with started("workers.vision", here):
        assert api.ended(job["id"])["state"] == "succeeded"


def test_two_workers_share_the_jobs_and_answer_each_once(here: Service, api: Client) -> None:
    one, two = ({"TILEQ_WORKER_NAME": name, "TILEQ_SLOTS": "1", "TILEQ_ECHO_DELAY": "0.05"} for name in ("one", "two"))
    with started("workers.vision", here, "one", env=one), started("workers.vision", here, "two", env=two):
        ids = [api.submit(f"Number {n}")["id"] for n in range(20)]
        ended = [api.ended(id) for id in ids]
    assert {(job["state"], job["attempt"]) for job in ended} == {("succeeded", 1)}
    assert {here.record(id)["owner"] for id in ids} == {"one", "two"}


def test_a_queued_job_is_cancelled_at_once_and_stays_so(here: Service, api: Client) -> None:
    job = api.submit("Never mind.")
    assert api.cancel(job["id"])["outcome"] == "cancelled"
    with started("workers.vision", here):
        api.ended(api.submit("Next.")["id"])
    assert api.job(job["id"])["state"] == "cancelled"
    assert api.cancel(job["id"])["outcome"] == "already_ended"


def test_a_running_job_stops_soon_after_it_is_cancelled(here: Service, api: Client) -> None:
    with started("workers.vision", here, env=SLOW):
        job = api.submit(LONG)
        api.reaches(job["id"], "running")
        assert api.cancel(job["id"])["outcome"] == "cancelling"
        assert api.ended(job["id"])["state"] == "cancelled"


def test_a_job_nobody_started_in_time_expires_and_says_why(api: Client) -> None:
    job = api.ended(api.submit("Too late?", start_within=1)["id"])
    assert (job["state"], job["error"]["code"]) == ("expired", "not_started_in_time")


def test_a_job_that_runs_too_long_fails_and_generation_stops(here: Service, api: Client) -> None:
    with started("workers.vision", here, env=SLOW):
        job = api.ended(api.submit(LONG, run_within=1)["id"])
    assert (job["state"], job["error"]["code"]) == ("failed", "timed_out")


def test_the_answer_comes_although_its_worker_was_killed(here: Service, api: Client) -> None:
    with started("workers.vision", here, "killed", env=SLOW) as killed:
        job = api.submit(LONG)
        api.reaches(job["id"], "running")
        killed.send("killed", signal.SIGKILL)
    with started("workers.vision", here):
        ended = api.ended(job["id"])
    assert (ended["state"], ended["attempt"]) == ("succeeded", 2)


def test_a_stream_is_reset_when_a_new_attempt_begins(here: Service, api: Client) -> None:
    with ExitStack() as workers:
        killed = workers.enter_context(started("workers.vision", here, "killed", env=SLOW))
        job = api.submit(LONG)
        text, names = "", []
        with api.http.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
            for _, name, data in events(answer):
                names.append(name)
                text = {"delta": text + data.get("text", ""), "reset": ""}.get(name, text)
                if names.count("delta") == 1 and name == "delta":
                    killed.send("killed", signal.SIGKILL)
                    workers.close()
                    workers.enter_context(started("workers.vision", here))
    assert "reset" in names
    assert text == api.job(job["id"])["output"]["text"]


def test_a_frozen_worker_that_thaws_cannot_overwrite_the_answer(here: Service, api: Client) -> None:
    slow = SLOW | {"TILEQ_WORKER_NAME": "frozen", "TILEQ_SLOTS": "1"}
    with started("workers.vision", here, "frozen", env=slow) as frozen:
        job = api.submit(LONG)
        api.reaches(job["id"], "running")
        frozen.send("frozen", signal.SIGSTOP)
        with started("workers.vision", here, "other"):
            ended = api.ended(job["id"])
        frozen.send("frozen", signal.SIGCONT)
        after = api.ended(api.submit("A later one.")["id"])
        assert here.record(after["id"])["owner"] == "frozen"  # its only slot is free: it is done with the first one
    assert after["state"] == "succeeded"
    assert (ended["state"], ended["attempt"]) == ("succeeded", 2)
    assert api.job(job["id"]) == ended


def test_a_worker_asked_to_stop_gives_its_job_back_uncharged(here: Service, api: Client) -> None:
    grace = {"TILEQ_SHUTDOWN_GRACE": "0.2"}
    with started("workers.vision", here, "leaving", env=SLOW | grace) as leaving:
        job = api.submit(LONG)
        api.reaches(job["id"], "running")
        leaving.send("leaving", signal.SIGTERM)
        api.reaches(job["id"], "queued")
    with started("workers.vision", here):
        ended = api.ended(job["id"])
    assert (ended["state"], ended["attempt"]) == ("succeeded", 1)


def test_intake_and_reconciler_may_die_without_losing_a_job(here: Service, api: Client) -> None:
    ids = [api.submit(f"Before {n}")["id"] for n in range(5)]
    here.send("intake", signal.SIGKILL)
    here.send("reconciler", signal.SIGKILL)
    with started("workers.vision", here):
        eventually(lambda: _up(here), 40)
        assert {api.ended(id)["state"] for id in ids} == {"succeeded"}


def _up(here: Service) -> bool:
    try:
        return httpx.get(f"{here.url}/readyz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
