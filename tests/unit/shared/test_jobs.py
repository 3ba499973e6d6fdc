"""The job record."""

from dataclasses import replace

from shared.ids import new_id
from shared.jobs import TRANSITIONS, Job, State

JOB = Job(id=new_id("job"), tenant="acme", model="m")


def test_a_record_reads_back_as_the_same_job() -> None:
    full = replace(
        JOB,
        state=State.SUCCEEDED,
        priority=0,
        attempt=3,
        cancel=True,
        created=1795000000.123456,
        images=[{"grid": [4, 3]}],
        webhook={"url": "https://example.org"},
        metadata={"bestellung": "4711 – größer"},
        output={"text": "“quoted”\n\u2028"},
        usage={"prompt_tokens": 3365},
        timings={"total": 1.77},
        error={"code": "internal"},
    )
    assert Job.from_hash(full.to_hash()) == full
    assert Job.from_hash(JOB.to_hash()) == JOB


def test_fields_of_a_newer_version_are_passed_over() -> None:
    assert Job.from_hash(JOB.to_hash() | {"from_the_future": "x"}) == JOB


def test_a_released_claim_is_not_charged() -> None:
    assert replace(JOB, attempt=3, released=1).charged == 2


def test_terminal_states_have_no_way_out_and_open_ones_do() -> None:
    assert all(bool(TRANSITIONS[state]) is not state.terminal for state in State)
