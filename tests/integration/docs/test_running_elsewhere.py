"""docs/running-elsewhere.md: every command runs, against stand-ins for the services that it names."""

import json
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml

from services.cli.local.ports import free_ports
from services.cli.local.seaweed import S3
from shared.settings.roles import Settings
from tests.certificates import Authority
from tests.integration.docs.page import ROOT, Block, blocks, run
from tests.receiver import Receiver, receiver
from tests.service import Service, service
from tests.tcp_proxy import tcp_proxy
from tests.unit.packaging.dockerfile import last, stages, variables
from tests.valkeys import sentinel, valkeys
from tests.waiting import eventually

pytestmark = pytest.mark.integration

PAGE = blocks("running-elsewhere.md")
API_KEY = f"tq_{'0123456789' * 4}"


def under(heading: str, language: str = "sh") -> list[Block]:
    found = [block for block in PAGE if (block.heading, block.language) == (heading, language)]
    assert found, f"the page has no {language} block under {heading!r}"
    return found


@dataclass(frozen=True)
class StandIns:
    """A Redis and an object storage with and without TLS, and the names of the page that they stand in for."""

    redis_port: int
    redis_tls_port: int
    s3: S3
    s3_tls_url: str
    authority: Authority
    bucket: str

    @property
    def env(self) -> dict[str, str]:
        """Settings with which everything is reached without TLS."""
        return {
            "TILEQ_REDIS_URL": f"redis://tileq:PASSWORD@127.0.0.1:{self.redis_port}/0",
            "TILEQ_REDIS_PREFIX": f"t{secrets.token_hex(4)}:",
            "TILEQ_S3_URL": self.s3.url,
            "TILEQ_S3_BUCKET": self.bucket,
            "TILEQ_S3_ACCESS_KEY": self.s3.access_key,
            "TILEQ_S3_SECRET_KEY": self.s3.secret_key,
        }

    @property
    def names(self) -> dict[str, str]:
        """Names of the page, and what they are here."""
        return {
            "redis.example.org:6379": f"127.0.0.1:{self.redis_tls_port}",
            "https://s3.eu-central-1.amazonaws.com": self.s3.url,
            "https://ACCOUNT.r2.cloudflarestorage.com": self.s3.url,
            "my-tileq": self.bucket,
            "ACCESS_KEY_ID=ACCESS_KEY": f"ACCESS_KEY_ID={self.s3.access_key}",
            "TILEQ_S3_ACCESS_KEY=ACCESS_KEY": f"TILEQ_S3_ACCESS_KEY={self.s3.access_key}",
            "_KEY=SECRET_KEY": f"_KEY={self.s3.secret_key}",
            "/etc/tileq/ca.pem": self.authority.ca_file,
        }


@pytest.fixture(scope="module")
def here(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIns]:
    folder = tmp_path_factory.mktemp("elsewhere")
    authority = Authority.create(folder / "ca")
    with ExitStack() as stack:
        (server,) = stack.enter_context(valkeys(folder, {}))
        words = ("on", ">PASSWORD", "~*", "&*", "+@all")
        server.admin.execute_command("ACL", "SETUSER", "tileq", *words)  # type: ignore[no-untyped-call]
        tls = authority.server_context("server")
        redis_tls = stack.enter_context(tcp_proxy(server.port, tls))
        s3_tls = stack.enter_context(tcp_proxy(int(s3.url.rpartition(":")[2]), tls))
        bucket = f"elsewhere-{secrets.token_hex(4)}"
        yield StandIns(server.port, redis_tls.port, s3, f"https://127.0.0.1:{s3_tls.port}", authority, bucket)


def checked(output: str) -> None:
    """Fail unless the doctor found store, broker and storage as they should be."""
    for what in ("job store", "durability", "eviction", "Celery broker", "object storage"):
        assert re.search(rf"^ok +{what}", output, re.MULTILINE), output


def test_the_doctor_checks_what_the_variables_name(here: StandIns, tmp_path: Path) -> None:
    (block,) = under("")
    checked(run(block.text, here.env, tmp_path).stdout)


def test_a_managed_redis_is_reached_by_tls(here: StandIns, tmp_path: Path) -> None:
    block = under("Redis or Valkey")[0]
    env = here.env | {"TILEQ_REDIS_CA_FILE": here.authority.ca_file}
    checked(run(block.where(**here.names), env, tmp_path).stdout)


def test_sentinel_names_the_primary(here: StandIns, tmp_path: Path) -> None:
    block = under("Redis or Valkey")[1]
    with valkeys(tmp_path, {}) as (primary,), sentinel(tmp_path / "sentinel", "tileq", primary.port) as port:
        names = here.names | {"sentinel.example.org:26379": f"127.0.0.1:{port}"}
        checked(run(block.where(**names), here.env, tmp_path).stdout)


