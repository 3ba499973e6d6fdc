"""What only a process on real servers shows."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.cli.local.ports import free_ports
from services.cli.local.supervisor import supervised
from services.cli.local.valkey import valkey
from services.intake.submission.idempotency import LEASE_S
from shared.events import TextDelta, stream_key
from shared.jobs import State
from shared.s3_storage import S3Storage
from shared.settings.roles import Settings
from shared.store import transitions
from tests.integration.intake.conftest import Process, started
from tests.unit.intake.image_files import bomb, gif, picture
from tests.waiting import eventually

pytestmark = pytest.mark.integration

JPEG = picture("JPEG", (1280, 960))
KEY = {"Idempotency-Key": "K"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
HEAD = b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
OPEN = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'


def submit(http: httpx.Client, *images: bytes, **headers: str) -> httpx.Response:
    files: list[Any] = [("request", ("", json.dumps({"prompt": "What is it?"})))]
    return http.post("/v1/jobs", files=files + [("image", image) for image in images], headers=headers)


def claim(intake: Process) -> Any:
    job = intake.store.run(transitions.claim("tileq-demo", "worker", 60)).value
    assert job
    return job


def succeed(intake: Process, job: Any, text: str) -> None:
    output = {"output": {"text": text, "finish_reason": "stop"}}
    intake.store.run(transitions.finish(job.id, job.attempt, State.SUCCEEDED, output))


class TestWay:
    """From submission to the end."""

    def test_a_picture_goes_in_and_comes_out(self, intake: Process) -> None:
        with intake.client() as http:
            answer = submit(http, JPEG)
            assert answer.status_code == 202, answer.text
            id = answer.json()["id"]
            assert http.get(f"/v1/jobs/{id}/images/0").content == JPEG
            job = claim(intake)
            assert (job.id, job.images[0].grid) == (id, [4, 3])
            succeed(intake, job, "A square.")
            assert http.get(f"/v1/jobs/{id}/result").json()["text"] == "A square."
            assert http.delete(f"/v1/jobs/{id}").status_code == 204
            assert http.get(f"/v1/jobs/{id}").status_code == 404

    def test_who_waits_is_answered_at_the_end(self, intake: Process) -> None:
        with intake.client() as http, ThreadPoolExecutor() as pool:
            id = submit(http).json()["id"]
            waiting = pool.submit(lambda: httpx.get(f"{intake.url}/v1/jobs/{id}?wait=30", timeout=40))
            succeed(intake, claim(intake), "Done.")
            assert waiting.result().json()["output"]["text"] == "Done."

    def test_text_is_streamed_as_it_comes(self, intake: Process) -> None:
        with intake.client() as http:
            id = submit(http).json()["id"]
            job = claim(intake)
            with http.stream("GET", f"/v1/jobs/{id}/events") as line:
                events = _events(line)
                assert next(events)[0] == "state"
                for offset, text in ((0, "A "), (2, "square.")):
                    fields: Any = TextDelta(job.attempt, offset, text).fields()
                    intake.store.client.xadd(stream_key(intake.store.prefix, id), fields)
                    assert _next(events, "delta") == {"text": text}
                succeed(intake, job, "A square.")
                assert _next(events, "end")["output"]["text"] == "A square."

    def test_a_made_up_position_harms_no_other_stream(self, intake: Process) -> None:
        with intake.client(timeout=10) as http, ExitStack() as lines:
            id = submit(http).json()["id"]
            job = claim(intake)
            held = []
            for position in (f"{2**64}-0/1", f"{2**64 - 1}-{2**64 - 1}/1", "0-1/1"):
                other = submit(http).json()["id"]  # each alone on its job, so that its position is the one that is read
                line = http.stream("GET", f"/v1/jobs/{other}/events", headers={"Last-Event-ID": position})
                held.append(_events(lines.enter_context(line)))  # which keeps it open
                _next(held[-1], "state")
            events = _events(lines.enter_context(http.stream("GET", f"/v1/jobs/{id}/events")))
            _next(events, "state")
            fields: Any = TextDelta(job.attempt, 0, "A square.").fields()
            intake.store.client.xadd(stream_key(intake.store.prefix, id), fields)
            assert _next(events, "delta") == {"text": "A square."}
            succeed(intake, job, "A square.")
            _next(events, "end")

    def test_many_lines_at_once(self, environment: Mapping[str, str], tmp_path: Path) -> None:
        (port,) = free_ports(1)
        with (
            started(environment, tmp_path, TILEQ_METRICS_PORT=str(port)) as intake,
            intake.client() as http,
            ThreadPoolExecutor(80) as pool,
        ):
            id = submit(http).json()["id"]
            lines = [
                pool.submit(lambda: httpx.get(f"{intake.url}/v1/jobs/{id}/events", timeout=30).text) for _ in range(80)
            ]
            eventually(lambda: metric(port, "tileq_event_streams") == 80)
            assert http.get("/readyz").status_code == 200
            succeed(intake, claim(intake), "Done.")
            assert all("event: end" in line.result() for line in lines)

    def test_a_hundred_at_once_with_one_key_are_one_job(self, intake: Process) -> None:
        def post(_: int) -> httpx.Response:
            with intake.client() as http:
                return submit(http, JPEG, **{"Idempotency-Key": "K"})

        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(post, range(100)))
        assert {answer.status_code for answer in answers} <= {202, 409}
        assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1

    def test_a_bomb_is_refused_and_a_film_is_its_first_frame_at_no_cost(self, intake: Process) -> None:
        with intake.client() as http:
            before = intake.resident()
            for image, code in ((bomb(), "image_too_many_pixels"), (b"", "undecodable_image")):
                assert submit(http, image).json()["code"] == code
            film = submit(http, gif(10_000))
            assert (film.status_code, film.json()["images"][0]["width"]) == (202, 1)
            assert intake.resident() - before < 30 << 20


class TestBody:
    """Limits hold on the wire."""

    def test_an_endless_body_is_cut_and_memory_stays_flat(self, intake: Process) -> None:
        def endless() -> Iterator[bytes]:
            yield OPEN
            for _ in range(10_000):
                yield bytes(100_000)

        with intake.client() as http:
            submit(http, JPEG)
            before = intake.resident()
            answer = http.post("/v1/jobs", content=endless(), headers=FORM)
            assert (answer.status_code, answer.json()["code"]) == (413, "image_too_large")
            assert answer.headers["connection"] == "close"
            assert intake.resident() - before < 40 << 20

    def test_a_body_said_to_be_too_long_is_not_read(self, intake: Process) -> None:
        with intake.connect() as line:
            line.sendall(HEAD + b"Content-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n")
            assert _all(line).startswith(b"HTTP/1.1 413 ")

    def test_a_client_that_sends_all_before_it_reads_sees_the_refusal(self, intake: Process) -> None:
        request = urllib.request.Request(
            f"{intake.url}/v1/jobs", data=bytes(200 << 20), headers={"Content-Type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=60)
        assert (caught.value.code, json.loads(caught.value.read())["code"]) == (413, "body_too_large")

    def test_a_silent_body_is_given_up(self, intake: Process) -> None:
        with intake.connect() as line:
            line.sendall(HEAD + b"Content-Length: 50\r\n\r\n{")
            assert b"malformed_request" in _all(line)

    def test_a_body_of_a_byte_a_second_is_given_up(self, intake: Process) -> None:
        with intake.connect() as line:
            line.sendall(HEAD + b"Content-Length: 50\r\n\r\n{")
            stop = threading.Event()

            def drip() -> None:
                while not stop.wait(0.3):
                    try:
                        line.sendall(b" ")
                    except OSError:
                        return

            dripping = threading.Thread(target=drip)
            dripping.start()
            assert b"malformed_request" in _all(line)
            stop.set()
            dripping.join()

    def test_two_lengths_are_refused(self, intake: Process) -> None:
        with intake.connect() as line:
            line.sendall(HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
            assert _all(line).startswith(b"HTTP/1.1 400 ")

    def test_a_client_that_hangs_up_leaves_nothing(self, intake: Process) -> None:
        with intake.connect() as line:
            line.sendall(HEAD + b"Content-Length: 50\r\n\r\n{")
        with intake.client() as http:
            assert http.get("/v1/jobs").json()["data"] == []
        assert "Traceback" not in intake.log.read_text()


class TestConnections:
    """What a load balancer and a probe see."""

    def test_head_of_a_stream_ends_and_leaves_no_trace_in_the_log(self, intake: Process) -> None:
        with intake.client() as http:
            id = submit(http, JPEG).json()["id"]
            for path in (f"/v1/jobs/{id}/events", f"/v1/jobs/{id}/images/0", f"/v1/jobs/{id}", "/healthz", "/readyz"):
                answer = http.head(path)
                assert (answer.status_code, answer.content) == (200, b""), path
            assert http.get(f"/v1/jobs/{id}").status_code == 200
        assert "Traceback" not in intake.log.read_text()

    def test_an_idle_connection_is_closed_when_the_settings_say(
        self, environment: Mapping[str, str], tmp_path: Path
    ) -> None:
        with started(environment, tmp_path, TILEQ_KEEP_ALIVE="1") as intake, intake.connect() as line:
            line.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b'{"status":"ok"}' in _all(line)  # which reads until the connection is closed


class TestServers:
    """When what it stands on is gone."""

    def test_without_storage_it_is_503_in_seconds(self, environment: Mapping[str, str], tmp_path: Path) -> None:
        (nobody,) = free_ports(1)
        more = {"TILEQ_S3_URL": f"http://127.0.0.1:{nobody}"}
        with started(environment, tmp_path, ready="/healthz", **more) as intake, intake.client() as http:
            answer = submit(http, JPEG)
            assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
            assert "retry-after" in answer.headers
            ready = http.get("/readyz")
            assert (ready.status_code, ready.json()["dependencies"]["storage"]["up"]) == (503, False)
            assert http.get("/v1/jobs").json()["data"] == []

    def test_a_frozen_store_is_503_in_seconds_and_nothing_is_lost(
        self, environment: Mapping[str, str], tmp_path: Path
    ) -> None:
        (port,) = free_ports(1)
        program = valkey(tmp_path / "data", port)
        more = {"TILEQ_REDIS_URL": f"redis://127.0.0.1:{port}/0", "TILEQ_REDIS_TIMEOUT": "2"}
        with (
            supervised(tmp_path, [[program]]),
            started(environment, tmp_path, **more) as intake,
            intake.client() as http,
        ):
            pid = int((tmp_path / "run" / "valkey.pid").read_text())
            kept = submit(http).json()["id"]
            os.kill(pid, signal.SIGSTOP)
            answer = submit(http)
            os.kill(pid, signal.SIGCONT)
            assert (answer.status_code, answer.json()["code"]) == (503, "queue_unavailable")
            assert http.get(f"/v1/jobs/{kept}").status_code == 200

    def test_a_full_store_is_503_and_its_objects_are_removed(
        self, environment: Mapping[str, str], tmp_path: Path
    ) -> None:
        (port,) = free_ports(1)
        program = valkey(tmp_path / "data", port)
        more = {"TILEQ_REDIS_URL": f"redis://127.0.0.1:{port}/0", "TILEQ_S3_BUCKET": "full-store"}
        with (
            supervised(tmp_path, [[program]]),
            started(environment, tmp_path, **more) as intake,
            intake.client() as http,
        ):
            objects = S3Storage(Settings(**_fields({**environment, **more})))
            kept = submit(http, JPEG).json()["id"]
            intake.store.client.config_set("maxmemory", "1mb")
            answer = submit(http, JPEG)
            assert (answer.status_code, answer.json()["code"]) == (503, "queue_unavailable")
            assert "certain" not in answer.json()["detail"]
            assert "127.0.0.1" not in answer.text
            intake.store.client.config_set("maxmemory", "0")
            assert [job["id"] for job in http.get("/v1/jobs").json()["data"]] == [kept]
            eventually(lambda: {key.split("/")[1] for key in objects.keys("jobs/")} == {kept})

    def test_a_store_that_syncs_on_demand_is_asked_to(self, environment: Mapping[str, str], tmp_path: Path) -> None:
        (port,) = free_ports(1)
        program = valkey(tmp_path / "data", port)
        more = {"TILEQ_REDIS_URL": f"redis://127.0.0.1:{port}/0"}
        with supervised(tmp_path, [[program]]), started(environment, tmp_path, ready="/healthz", **more) as intake:
            intake.store.client.config_set("appendfsync", "everysec")
            with intake.client() as http:
                eventually(lambda: submit(http).status_code == 202 and waitaof_calls(intake))
            intake.store.client.config_set("appendonly", "no")
            with intake.client() as http:
                eventually(lambda: "append-only" in (_redis(http)["reason"] or ""))
                assert submit(http).json()["code"] == "queue_unavailable"


class TestKilled:
    """When intake itself dies."""

    def test_the_key_of_a_request_it_had_is_free_within_seconds(
        self, environment: Mapping[str, str], tmp_path: Path
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:  # an object storage that never answers
            more = {"TILEQ_S3_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"}
            with started(environment, tmp_path, ready="/healthz", **more) as dying, ThreadPoolExecutor() as pool:
                pool.submit(lambda: httpx.post(f"{dying.url}/v1/jobs", json={"prompt": "?"}, headers=KEY, timeout=30))
                eventually(lambda: dying.store.client.keys(f"{dying.store.prefix}idem:*"))
                dying.stop(signal.SIGKILL)
        with started(environment, tmp_path) as intake, intake.client() as http:
            first = http.post("/v1/jobs", json={"prompt": "?"}, headers=KEY)
            assert first.json()["code"] == "idempotency_in_progress"
            assert 1 <= int(first.headers["retry-after"]) <= LEASE_S
            answer = eventually(
                lambda: (
                    found if (found := http.post("/v1/jobs", json={"prompt": "?"}, headers=KEY)).is_success else None
                ),
                within=LEASE_S + 10,
                every=0.5,
            )
            assert answer.status_code == 202


class TestEnds:
    """How it starts and stops."""

    def test_it_refuses_other_machines_without_keys(self, environment: Mapping[str, str]) -> None:
        variables = {**os.environ, **environment, "TILEQ_HOST": "0.0.0.0", "TILEQ_PORT": "0"}
        done = subprocess.run(
            [sys.executable, "-m", "services.intake"],
            env=variables,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 2
        assert "tileq keys create" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(("name", "value"), [("TILEQ_PORT", "x"), ("TILEQ_API_KEYS", "nonsense")])
    def test_settings_that_are_none_end_with_2(self, environment: Mapping[str, str], name: str, value: str) -> None:
        variables = {**os.environ, **environment, name: value}
        done = subprocess.run(
            [sys.executable, "-m", "services.intake"],
            env=variables,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 2
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_lets_everybody_go(
        self, environment: Mapping[str, str], tmp_path: Path, number: signal.Signals
    ) -> None:
        (port,) = free_ports(1)
        with (
            started(environment, tmp_path, TILEQ_METRICS_PORT=str(port)) as intake,
            intake.client() as http,
            ThreadPoolExecutor() as pool,
        ):
            id = submit(http).json()["id"]
            poll = pool.submit(lambda: httpx.get(f"{intake.url}/v1/jobs/{id}?wait=60", timeout=70))
            line = pool.submit(lambda: httpx.get(f"{intake.url}/v1/jobs/{id}/events", timeout=70))
            eventually(lambda: metric(port, "tileq_event_streams") == 1)
            assert intake.stop(number) == 0
            assert (poll.result().json()["state"], line.result().status_code) == ("queued", 200)

    def test_metrics_have_a_port_of_their_own(self, environment: Mapping[str, str], tmp_path: Path) -> None:
        (port,) = free_ports(1)
        with started(environment, tmp_path, TILEQ_METRICS_PORT=str(port)) as intake, intake.client() as http:
            submit(http)
            text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
            assert 'tileq_http_requests_total{method="POST",route="/v1/jobs",status="202"} 1.0' in text
            assert http.get("/metrics").status_code == 404
            probes = [httpx.get(f"http://127.0.0.1:{port}/{path}").status_code for path in ("livez", "readyz")]
            assert probes == [200, 200]

    def test_the_health_port_says_why_it_is_not_ready(self, environment: Mapping[str, str], tmp_path: Path) -> None:
        closed, port = free_ports(2)
        more = {"TILEQ_S3_URL": f"http://127.0.0.1:{closed}", "TILEQ_METRICS_PORT": str(port)}
        with started(environment, tmp_path, ready="/healthz", **more):
            ready = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=40)
            assert ready.status_code == 503
            assert "storage: " in ready.json()["failures"]["intake"]
            assert httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200


def metric(port: int, name: str) -> float:
    """The value of a metric without labels."""
    lines = httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def waitaof_calls(intake: Process) -> int:
    """How often the store was asked to sync its append-only file."""
    statistics: Any = intake.store.client.info("commandstats")
    return int(statistics.get("cmdstat_waitaof", {}).get("calls", 0))


def _redis(http: httpx.Client) -> Any:
    return http.get("/readyz").json()["dependencies"]["redis"]


def _fields(environment: Mapping[str, str]) -> dict[str, Any]:
    return {name.removeprefix("TILEQ_").lower(): value for name, value in environment.items()}


def _all(line: Any) -> bytes:
    received = b""
    while part := line.recv(65536):
        received += part
    return received


def _events(line: httpx.Response) -> Iterator[tuple[str, Any]]:
    name = ""
    for text in line.iter_lines():
        if text.startswith("event: "):
            name = text.removeprefix("event: ")
        elif text.startswith("data: "):
            yield name, json.loads(text.removeprefix("data: "))


def _next(events: Iterator[tuple[str, Any]], wanted: str) -> Any:
    return next(data for name, data in events if name == wanted)
