"""`python -m workers.reconciler`: its health port, its exit status, and a store that goes away."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from services.cli.local.ports import free_ports
from services.cli.local.supervisor import supervised
from services.cli.local.valkey import valkey
from tests.servers import needed
from tests.waiting import eventually

pytestmark = pytest.mark.integration
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a reconciler with these settings; it is killed at the end of the test."""
    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "reconciler.log").open("ab"))

        def run(*words: str, **env: str) -> "subprocess.Popen[bytes]":
            command = [sys.executable, "-m", "workers.reconciler", *words]
            process = subprocess.Popen(command, env={**os.environ, **env}, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield run


def status(url: str) -> int:
    try:
        return httpx.get(url, timeout=20).status_code
    except httpx.TransportError:
        return 0


def test_it_is_ready_while_the_store_answers_and_live_also_when_not(start: Start, tmp_path: Path) -> None:
    port, health = free_ports(2)
    url = f"http://127.0.0.1:{health}"
    process = start(TILEQ_REDIS_URL=f"redis://127.0.0.1:{port}/0", TILEQ_METRICS_PORT=str(health))
    eventually(lambda: status(f"{url}/livez") == 200, 20)
    assert httpx.get(f"{url}/readyz", timeout=20).json()["failures"].keys() == {"store"}
    with supervised(tmp_path, [[needed(lambda: valkey(tmp_path / "valkey", port))]]):
        eventually(lambda: status(f"{url}/readyz") == 200, 20)
        eventually(lambda: "tileq_store_up 1.0" in httpx.get(f"{url}/metrics", timeout=20).text, 20)
    eventually(lambda: status(f"{url}/readyz") == 503, 20)
    assert status(f"{url}/livez") == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_health_port_that_is_taken_is_refused_with_the_variable(start: Start, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with httpx.Client():
        start(TILEQ_METRICS_PORT=str(port))
        eventually(lambda: status(f"http://127.0.0.1:{port}/livez") == 200, 20)
        assert start(TILEQ_METRICS_PORT=str(port)).wait(20) == 2
    assert f"reconciler: TILEQ_METRICS_PORT={port} can't be bound" in (tmp_path / "reconciler.log").read_text()


def test_recovering_without_a_store_fails_with_one_line(start: Start, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    process = start("--recover", TILEQ_REDIS_URL=f"redis://127.0.0.1:{port}/0", TILEQ_S3_URL=f"http://127.0.0.1:{port}")
    assert process.wait(60) == 1
    lines = (tmp_path / "reconciler.log").read_text()
    assert "recovery stopped" in lines
    assert "Traceback" not in lines
