"""The health port."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from services.cli.local.ports import free_ports
from shared.health import HealthServer
from shared.settings.base import ProcessSettings

Make = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Make]:
    servers: list[HealthServer] = []

    def make(**checks: object) -> str:
        (port,) = free_ports(1)
        servers.append(HealthServer(ProcessSettings(metrics_port=port), **checks))  # type: ignore[arg-type]
        return f"http://127.0.0.1:{port}"

    yield make
    for server in servers:
        server.close()


def down() -> None:
    raise ConnectionError("the job store does not answer")


def hung() -> None:
    raise RuntimeError("the engine's step takes too long")


def test_a_process_whose_checks_pass_is_live_and_ready(serve: Make) -> None:
    url = serve(ready={"redis": lambda: None})
    assert httpx.get(f"{url}/livez").json() == {"status": "ok"}
    assert httpx.get(f"{url}/readyz").json() == {"status": "ok"}


def test_a_failed_dependency_makes_it_unready_with_the_reason_and_leaves_it_live(serve: Make) -> None:
    url = serve(ready={"redis": down, "storage": lambda: None})
    answer = httpx.get(f"{url}/readyz")
    assert answer.status_code == 503
    assert answer.json()["failures"] == {"redis": "the job store does not answer"}
    assert httpx.get(f"{url}/livez").status_code == 200


def test_a_process_that_hangs_is_not_live(serve: Make) -> None:
    assert httpx.get(f"{serve(live=hung, ready={})}/livez").status_code == 503


def test_metrics_are_served_beside_the_probes(serve: Make) -> None:
    answer = httpx.get(f"{serve(ready={})}/metrics")
    assert "python_info" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


def test_other_paths_and_methods_are_refused(serve: Make) -> None:
    url = serve(ready={})
    assert httpx.get(f"{url}/healthz").status_code == 404
    assert httpx.post(f"{url}/livez").status_code == 405
    assert httpx.head(f"{url}/livez").content == b""


def test_port_0_opens_no_port() -> None:
    assert HealthServer(ProcessSettings(), ready={}).port == 0
