"""What a person types, what is sent for it, what is printed, and the exit status."""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.cli import ask, jobs
from services.cli.client import ApiClient
from services.cli.main import main
from tests.unit.cli.scripted_service import JOB, Service, job, problem, stream


@dataclass
class Ran:
    """How a command went."""

    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `tileq` with these words against this service."""

    def act(service: Service, *words: str) -> Ran:
        for module in (ask, jobs):
            monkeypatch.setattr(module, "api", lambda url: ApiClient(url, transport=service))
        monkeypatch.setattr(sys, "argv", ["tileq", *words])
        try:
            main()
            status = 0
        except SystemExit as exit:
            status = int(exit.code or 0)
        return Ran(status, *capsys.readouterr())

    return act


def asked(service: Service) -> dict[str, Any]:
    """The JSON part of a multipart submission."""
    body = service.to("/v1/jobs")[0].content
    _, _, rest = body.partition(b'name="request"')
    sent: dict[str, Any] = json.loads(rest.partition(b"\r\n\r\n")[2].partition(b"\r\n--")[0])
    return sent


def taking(*events: tuple[str, str, Any], **more: Any) -> Service:
    return Service(
        {
            "/v1/jobs": [httpx.Response(202, json=job("queued", **more))],
            f"/v1/jobs/{JOB}/events": [stream(*events)],
        }
    )


def picture(folder: Path) -> str:
    path = folder / "a.jpg"
    path.write_bytes(b"\xff\xd8picture")
    return str(path)


def test_ask_prints_the_answer_alone_on_stdout(run: Run, tmp_path: Path) -> None:
    service = taking(
        ("1-0/1", "state", job("running")), ("2-0/1", "delta", {"text": "A cup."}), ("2-0/2", "end", job())
    )
    ran = run(service, "ask", picture(tmp_path), "What is it?")
    assert (ran.status, ran.out) == (0, "A cup.\n")
    assert f"{JOB} accepted" in ran.err
    assert "running" in ran.err
    assert asked(service) == {"prompt": "What is it?"}
    assert b"\xff\xd8picture" in service.to("/v1/jobs")[0].content


def test_ask_sends_what_the_options_say(run: Run, tmp_path: Path) -> None:
    service = taking(("1-0/1", "end", job()))
    words = "--tiles 12,1 --max-new-tokens 9 --seed 3 --stop END --webhook https://a.test/h --metadata order=4711"
    ran = run(service, "ask", picture(tmp_path), picture(tmp_path), "Differs?", *words.split(), "--no-thumbnail")
    assert ran.status == 0
    assert asked(service) == {
        "prompt": "Differs?",
        "tiles": [12, 1],
        "thumbnail": False,
        "generation": {"max_new_tokens": 9, "seed": 3, "stop": ["END"]},
        "webhook": {"url": "https://a.test/h"},
        "metadata": {"order": "4711"},
    }


def test_a_picture_comes_from_stdin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x89PNG picture")))
    service = taking(("1-0/1", "end", job()))
    assert run(service, "ask", "-", "What is it?").status == 0
    assert b"\x89PNG picture" in service.to("/v1/jobs")[0].content


def test_json_is_the_job_and_nothing_else(run: Run) -> None:
    ran = run(taking(("1-0/1", "end", job())), "ask", "Hello?", "--json")
    assert json.loads(ran.out)["output"]["text"] == "A cup."


def test_a_failed_job_exits_1_and_says_why(run: Run) -> None:
    error = {"code": "worker_lost", "message": "lost three times", "retryable": True, "image": None}
    ran = run(taking(("1-0/1", "end", job("failed", error=error))), "ask", "Hello?")
    assert ran.status == 1
    assert ran.out == ""
    assert ran.err.splitlines()[-1] == f"tileq: {JOB} failed: worker_lost: lost three times"


def test_submit_prints_the_id_alone(run: Run) -> None:
    assert run(taking(), "submit", "Hello?").out == f"{JOB}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ask", "missing.jpg", "What?"], "can't read the image file missing.jpg"),
        (["ask", "missing.jpg"], "the question is missing"),
        (["ask", "Hello?", "--tiles", "many"], "--tiles takes"),
        (["ask", "Hello?", "--metadata", "order"], "KEY=VALUE"),
        (["status", "job_x"], "is not a job id"),
        (["ask"], "Missing argument"),
        (["fly"], "No such command"),
    ],
)
def test_a_wrong_command_line_exits_2_and_asks_nobody(run: Run, words: list[str], says: str) -> None:
    service = Service({})
    ran = run(service, *words)
    assert ran.status == 2
    assert says in " ".join(ran.err.replace("│", " ").split())
    assert service.asked == []


def test_an_error_of_the_service_is_one_line_and_exits_1(run: Run) -> None:
    ran = run(Service({f"/v1/jobs/{JOB}": [problem(404, "not_found")]}), "status", JOB)
    assert (ran.status, ran.out, ran.err) == (1, "", "tileq: not_found: not_found it is\n")


def test_a_service_that_is_not_there_says_how_to_start_one(run: Run) -> None:
    ran = run(Service({"/v1/jobs": [httpx.ConnectError("refused")]}), "jobs")
    assert ran.status == 1
    assert "tileq up" in ran.err


def test_status_shows_a_job(run: Run) -> None:
    image = {"media_type": "image/png", "bytes": 1, "width": 9, "height": 6, "sha256": "", "grid": [3, 2], "tiles": 7}
    ran = run(Service({f"/v1/jobs/{JOB}": [httpx.Response(200, json=job(images=[image]))]}), "status", JOB)
    assert "image/png 9x6, 3x2 grid, 7 tiles" in ran.out
    assert "A cup." in ran.out


def test_wait_says_when_the_job_has_not_ended(run: Run) -> None:
    service = Service({f"/v1/jobs/{JOB}": [httpx.Response(200, json=job("queued"))]})
    ran = run(service, "wait", JOB, "--timeout", "0")
    assert ran.status == 1
    assert "has not ended after 0 s: queued, 2 ahead" in ran.err


def test_cancel_tells_the_outcome(run: Run) -> None:
    answer = httpx.Response(200, json={"outcome": "cancelling", "job": job("running")})
    assert run(Service({f"/v1/jobs/{JOB}/cancel": [answer]}), "cancel", JOB).out == f"{JOB} cancelling\n"


def test_jobs_are_a_table_or_json_lines(run: Run) -> None:
    def page(request: httpx.Request) -> httpx.Response:
        assert request.url.params["metadata.order"] == "4711"
        return httpx.Response(200, json={"data": [job()], "next": None})

    words = ("jobs", "--metadata", "order=4711")
    assert JOB in run(Service({"/v1/jobs": [page]}), *words).out
    lines = run(Service({"/v1/jobs": [page]}), *words, "--json").out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [JOB]


def test_deliveries_show_every_attempt(run: Run) -> None:
    attempts = [
        {"at": "2026-11-23T20:00:02.000Z", "status": 500, "seconds": 0.1, "error": "answered 500", "answer": ""}
    ]
    message = {
        "id": "msg_x_succeeded",
        "type": "job.succeeded",
        "state": "pending",
        "url": "https://a.test/h",
        "created_at": "2026-11-23T20:00:01.000Z",
        "next_at": "2026-11-23T20:00:07.000Z",
        "attempts": attempts,
    }
    ran = run(
        Service({f"/v1/jobs/{JOB}/deliveries": [httpx.Response(200, json={"data": [message]})]}), "deliveries", JOB
    )
    assert "answered 500" in ran.out
    assert "next attempt at 2026-11-23T20:00:07.000Z" in ran.out


def test_what_a_model_writes_cannot_steer_the_terminal(run: Run) -> None:
    nasty = "\x1b]0;owned\x07\x1b[2J\x9b31mred"
    ran = run(Service({f"/v1/jobs/{JOB}": [httpx.Response(200, json=job(metadata={"note": nasty}))]}), "status", JOB)
    assert not {"\x1b", "\x07", "\x9b"} & set(ran.out)
    assert "]0;owned" in ran.out
