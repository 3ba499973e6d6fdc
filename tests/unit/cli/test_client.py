"""The client repeats what can be repeated, and tells once what can't."""

import json
import threading
import time

import httpx
import pytest

from services.cli.client import ApiClient, ImageFile
from services.cli.errors import ApiError, ServiceUnreachable
from tests.unit.cli.scripted_service import JOB, Service, job, problem, stream

EVENTS = f"/v1/jobs/{JOB}/events"


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waiting costs nothing; how long it would have been is kept, and the clock goes on by it."""
    naps: list[float] = []
    own, other = threading.get_ident(), threading.Event()
    monkeypatch.setattr(time, "sleep", lambda s: naps.append(s) if threading.get_ident() == own else other.wait(s))
    monkeypatch.setattr(time, "monotonic", lambda: sum(naps))
    return naps


def api(service: Service) -> ApiClient:
    return ApiClient("http://tileq.test", "tq_key", transport=service)


def test_a_submission_whose_answer_was_lost_is_repeated_under_the_same_key() -> None:
    service = Service({"/v1/jobs": [httpx.ReadError("reset"), httpx.Response(202, json=job("queued"))]})
    with api(service) as asking:
        taken = asking.submit({"prompt": "What?"}, [ImageFile("a.jpg", b"\xff\xd8")])
    assert taken["id"] == JOB
    first, second = service.asked
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.headers["authorization"] == "Bearer tq_key"
    for request in (first, second):
        assert b'{"prompt": "What?"}' in request.content
        assert b'filename="a.jpg"' in request.content


def test_two_submissions_have_two_keys() -> None:
    service = Service({"/v1/jobs": [lambda _: httpx.Response(202, json=job("queued"))]})
    with api(service) as asking:
        asking.submit({"prompt": "What?"})
        asking.submit({"prompt": "What?"})
    assert len({request.headers["idempotency-key"] for request in service.asked}) == 2


def test_retry_after_is_obeyed(slept: list[float]) -> None:
    busy = problem(503, "overloaded", retry_after=7, retryable=True)
    service = Service({"/v1/jobs": [busy, httpx.Response(202, json=job("queued"))]})
    with api(service) as asking:
        asking.submit({"prompt": "What?"})
    assert slept == [7]


def test_patience_ends(slept: list[float]) -> None:
    service = Service({"/v1/jobs": [problem(503, "overloaded", retry_after=7, retryable=True)]})
    with api(service) as asking, pytest.raises(ApiError, match="overloaded"):
        asking.submit({"prompt": "What?"})
    assert sum(slept) <= 30


def test_a_refusal_is_told_at_once_and_names_the_culprit() -> None:
    refusal = problem(422, "undecodable_image", image=1, request_id="r1")
    service = Service({"/v1/jobs": [refusal]})
    with api(service) as asking, pytest.raises(ApiError) as caught:
        asking.submit({"prompt": "What?"})
    assert str(caught.value) == "undecodable_image: undecodable_image it is (image 1, request r1)"
    assert len(service.asked) == 1


def test_a_service_that_was_never_there_is_not_waited_for(slept: list[float]) -> None:
    service = Service({"/v1/jobs": [httpx.ConnectError("refused")]})
    with api(service) as asking, pytest.raises(ServiceUnreachable, match="tileq up"):
        asking.submit({"prompt": "What?"})
    assert slept == []


def test_a_service_that_goes_away_for_a_moment_is_waited_for() -> None:
    path = f"/v1/jobs/{JOB}"
    running, ended = (httpx.Response(200, json=job(state)) for state in ("running", "succeeded"))
    with api(Service({path: [running, httpx.ConnectError("refused"), ended]})) as asking:
        assert asking.wait(JOB)["state"] == "succeeded"


def test_what_is_no_tileq_says_so() -> None:
    service = Service({"/v1/models": [httpx.Response(404, text="<h1>nginx</h1>")]})
    with api(service) as asking, pytest.raises(ApiError, match="is this a tileq service"):
        asking.get("/v1/models")


def test_waiting_gives_up_in_time(slept: list[float]) -> None:
    def later(request: httpx.Request) -> httpx.Response:
        slept.append(float(request.url.params["wait"]))
        return httpx.Response(200, json=job("running"))

    with api(Service({f"/v1/jobs/{JOB}": [later]})) as asking:
        assert asking.wait(JOB, timeout=40)["state"] == "running"
    assert slept == [30, 10]


def test_a_broken_stream_goes_on_where_it_broke() -> None:
    first = stream(("1-0/1", "state", job("running")), ("2-0/2", "delta", {"text": "A "}), broken=True)
    second = stream(("3-0/1", "delta", {"text": "cup."}), ("3-0/2", "end", job()))
    service = Service({EVENTS: [first, httpx.ConnectError("refused"), second]})
    with api(service) as asking:
        happened = list(asking.follow(JOB))
    assert [event.kind for event in happened] == ["state", "delta", "delta", "end"]
    assert "".join(event.data["text"] for event in happened if event.kind == "delta") == "A cup."
    assert [request.headers.get("last-event-id") for request in service.to(EVENTS)] == [None, "2-0/2", "2-0/2"]


def test_a_stream_that_only_closes_is_opened_again() -> None:
    service = Service({EVENTS: [stream(("1-0/1", "state", job("running"))), stream(("1-0/2", "end", job()))]})
    with api(service) as asking:
        assert [event.kind for event in asking.follow(JOB)] == ["state", "end"]


def test_a_stream_that_never_says_anything_is_given_up() -> None:
    with (
        api(Service({EVENTS: [lambda _: stream()]})) as asking,
        pytest.raises(ServiceUnreachable, match="keeps closing the event stream"),
    ):
        list(asking.follow(JOB))


def test_with_no_room_for_another_stream_the_job_is_polled() -> None:
    service = Service({EVENTS: [problem(503, "overloaded")], f"/v1/jobs/{JOB}": [httpx.Response(200, json=job())]})
    with api(service) as asking:
        assert [event.kind for event in asking.follow(JOB)] == ["end"]


def test_the_stream_of_an_unknown_job_is_not_opened_again() -> None:
    service = Service({EVENTS: [problem(404, "not_found")]})
    with api(service) as asking, pytest.raises(ApiError, match="not_found"):
        list(asking.follow(JOB))
    assert len(service.asked) == 1


def test_pages_are_turned_until_there_are_enough() -> None:
    def page(request: httpx.Request) -> httpx.Response:
        start = int(request.url.params.get("after", 0))
        count = int(request.url.params["limit"])
        data = [{"n": n} for n in range(start, start + count)]
        return httpx.Response(200, json={"data": data, "next": str(start + count)})

    service = Service({"/v1/jobs": [page]})
    with api(service) as asking:
        assert [entry["n"] for entry in asking.pages("/v1/jobs", 230, state="failed")] == list(range(230))
    assert [dict(request.url.params)["limit"] for request in service.asked] == ["100", "100", "30"]
    assert {dict(request.url.params)["state"] for request in service.asked} == {"failed"}


def test_every_bad_item_of_a_batch_is_a_line() -> None:
    errors = [{"index": 0, "detail": "no prompt"}, {"index": 2, "detail": "no image"}]
    refused = Service({"/v1/batches": [problem(422, "invalid_field", errors=errors)]})
    with api(refused) as asking, pytest.raises(ApiError) as caught:
        asking.post("/v1/batches", json.loads("{}"))
    assert str(caught.value).splitlines()[1:] == ["  - no prompt", "  - no image"]
