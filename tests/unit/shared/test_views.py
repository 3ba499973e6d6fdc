"""What the API shows of a job."""

import json
from dataclasses import replace

import pytest

from shared.ids import new_id
from shared.jobs import Job, State
from shared.records import JobOutput
from shared.views import WebhookEvent, job_body, moment
from shared.webhooks import signing

HALF = JobOutput(text="half", finish_reason="length")
LARGE = JobOutput(text="large", finish_reason="stop")
JOB = Job(id=new_id("job"), tenant="acme", model="m", created=1795000000.0005, position=4)


def test_moments_are_rfc_3339_in_utc_with_milliseconds() -> None:
    assert moment(1795000000.1234) == "2026-11-18T11:06:40.123Z"
    assert moment(0) is None


def test_a_queued_job_has_a_position_and_no_progress() -> None:
    view = job_body(JOB)
    assert (view.queue_position, view.progress, view.output, view.started_at) == (4, None, None, None)
    assert view.webhook.state == "none"


def test_an_output_shows_only_once_the_job_succeeded() -> None:
    running = replace(JOB, state=State.RUNNING, attempt=1, output=HALF)
    assert job_body(running).output is None
    assert _stage(running) == "fetch"
    done = replace(running, state=State.SUCCEEDED)
    assert job_body(done).output == HALF
    assert job_body(done, LARGE).output == LARGE


def test_a_released_claim_does_not_show_as_an_attempt() -> None:
    assert job_body(replace(JOB, attempt=1, released=1)).attempt == 0


def test_a_body_holds_neither_tenant_nor_lease_nor_request() -> None:
    assert not {"tenant", "owner", "request", "idem"} & set(job_body(JOB).model_dump())


def test_a_large_output_is_said_to_be_left_out() -> None:
    done = replace(JOB, state=State.SUCCEEDED)
    assert (job_body(done).output_omitted, job_body(done, LARGE).output_omitted, job_body(JOB).output_omitted) == (
        True,
        False,
        False,
    )
    lost = job_body(done, result_lost=True)
    assert (lost.output_omitted, lost.error and lost.error.code) == (False, "result_lost")


def _stage(job: Job) -> str | None:
    progress = job_body(job).progress
    return progress.stage if progress else None


@pytest.mark.parametrize(("payload", "limit"), [("full", 10_000), ("full", 10), ("thin", 10_000)])
def test_the_body_of_a_webhook_is_a_documented_event(payload: str, limit: int) -> None:
    data = job_body(replace(JOB, expires=1795600000.0)).model_dump()
    envelope = {"type": "job.started", "timestamp": "2026-11-18T11:06:40.000Z", "sequence": 1}
    body = signing.body(envelope, data, payload, limit)
    event = WebhookEvent.model_validate_json(body, strict=True)
    assert event.model_dump(exclude_unset=True) == json.loads(body)
