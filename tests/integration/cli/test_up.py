"""`tileq up`: one machine, one folder, and nothing lost between two starts."""

import json
import os
import re
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from services.cli.local.orphans import processes_of
from services.cli.local.seaweed import find_weed
from tests.integration.cli.command import Up, tileq, up
from tests.integration.cli.programs import alive, pid_of
from tests.servers import needed
from tests.waiting import eventually

pytestmark = pytest.mark.integration
NAMES = ("valkey", "seaweedfs", "intake", "batches", "reconciler", "webhooks", "vision", "vision-2")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One service for the tests that leave it whole."""
    needed(find_weed)
    with up(tmp_path_factory.mktemp("up") / "data", "--vision", "2") as running:
        yield running


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("picture") / "red.png"
    Image.new("RGB", (900, 600), (200, 30, 30)).save(path)
    return str(path)


def test_the_ready_line_stands_alone_on_stdout(here: Up) -> None:
    assert re.fullmatch(r"tileq: ready http://127\.0\.0\.1:\d+\n", here.out.read_text())
    assert httpx.get(f"{here.url}/readyz").status_code == 200


def test_every_process_has_its_pid_and_ours_their_metrics(here: Up) -> None:
    assert all(alive(pid_of(here.folder, name)) for name in NAMES)
    for name in ("intake", "batches", "reconciler", "webhooks", "vision", "vision-2"):
        port = int((here.folder / "run" / f"{name}.metrics").read_text())
        metrics = eventually(lambda port=port: _metrics(port), 30)  # type: ignore[misc]
        assert "python_info" in (metrics or "")


def test_the_webhook_secret_is_this_users_alone(here: Up) -> None:
    path = here.folder / "webhook-secret"
    assert path.read_text().startswith("whsec_")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((here.folder / "run" / "environment").stat().st_mode) == 0o600


def test_asking_from_a_shell_prints_the_answer(here: Up, photograph: str) -> None:
    ran = tileq("ask", photograph, "What colour?", env={"TILEQ_URL": here.url})
    assert ran.returncode == 0, ran.stderr
    assert "What colour?" in ran.stdout
    assert "7 tiles" in ran.stderr


def test_a_job_is_submitted_waited_for_and_listed(here: Up, photograph: str) -> None:
    env = {"TILEQ_URL": here.url}
    job = tileq("submit", photograph, "Blue?", "--metadata", "order=4711", env=env).stdout.strip()
    assert json.loads(tileq("wait", job, "--json", env=env).stdout)["state"] == "succeeded"
    assert job in tileq("jobs", "--metadata", "order=4711", env=env).stdout
    assert tileq("cancel", job, env=env).stdout == f"{job} already_ended\n"
    assert "tileq-demo" in tileq("models", env=env).stdout


def test_a_refusal_is_one_line(here: Up) -> None:
    ran = tileq("ask", "Hello?", "--tiles", "99", "--url", here.url)
    assert ran.returncode == 1
    assert ran.stderr.startswith("tileq: invalid_field: ")


def test_the_doctor_finds_the_service_and_nothing_to_fix(here: Up) -> None:
    ran = tileq("doctor", "--data", str(here.folder), "--json")
    found = {line["what"]: line for line in map(json.loads, ran.stdout.splitlines())}
    assert ran.returncode == 0, ran.stdout
    for what in ("job store", "durability", "eviction", "clock", "Celery broker", "object storage", "service"):
        assert found[what]["level"] == "ok", found[what]


def test_a_second_up_on_the_folder_is_refused_and_harms_nothing(here: Up) -> None:
    before = {name: pid_of(here.folder, name) for name in NAMES}
    ran = tileq("up", "--data", str(here.folder), "--port", "0", env={"TILEQ_ENGINE": "echo"})
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert f"in use by another `tileq up` (process {here.process.pid})" in ran.stderr
    assert {name: pid_of(here.folder, name) for name in NAMES} == before
    assert httpx.get(f"{here.url}/readyz").status_code == 200


def test_a_taken_port_is_told_before_anything_starts(here: Up, tmp_path: Path) -> None:
    port = here.url.rpartition(":")[2]
    ran = tileq("up", "--data", str(tmp_path / "other"), "--port", port)
    assert ran.returncode == 1
    assert f"port {port} is in use" in ran.stderr


def test_an_address_that_is_not_ours_is_told_before_anything_starts(tmp_path: Path) -> None:
    ran = tileq("up", "--data", str(tmp_path / "other"), "--port", "0", "--host", "192.0.2.1")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("tileq: can't listen on port 0 of 192.0.2.1: ")


def test_a_data_folder_that_can_not_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = tileq("up", "--data", str(tmp_path / "file"), "--port", "0")
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert f"can't keep data in {tmp_path / 'file'}: " in ran.stderr


def test_a_misspelt_setting_is_told_where_the_service_is_started(tmp_path: Path) -> None:
    env = {"TILEQ_LEESE": "3", "TILEQ_ENGINE": "echo"}
    with up(tmp_path / "data", "--vision", "0", env=env) as running:
        assert "TILEQ_LEESE is ignored: there is no such setting; is TILEQ_LEASE meant?" in running.err.read_text()


def test_a_killed_process_comes_back_and_the_service_goes_on(here: Up) -> None:
    first = pid_of(here.folder, "reconciler")
    os.kill(first, signal.SIGKILL)
    eventually(lambda: (pid := pid_of(here.folder, "reconciler")) != first and alive(pid), 20)
    assert "reconciler was killed by signal 9; restarts in" in here.err.read_text()


def test_a_stop_exits_0_and_the_next_start_finds_every_job(tmp_path: Path, photograph: str) -> None:
    needed(find_weed)
    folder = tmp_path / "data"
    with up(folder) as first:
        ended = json.loads(tileq("ask", photograph, "One?", "--json", "--url", first.url).stdout)
        secret = (folder / "webhook-secret").read_text()
        assert first.stop() == 0
    assert list(processes_of(folder)) == []
    assert [path.name for path in (folder / "run").iterdir()] == ["lock"]
    with up(folder, "--vision", "0") as second:
        assert httpx.get(f"{second.url}/v1/jobs/{ended['id']}").json() == ended
        picture = httpx.get(f"{second.url}/v1/jobs/{ended['id']}/images/0").content
        assert picture == Path(photograph).read_bytes()
        assert (folder / "webhook-secret").read_text() == secret
        queued = tileq("submit", "Two?", "--url", second.url).stdout.strip()
        second.process.kill()
        second.process.wait()
        eventually(lambda: not list(processes_of(folder)))
    with up(folder) as third:
        assert json.loads(tileq("wait", queued, "--json", "--url", third.url).stdout)["state"] == "succeeded"


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    needed(find_weed)
    folder = str(tmp_path / "data")
    with up(tmp_path / "data", "--vision", "0", env={"TILEQ_KEY_CACHE": "0.1"}) as here:
        made = tileq("keys", "create", "acme", "--name", "shop", "--data", folder)
        key = made.stdout.strip()
        assert re.fullmatch(r"tq_[0-9a-f]{40}", key)
        eventually(lambda: tileq("jobs", "--url", here.url).returncode == 1)
        env = {"TILEQ_URL": here.url, "TILEQ_API_KEY": key}
        assert tileq("jobs", env=env).returncode == 0
        listed = json.loads(tileq("keys", "list", "--json", "--data", folder).stdout)
        assert (listed["tenant"], listed["name"], listed["live"]) == ("acme", "shop", True)
        assert key not in json.dumps(listed)
        assert tileq("keys", "revoke", listed["id"], "--data", folder).returncode == 0
        assert eventually(lambda: "invalid_key" in tileq("jobs", env=env).stderr)
        assert tileq("keys", "create", "Not A Tenant", "--data", folder).returncode == 2


def test_a_setting_that_can_not_be_exits_2_and_names_the_variable(tmp_path: Path) -> None:
    ran = tileq("up", "--data", str(tmp_path / "data"), env={"TILEQ_LEASE": "soon"})
    assert ran.returncode == 2
    assert ran.stderr.startswith("tileq: TILEQ_LEASE: ")


def _metrics(port: int) -> str:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/metrics").text
    except httpx.ConnectError:
        return ""
