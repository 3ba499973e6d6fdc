"""Intake as a process of its own, on real servers."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from services.cli.local.ports import free_ports
from services.cli.local.seaweed import S3
from services.cli.local.service import answers
from shared.connections.redis_client import connect
from shared.settings.roles import Settings
from shared.store.client import Store
from tests.waiting import eventually


@dataclass
class Process:
    """A running `python -m services.intake`."""

    popen: "subprocess.Popen[bytes]"
    port: int
    log: Path
    store: Store

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def client(self, timeout: float = 30) -> httpx.Client:
        """Return a client of it."""
        return httpx.Client(base_url=self.url, timeout=timeout)

    def connect(self) -> socket.socket:
        """Return a bare connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def resident(self) -> int:
        """Bytes of memory it holds."""
        pages = Path(f"/proc/{self.popen.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; return the exit status."""
        self.popen.send_signal(number)
        return self.popen.wait(20)


@pytest.fixture
def environment(valkey_url: str, prefix: str, s3: S3) -> Mapping[str, str]:
    """Settings that lead to the real servers."""
    return {
        "TILEQ_REDIS_URL": valkey_url,
        "TILEQ_REDIS_PREFIX": prefix,
        "TILEQ_S3_URL": s3.url,
        "TILEQ_S3_ACCESS_KEY": s3.access_key,
        "TILEQ_S3_SECRET_KEY": s3.secret_key,
        "TILEQ_S3_BUCKET": s3.bucket,
        "TILEQ_BODY_TIMEOUT": "1",
    }


@contextmanager
def started(environment: Mapping[str, str], folder: Path, *, ready: str = "/readyz", **more: str) -> Iterator[Process]:
    """Run intake while the block runs."""
    (port,) = free_ports(1)
    variables = {**os.environ, **environment, "TILEQ_PORT": str(port), **more}
    log = folder / "intake.log"
    with log.open("wb") as output:
        popen = subprocess.Popen([sys.executable, "-m", "services.intake"], env=variables, stdout=output, stderr=output)
    settings = Settings(redis_url=variables["TILEQ_REDIS_URL"])
    store = Store(connect(settings.store_endpoint), variables["TILEQ_REDIS_PREFIX"])
    try:
        _await(f"http://127.0.0.1:{port}{ready}", popen, log)
        yield Process(popen, port, log, store)
    finally:
        popen.kill()
        popen.wait()
        store.client.close()


def _await(url: str, popen: "subprocess.Popen[bytes]", log: Path) -> None:
    probe = answers(url)
    eventually(lambda: popen.poll() is not None or not probe(), 20)
    assert popen.poll() is None, log.read_text()


@pytest.fixture
def intake(environment: Mapping[str, str], tmp_path: Path) -> Iterator[Process]:
    """Intake, ready."""
    with started(environment, tmp_path) as process:
        yield process
