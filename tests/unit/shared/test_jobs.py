"""The job record."""

import json
from dataclasses import replace

from shared.ids import new_id
from shared.jobs import TRANSITIONS, Job, State
from shared.records import JobError, JobImage, JobOutput, StageTimings, TokenUsage, WebhookTarget

JOB = Job(id=new_id("job"), tenant="acme", model="m")


def test_a_record_reads_back_as_the_same_job() -> None:
    full = replace(
        JOB,
        state=State.SUCCEEDED,
        priority=0,
        attempt=3,
        cancel=True,
        created=1795000000.123456,
        images=[JobImage(media_type="image/png", bytes=9, width=4, height=3, sha256="ab", grid=[4, 3], tiles=13)],
        webhook=WebhookTarget(url="https://example.org", host="example.org:443", events=["job.failed"]),
        metadata={"bestellung": "4711 – größer"},
        output=JobOutput(text="“quoted”\n\u2028", finish_reason="stop"),
        usage=TokenUsage(prompt_tokens=3365),
        timings=StageTimings(total=1.77),
        error=JobError(code="internal", message="größer"),
    )
    assert Job.from_hash(full.to_hash()) == full
    assert Job.from_hash(JOB.to_hash()) == JOB


def test_fields_of_a_newer_version_are_passed_over() -> None:
    assert Job.from_hash(JOB.to_hash() | {"from_the_future": "x"}) == JOB
    usage = {"prompt_tokens": 1, "tokens_of_tomorrow": 2}
    assert Job.from_hash(JOB.to_hash() | {"usage": json.dumps(usage)}).usage == TokenUsage(prompt_tokens=1)


def test_a_released_claim_is_not_charged() -> None:
    assert replace(JOB, attempt=3, released=1).charged == 2


def test_terminal_states_have_no_way_out_and_open_ones_do() -> None:
    assert all(bool(TRANSITIONS[state]) is not state.terminal for state in State)
