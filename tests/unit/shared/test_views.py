"""What the API shows of a job."""

from dataclasses import replace

from shared.ids import new_id
from shared.jobs import Job, State
from shared.views import job_view, moment

JOB = Job(id=new_id("job"), tenant="acme", model="m", created=1795000000.0005, position=4)


def test_moments_are_rfc_3339_in_utc_with_milliseconds() -> None:
    assert moment(1795000000.1234) == "2026-11-18T11:06:40.123Z"
    assert moment(0) is None


def test_a_queued_job_has_a_position_and_no_progress() -> None:
    view = job_view(JOB)
    assert (view["queue_position"], view["progress"], view["output"], view["started_at"]) == (4, None, None, None)
    assert view["webhook"]["state"] == "none"


def test_an_output_shows_only_once_the_job_succeeded() -> None:
    running = replace(JOB, state=State.RUNNING, attempt=1, output={"text": "half"})
    assert job_view(running)["output"] is None
    assert job_view(running)["progress"]["stage"] == "fetch"
    done = replace(running, state=State.SUCCEEDED)
    assert job_view(done)["output"] == {"text": "half"}
    assert job_view(done, {"text": "large"})["output"] == {"text": "large"}


def test_a_released_claim_does_not_show_as_an_attempt() -> None:
    assert job_view(replace(JOB, attempt=1, released=1))["attempt"] == 0


def test_the_tenant_and_the_lease_are_nobodys_business() -> None:
    assert not {"tenant", "owner", "request", "idem"} & set(job_view(JOB))
