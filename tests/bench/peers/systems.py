"""The systems, each with servers of its own, started alike: Valkey that syncs every write, SeaweedFS, HTTP, worker."""

import http.client
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from services.cli.local.ports import free_ports
from services.cli.local.process import Program
from services.cli.local.seaweed import seaweed
from services.cli.local.service import answers
from services.cli.local.supervisor import supervised
from services.cli.local.valkey import valkey
from tests.service import service

APPS = Path(__file__).parent
PEER_PYTHON = Path("build/peers-env/bin/python")
BOUNDARY = "tileq-peers"
ENDED = ("succeeded", "failed", "failure", "cancelled", "expired")
PEERS = ("celery", "taskiq")


@dataclass(frozen=True)
class System:
    """A running system."""

    name: str
    url: str
    folder: Path  #: run/NAME.pid of each process
    worker: str  #: name of the process that does the jobs
    path: str = "/jobs"
    runs: Path | None = None  #: a line for each execution; tileq tells by the attempts of its records

    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {path.stem: int(path.read_text()) for path in (self.folder / "run").glob("*.pid")}


class Client:
    """One HTTP connection to a system."""

    def __init__(self, system: System, image: bytes, hook: str = "") -> None:
        self._path = system.path
        self._connection = http.client.HTTPConnection(urlsplit(system.url).netloc, timeout=60)
        part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n'
        fields = {"prompt": "What does the sign say?"} | ({"webhook": hook} if hook else {})
        head = "".join(part % (name, "") + value + "\r\n" for name, value in fields.items())
        file = part % ("image", '; filename="a.jpg"\r\nContent-Type: image/jpeg')
        self._body = (head + file).encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()

    def submit(self, wait_s: int = 0) -> tuple[str, bool]:
        """Post a job; return its id and whether it has ended by now."""
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        if wait_s:
            headers["Prefer"] = f"wait={wait_s}"
        self._connection.request("POST", self._path, self._body, headers)
        answer = self._read((200, 202))
        return str(answer["id"]), answer.get("state") in ENDED

    def get(self, id: str) -> dict[str, object]:
        """What the system says of a job."""
        self._connection.request("GET", f"{self._path}/{id}")
        return self._read((200,))

    def _read(self, expected: tuple[int, ...]) -> dict[str, object]:
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status not in expected:
            raise RuntimeError(f"{answer.status}: {body[:300]!r}")
        parsed: dict[str, object] = json.loads(body)
        return parsed


@contextmanager
def started(name: str, job_s: float = 0) -> Iterator[System]:
    """Run the system `name` while the block runs; `job_s` is what the model takes for a job."""
    if name == "tileq":
        env = {"TILEQ_ECHO_TILES": "false", "TILEQ_LOG_LEVEL": "warning"}
        # The lease and the retry's wait as released, and as many jobs at once as the peers' workers do.
        slow = {"TILEQ_ECHO_DELAY": str(job_s), "TILEQ_SLOTS": "4", "TILEQ_LEASE": "30"} if job_s else {}
        with service(engine="echo", vision=1, env=env | slow) as here:
            yield System(name, here.url, here.folder, "vision", path="/v1/jobs")
        return
    with tempfile.TemporaryDirectory(prefix="tileq-peer-") as folder:
        system, stages = _peer(name, Path(folder), job_s)
        with supervised(Path(folder), stages, lambda _: None):
            yield system


def _peer(name: str, folder: Path, job_s: float) -> tuple[System, list[list[Program]]]:
    redis_port, port = free_ports(2)
    weed, s3 = seaweed(folder / "objects")
    runs = folder / "runs"
    runs.touch()
    env: Mapping[str, str] = {
        "PEER_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "PEER_S3": urlsplit(s3.url).netloc,
        "PEER_S3_KEY": s3.access_key,
        "PEER_S3_SECRET": s3.secret_key,
        "PEER_SECONDS": str(job_s),
        "PEER_RUNS": str(runs),
    }
    python = str(PEER_PYTHON.absolute())
    module = f"{name}_app"
    workers = {
        "celery": [
            "celery",
            "--workdir",
            str(APPS),
            "-A",
            f"{module}:queue",
            "worker",
            "--concurrency=2",
            "--loglevel=WARNING",
        ],
        "taskiq": ["taskiq", "worker", "--app-dir", str(APPS), f"{module}:broker", "--log-level=WARNING"],
    }
    serve = [
        python,
        "-m",
        "uvicorn",
        "--app-dir",
        str(APPS),
        f"{module}:app",
        "--port",
        str(port),
        "--log-level=warning",
    ]
    url = f"http://127.0.0.1:{port}"
    stages = [
        [valkey(folder / "valkey", redis_port), weed],
        [
            Program("http", serve, env, answers(f"{url}/openapi.json")),
            Program("worker", [python, "-m", *workers[name]], env, stop_within=2),
        ],
    ]
    return System(name, url, folder, "worker", runs=runs), stages


def peers_installed() -> bool:
    """Whether `make bench-peers` has made the peers' environment."""
    return os.access(PEER_PYTHON, os.X_OK)