def test_lost_records_are_restored(here: StandIns, tmp_path: Path) -> None:
    block = under("Redis or Valkey")[2]
    counts = json.loads(run(block.text, here.env, tmp_path).stdout)
    assert counts.keys() >= {"known", "queued", "succeeded", "unreadable"}


@pytest.mark.parametrize("n", [0, 1], ids=["AWS", "R2"])
def test_a_clouds_object_storage_is_reached(here: StandIns, tmp_path: Path, n: int) -> None:
    block = under("Object storage")[n]
    env = {name: value for name, value in here.env.items() if not name.startswith("TILEQ_S3_")}
    checked(run(block.where(**here.names), env, tmp_path).stdout)


def test_private_authorities_are_trusted_where_they_are_named(here: StandIns, tmp_path: Path) -> None:
    (block,) = under("Private certificate authorities")
    env = here.env | {
        "TILEQ_REDIS_URL": f"rediss://tileq:PASSWORD@127.0.0.1:{here.redis_tls_port}/0",
        "TILEQ_S3_URL": here.s3_tls_url,
    }
    checked(run(block.where(**here.names), env, tmp_path).stdout)


# --- Kubernetes


def manifests() -> list[dict[str, Any]]:
    (block,) = under("Kubernetes", "yaml")
    return list(yaml.safe_load_all(block.text))


def deployments() -> dict[str, dict[str, Any]]:
    found = [made for made in manifests() if made["kind"] == "Deployment"]
    return {made["metadata"]["name"].removeprefix("tileq-"): made for made in found}


def pod(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod of a deployment, and its one container."""
    spec = deployments()[name]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def target_of(container: Mapping[str, Any]) -> str:
    """The stage of the Dockerfile that the container's image is built from."""
    return str(container["image"].rpartition("/")[2].replace(":", "-"))


DOCKERFILE = stages((ROOT / "infra" / "docker" / "Dockerfile").read_text())


def test_the_commands_of_kubernetes_run(here: StandIns, tmp_path: Path) -> None:
    (tmp_path / "kubectl").symlink_to(Path(__file__).with_name("kubectl"))
    (secret,) = under("Kubernetes", "ini")
    (manifest,) = under("Kubernetes", "yaml")
    (tmp_path / "tileq.env").write_text(secret.where(**here.names))
    (tmp_path / "tileq.yaml").write_text(manifest.text)
    env = here.env | {"KUBECTL_STATE": str(tmp_path), "TILEQ_REDIS_CA_FILE": here.authority.ca_file}
    create, rest = under("Kubernetes")
    run(create.text, env, tmp_path)
    printed = run(rest.text, env, tmp_path).stdout.splitlines()
    assert re.fullmatch(r"tq_[0-9a-f]{40}", printed[0])
    assert json.loads(printed[1])["unreadable"] == 0
    assert {path.stem for path in tmp_path.glob("deployment-*.json")} == {
        f"deployment-tileq-{n}" for n in deployments()
    }


def test_every_deployment_is_consistent() -> None:
    (service_object,) = (made for made in manifests() if made["kind"] == "Service")
    assert service_object["spec"]["selector"] == {"app": "tileq-intake"}
    assert set(deployments()) == {"intake", "batches", "reconciler", "webhooks", "vision"}
    for name, made in deployments().items():
        spec, container = pod(name)
        labels = made["spec"]["template"]["metadata"]["labels"]
        assert made["spec"]["selector"]["matchLabels"] == labels == {"app": f"tileq-{name}"}
        assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in spec["volumes"]}
        image_env = variables(target_of(container), DOCKERFILE)
        ports = {int(image_env[variable]) for variable in ("TILEQ_PORT", "TILEQ_METRICS_PORT") if variable in image_env}
        assert {one["containerPort"] for one in container["ports"]} == ports
        given = {one["name"].removeprefix("TILEQ_").lower() for one in container.get("env", [])}
        assert given <= set(Settings.model_fields)


def test_every_pod_has_longer_to_stop_than_its_process_needs() -> None:
    settings = Settings()
    grace = {name: pod(name)[0]["terminationGracePeriodSeconds"] for name in deployments()}
    assert grace["webhooks"] > settings.webhook_timeout
    assert grace["vision"] > settings.shutdown_grace


@pytest.mark.parametrize("name", ["intake", "batches", "reconciler", "webhooks", "vision"])
def test_a_pods_probes_are_answered_by_its_process(here: StandIns, tmp_path: Path, name: str) -> None:
    _, container = pod(name)
    target = target_of(container)
    python, *words = last("CMD", target, DOCKERFILE).argv
    assert python == "python"
    image_env = variables(target, DOCKERFILE)
    port, metrics = free_ports(2)
    ports = {8000: port, 9100: metrics}
    env = {
        **{key: value for key, value in image_env.items() if key.startswith("TILEQ_")},
        **here.env,
        "TILEQ_API_KEYS": f"backend={API_KEY}",
        "TILEQ_PORT": str(port),
        "TILEQ_METRICS_PORT": str(metrics),
        "TILEQ_ENGINE": "echo",
        "TILEQ_DEVICE": "cpu",
    }
    with started(words, env, tmp_path) as alive:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in container:
                get = container[probe]["httpGet"]
                eventually(lambda get=get: answered(f"http://127.0.0.1:{ports[get['port']]}{get['path']}"), 60)  # type: ignore[misc]
        assert alive()


