"""What an answer means, without HTTP and without a store."""

from email.utils import formatdate
from typing import Any

import pytest

from shared.settings.webhooks import WEBHOOK_SCHEDULE
from workers.webhooks.schedule import Decision, decide, parse_retry_after, window

NOW = 1_795_000_000.0


def decision(**changes: Any) -> Decision:
    facts = {"attempts_in_schedule": 0, "age": 0, "status": 500, "retry_after": 0, "single_shot": False, "jitter": 0}
    return decide(**{**facts, "schedule": WEBHOOK_SCHEDULE, **changes})


@pytest.mark.parametrize("status", [200, 201, 202, 204, 205, 299])
def test_any_2xx_is_success(status: int) -> None:
    assert decision(status=status) == Decision("delivered", healthy=True)


@pytest.mark.parametrize(
    "status", [None, 100, 101, 199, 301, 302, 304, 307, 308, 400, 401, 404, 413, 429, 500, 503, 999]
)
def test_anything_else_is_tried_again(status: int | None) -> None:
    assert decision(status=status).outcome == "again"


def test_410_stops() -> None:
    assert decision(status=410) == Decision("failed", healthy=True)


def test_a_test_is_tried_once() -> None:
    assert decision(status=500, single_shot=True).outcome == "failed"
    assert decision(status=204, single_shot=True).outcome == "delivered"


def test_attempts_follow_the_schedule_and_then_end() -> None:
    waits = [decision(attempts_in_schedule=tried).delay for tried in range(len(WEBHOOK_SCHEDULE))]
    assert tuple(waits) == WEBHOOK_SCHEDULE
    assert decision(attempts_in_schedule=len(WEBHOOK_SCHEDULE)) == Decision("failed", healthy=True)
    assert decision(attempts_in_schedule=10_000).outcome == "failed"


def test_a_message_that_waited_past_its_window_is_not_put_off_once_more() -> None:
    assert decision(age=window(WEBHOOK_SCHEDULE) - 1).outcome == "again"
    assert decision(age=window(WEBHOOK_SCHEDULE) + 1).outcome == "failed"
    assert decision(age=window(WEBHOOK_SCHEDULE) + 1, status=200).outcome == "delivered"


@pytest.mark.parametrize(
    ("asked", "waited"), [(0, 300), (299, 300), (300, 300), (450, 450), (600, 600), (601, 600), (10**9, 600)]
)
def test_retry_after_may_double_the_plan_and_never_shortens_it(asked: float, waited: float) -> None:
    assert decision(attempts_in_schedule=1, status=429, retry_after=asked).delay == waited


def test_jitter_adds_at_most_a_tenth_of_the_plan() -> None:
    assert decision(attempts_in_schedule=1, jitter=1).delay == 330
    assert decision(attempts_in_schedule=1, jitter=1, retry_after=10**9).delay <= 2.1 * 300


@pytest.mark.parametrize(
    ("status", "healthy"),
    [(None, False), (429, False), (502, False), (503, False), (504, False), (404, True), (500, True)],
)
def test_silence_and_strain_count_against_a_host_and_other_refusals_do_not(status: int | None, healthy: bool) -> None:
    assert decision(status=status).healthy is healthy


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 0),
        ("0", 0),
        ("-1", 0),
        ("120", 120),
        (" 120 ", 120),
        ("1.5", 0),
        ("1e9", 0),
        ("10 minutes", 0),
        ("١٢", 0),  # digits, but not HTTP's
        ("soon", 0),
        ("1000000000", 10**9),
        (formatdate(NOW + 90, usegmt=True), 90),
        (formatdate(NOW - 90, usegmt=True), 0),
        ("Wed, 32 Foo 2026 99:99:99 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 251_607_300_799),
        ("\x00", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_garbage_is_nothing(header: str, seconds: float) -> None:
    assert parse_retry_after(header, NOW) == pytest.approx(seconds, rel=0.1)


def test_a_retry_after_of_many_digits_is_only_long() -> None:
    assert parse_retry_after("9" * 5000, NOW) > 10**9
