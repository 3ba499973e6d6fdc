"""Ids."""

import time

import pytest

from shared.ids import created_at, is_id, is_message_id, new_id
from tests.message_ids import message_id


def test_ids_are_unique_carry_no_dot_and_tell_their_kind() -> None:
    ids = {new_id("job") for _ in range(1000)}
    assert len(ids) == 1000
    assert all(is_id("job", id) and "." not in id for id in ids)
    assert not is_id("batch", new_id("job"))


def test_ids_sort_by_the_time_they_were_made() -> None:
    before = time.time()
    id = new_id("job")
    assert before - 0.001 <= created_at(id) <= time.time()
    earlier = "job_" + "0" * 36
    assert earlier < id
    assert created_at(earlier) == 0


@pytest.mark.parametrize(
    "text", ["", "job_", "job_../x", "JOB_" + "0" * 36, "job_" + "0" * 37, "job_" + "0" * 35, "job_" + "u" * 36]
)
def test_nothing_else_passes_for_an_id(text: str) -> None:
    assert not is_id("job", text)


def test_a_webhook_id_is_the_same_for_every_attempt_and_differs_by_event() -> None:
    id = new_id("job")
    assert message_id(id, "succeeded") == message_id(id, "succeeded") != message_id(id, "started")
    assert is_message_id(message_id(id, "succeeded"))
    assert is_message_id(new_id("msg"))
    assert not is_message_id("msg_x")
