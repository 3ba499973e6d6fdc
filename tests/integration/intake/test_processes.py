"""TILEQ_HTTP_PROCESSES: several intake processes on one port, on real servers."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.cli.local.ports import free_ports, is_free
from services.intake.child_process import ChildProcess, NoAnswer
from services.intake.processes import bind
from shared.jobs import State
from shared.store import transitions
from tests.bench.processes import family
from tests.integration.intake.conftest import Process, started
from tests.waiting import eventually

pytestmark = pytest.mark.integration
CHILDREN = 2


@dataclass
class Several:
    """A supervisor and its children."""

    intake: Process
    health: str  #: URL of the health port

    def children(self) -> set[int]:
        return set(family(self.intake.popen.pid)) - {self.intake.popen.pid}

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        lines = httpx.get(f"{self.health}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def ready(self) -> int:
        return httpx.get(f"{self.health}/readyz", timeout=40).status_code

    def whole(self) -> bool:
        """Whether every child takes requests."""
        return self.metric("tileq_http_processes") == CHILDREN

    def submit(self) -> str:
        """Submit a job on a connection of its own; return its id."""
        answer = httpx.post(f"{self.intake.url}/v1/jobs", json={"prompt": "What is it?"}, timeout=30)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def who_answered(self) -> set[int]:
        """Pids of the children by the process that logged each request."""
        return {entry["child"] for entry in self.log() if entry["event"] == "request" and "child" in entry}

    def log(self) -> list[Any]:
        return [json.loads(line) for line in self.intake.log.read_text().splitlines() if line.startswith("{")]


@pytest.fixture
def several(environment: Mapping[str, str], tmp_path: Path) -> Iterator[Several]:
    (port,) = free_ports(1)
    more = {"TILEQ_METRICS_PORT": str(port), "TILEQ_HTTP_PROCESSES": str(CHILDREN)}
    with started(environment, tmp_path, **more) as intake:
        found = Several(intake, f"http://127.0.0.1:{port}")
        eventually(found.whole, 20)
        yield found


def test_every_child_takes_requests_and_metrics_count_those_of_all(several: Several) -> None:
    ids: set[str] = set()

    def both_answered() -> bool:
        with ThreadPoolExecutor(8) as pool:
            ids.update(pool.map(lambda _: several.submit(), range(8)))
        return several.who_answered() == {1, 2}

    eventually(both_answered, 30)
    assert several.metric("tileq_jobs_accepted_total") == len(ids)
    assert {httpx.get(f"{several.intake.url}/v1/jobs/{id}").status_code for id in ids} == {200}
    assert several.ready() == httpx.get(f"{several.health}/livez").status_code == 200


def test_a_killed_child_is_started_again_while_the_other_serves(several: Several) -> None:
    for _ in range(5):
        several.submit()
    killed, *_ = before = several.children()
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: several.metric("tileq_http_processes") == CHILDREN - 1, every=0.02)
    assert several.ready() == 200
    several.submit()
    eventually(several.whole, 20)
    assert len(several.children() - before) == 1
    assert several.metric("tileq_http_process_restarts_total") == 1
    assert several.metric("tileq_jobs_accepted_total") == 6


def test_streams_of_a_killed_child_are_no_longer_counted(several: Several) -> None:
    id = several.submit()
    with ThreadPoolExecutor(8) as pool:
        lines = [pool.submit(httpx.get, f"{several.intake.url}/v1/jobs/{id}/events", timeout=30) for _ in range(8)]
        eventually(lambda: several.metric("tileq_event_streams") == 8)
        os.kill(several.children().pop(), signal.SIGKILL)
        eventually(lambda: several.metric("tileq_http_process_restarts_total") == 1, 20)
        cut = sum(isinstance(line.exception(20), httpx.TransportError) for line in lines if line.done())
        assert several.metric("tileq_event_streams") == 8 - cut
        job = several.intake.store.run(transitions.claim("tileq-demo", "worker", 60)).value
        assert job
        output = {"output": {"text": "Done.", "finish_reason": "stop"}}
        several.intake.store.run(transitions.finish(job.id, job.attempt, State.SUCCEEDED, output))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_requests_of_every_child_end(several: Several, number: signal.Signals) -> None:
    id, children = several.submit(), several.children()
    with ThreadPoolExecutor(8) as pool:
        polls = [pool.submit(httpx.get, f"{several.intake.url}/v1/jobs/{id}?wait=60", timeout=70) for _ in range(4)]
        lines = [pool.submit(httpx.get, f"{several.intake.url}/v1/jobs/{id}/events", timeout=70) for _ in range(4)]
        eventually(lambda: several.metric("tileq_event_streams") == 4)
        assert several.intake.stop(number) == 0
        assert {poll.result().json()["state"] for poll in polls} == {"queued"}
        assert {line.result().status_code for line in lines} == {200}
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert is_free(several.intake.port)


def test_children_of_a_killed_supervisor_end(several: Several) -> None:
    children = several.children()
    several.intake.stop(signal.SIGKILL)
    eventually(lambda: not [pid for pid in children if Path(f"/proc/{pid}/cmdline").exists()], 20)
    assert is_free(several.intake.port)


def test_a_frozen_child_gives_no_answer_and_a_late_answer_is_not_taken_for_the_next(
    environment: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (listener,) = bind("127.0.0.1", 0)
    with listener:
        child = ChildProcess(1, [listener], tmp_path)
        try:
            eventually(lambda: child.exit_code() is not None or child.serving, 20)
            os.kill(child.pid, signal.SIGSTOP)
            with pytest.raises(NoAnswer, match="no answer within"):
                child.unready_reason(0.05)
            os.kill(child.pid, signal.SIGCONT)
            assert child.unready_reason(20) == ""
        finally:
            child.kill()
        with pytest.raises(NoAnswer, match="ended"):
            child.unready_reason(1)


def test_the_health_port_names_a_dependency_that_is_down_once(environment: Mapping[str, str], tmp_path: Path) -> None:
    closed, port = free_ports(2)
    more = {"TILEQ_S3_URL": f"http://127.0.0.1:{closed}", "TILEQ_METRICS_PORT": str(port), "TILEQ_HTTP_PROCESSES": "2"}
    with started(environment, tmp_path, ready="/healthz", **more) as intake:
        several = Several(intake, f"http://127.0.0.1:{port}")
        eventually(several.whole, 20)
        answer = httpx.get(f"{several.health}/readyz", timeout=40)
        assert answer.status_code == 503
        assert answer.json()["failures"]["intake"].count("storage: ") == 1
        assert httpx.get(f"{several.health}/livez").status_code == 200


@pytest.mark.parametrize(("variable", "value"), [("TILEQ_HOST", "0.0.0.0"), ("TILEQ_HTTP_PROCESSES", "0")])
def test_settings_that_no_child_can_serve_end_all_with_2(
    environment: Mapping[str, str], variable: str, value: str
) -> None:
    variables = {**os.environ, **environment, "TILEQ_HTTP_PROCESSES": "2", "TILEQ_PORT": "0", variable: value}
    command = [sys.executable, "-m", "services.intake"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode == 2
    assert variable in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_ends_it_with_1(environment: Mapping[str, str], several: Several) -> None:
    variables = {**os.environ, **environment, "TILEQ_HTTP_PROCESSES": "2", "TILEQ_PORT": str(several.intake.port)}
    command = [sys.executable, "-m", "services.intake"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode == 1
    assert "port can't be bound" in done.stdout + done.stderr