@contextmanager
def started(words: list[str], env: Mapping[str, str], folder: Path) -> Iterator[Any]:
    """A process of ours while the block runs; yields whether it is alive."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TILEQ_")}
    with (folder / "process.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *words], env={**clean, **env}, stdout=log, stderr=log)
        try:
            yield lambda: process.poll() is None
        finally:
            process.kill()
            process.wait()


def answered(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


# --- behind a reverse proxy


@pytest.fixture(scope="module")
def hook() -> Iterator[Receiver]:
    one = receiver()
    with one.up():
        yield one


@pytest.fixture(scope="module")
def behind(hook: Receiver) -> Iterator[tuple[Service, str]]:
    """A service under /vision, and the URL of a proxy that strips it, as the page's nginx does."""
    env = {
        "TILEQ_ROOT_PATH": "/vision",
        "TILEQ_API_KEYS": f"backend={API_KEY}",
        "TILEQ_WEBHOOK_ALLOW": "127.0.0.0/8",
    }
    with service(env=env) as one, stripping_proxy(one.url, "/vision/") as url:
        yield one, url


@contextmanager
def stripping_proxy(upstream: str, prefix: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")
            }
            assert self.path.startswith(prefix)
            answer = httpx.post(
                f"{upstream}/{self.path.removeprefix(prefix)}", content=body, headers=headers, timeout=60
            )
            self.send_response(answer.status_code)
            for name in ("location", "content-type"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_job_behind_a_path_is_told_where_it_is(behind: tuple[Service, str], tmp_path: Path) -> None:
    (block,) = under("Behind a reverse proxy")
    names = {"https://www.example.org": behind[1], "API_KEY": API_KEY}
    printed = run(block.where(**names), {}, tmp_path).stdout
    assert re.search(r"(?im)^location: /vision/v1/jobs/job_\w+", printed), printed
    assert '"state":"queued"' in printed


def test_a_webhook_is_tested_with_its_headers(behind: tuple[Service, str], hook: Receiver, tmp_path: Path) -> None:
    (block,) = under("Webhooks out of a closed network")
    names = {
        "https://receiver.example.org/hook": hook.url,
        "https://www.example.org": behind[1],
        "API_KEY": API_KEY,
        "TOKEN": "s3cret-token",
    }
    printed = run(block.where(**names), {}, tmp_path).stdout
    assert json.loads(printed)["state"] == "delivered"
    assert hook.arrived[-1].headers["authorization"] == "Bearer s3cret-token"
    assert "s3cret-token" not in printed


def test_the_proxys_limits_are_above_those_of_the_service() -> None:
    (block,) = under("Behind a reverse proxy", "nginx")
    settings = Settings()
    size = re.search(r"client_max_body_size (\d+)m;", block.text)
    wait = re.search(r"proxy_read_timeout (\d+)s;", block.text)
    assert size is not None
    assert wait is not None
    assert int(size[1]) << 20 >= settings.max_body_bytes
    assert 60 < int(wait[1]) <= settings.keep_alive
    assert "proxy_buffering off;" in block.text


# --- the page itself


def test_every_variable_of_the_page_is_a_setting() -> None:
    text = (ROOT / "docs" / "running-elsewhere.md").read_text()
    named = set(re.findall(r"TILEQ_([A-Z0-9_]*[A-Z0-9])", text))
    assert {name.lower() for name in named} <= set(Settings.model_fields)


def test_every_block_of_commands_is_run_by_a_test() -> None:
    source = Path(__file__).read_text()
    run_here = set(re.findall(r'under\("([^"]*)"\)', source))
    assert {block.heading for block in PAGE if block.language == "sh"} <= run_here
    assert {block.language for block in PAGE} == {"sh", "ini", "yaml", "nginx"}


def test_redis_parameters_of_the_page_are_what_the_embedded_server_runs_with(here: StandIns) -> None:
    table = dict(re.findall(r"^\| `(append\w+|maxmemory-policy)` \| `(\w+)`", _page(), re.MULTILINE))
    with redis.Redis(port=here.redis_port, decode_responses=True) as admin:
        assert {name: admin.config_get(name)[name] for name in table} == table
    assert set(table) == {"appendonly", "appendfsync", "maxmemory-policy"}


def _page() -> str:
    return (ROOT / "docs" / "running-elsewhere.md").read_text()
