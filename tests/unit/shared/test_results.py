"""The result object is written and read in one form."""

import json

import pytest

from shared.records import JobOutput
from shared.results import MAX_INLINE_OUTPUT_BYTES, StoredResult
from tests.results import stored_result


def test_a_result_is_read_back_as_it_was_written() -> None:
    assert StoredResult.from_bytes(stored_result("你好").to_bytes()) == stored_result("你好")


def test_a_result_is_plain_json_in_utf_8() -> None:
    stored = json.loads(stored_result("é").to_bytes().decode())
    assert {**stored, "timings": {k: v for k, v in stored["timings"].items() if v is not None}} == {
        "state": "succeeded",
        "output": {"text": "é", "finish_reason": "stop"},
        "usage": {"prompt_tokens": 9, "image_tokens": 5, "cached_tokens": 0, "completion_tokens": 2},
        "timings": {"total": 1.5, "queue": 0.1},
        "attempt": 1,
        "ended_at": "2026-11-18T11:06:40.000Z",
    }


def test_fields_of_a_newer_version_are_passed_over() -> None:
    newer = json.loads(stored_result().to_bytes()) | {"warnings": ["new"]}
    assert StoredResult.from_bytes(json.dumps(newer).encode()) == stored_result()


def test_an_unreadable_result_is_refused_without_its_text() -> None:
    broken = stored_result("a secret").to_bytes().replace(b'"finish_reason":"stop"', b'"finish_reason":1')
    with pytest.raises(ValueError, match="finish_reason") as raised:
        StoredResult.from_bytes(broken)
    assert "secret" not in str(raised.value)


def test_the_record_keeps_a_copy_of_a_small_output_only() -> None:
    small = stored_result().job_fields("key")
    assert small["output"] == JobOutput(text="A sign.", finish_reason="stop")
    assert (small["result"], small["usage"].prompt_tokens, small["timings"].total) == ("key", 9, 1.5)
    assert stored_result("é" * (MAX_INLINE_OUTPUT_BYTES // 2)).job_fields("key")["output"] is None
