"""The service under the users of infra/valkey and infra/s3: each role does its real work, and only its own."""

import io
import json
import os
import secrets
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
import redis
from minio import Minio
from minio.error import S3Error

from services.cli.local.ports import free_ports
from services.cli.local.process import Program
from services.cli.local.seaweed import S3
from services.cli.local.service import whole_service
from services.cli.local.supervisor import supervised
from shared.ids import new_id
from shared.settings.roles import Settings
from shared.store import endpoints
from shared.store.client import Store
from tests.acceptance.client import Client
from tests.receiver import Receiver
from tests.servers import needed
from tests.service import QUICK, ended_soon
from tests.unit.intake.image_files import picture
from tests.unit.packaging.tree import ROOT
from tests.waiting import eventually

pytestmark = pytest.mark.acceptance

START = ROOT / "infra/valkey/start.sh"
ROLES = ("intake", "batches", "vision", "webhooks", "reconciler")
PASSWORDS = {role: secrets.token_hex(20) for role in ("operator", *ROLES)}
VARIABLES = {"VALKEY_PASSWORD": PASSWORDS["operator"]} | {
    f"VALKEY_PASSWORD_{role.upper()}": PASSWORDS[role] for role in ROLES
}
S3_KEYS = {role: (secrets.token_hex(10), secrets.token_hex(20)) for role in ROLES}
KEY = "tq_" + "0" * 40


@dataclass(frozen=True)
class Guarded:
    """A running service whose processes log into the store as their roles."""

    url: str
    port: int
    folder: Path
    s3_url: str

    def store(self, role: str) -> "redis.Redis":
        """The store as `role` sees it."""
        return redis.Redis(port=self.port, username=role, password=PASSWORDS[role], decode_responses=True)

    def objects(self, role: str) -> Minio:
        """The object storage as `role` sees it."""
        access, secret = S3_KEYS[role]
        return S3(self.s3_url, access, secret, "tileq").client()

    def denials(self) -> list[str]:
        """What the store has denied to the roles."""
        with self.store("operator") as operator:
            return [
                f"{one['username']}: {one['reason']} {one['object']} ({one['context']})" for one in operator.acl_log()
            ]


def guarded_store(program: Program, folder: Path, port: int) -> Program:
    """Return the Valkey of the service, started as docker-compose does."""

    def probe() -> str:
        try:
            with redis.Redis(port=port, username="operator", password=PASSWORDS["operator"]) as client:
                return "" if client.ping() else "no PONG"
        except redis.RedisError as error:
            return str(error)

    argv = ["sh", str(START), str(folder), *program.argv]
    return replace(program, argv=argv, probe=probe, env=dict(program.env or {}) | VARIABLES)


def guarded_objects(program: Program, folder: Path) -> Program:
    """Return the SeaweedFS of the service, started as docker-compose does."""
    environment = dict(program.env)
    keys = S3_KEYS | {"operator": (environment.pop("AWS_ACCESS_KEY_ID"), environment.pop("AWS_SECRET_ACCESS_KEY"))}
    for role, (access, secret) in keys.items():
        environment |= {f"S3_ACCESS_KEY_{role.upper()}": access, f"S3_SECRET_KEY_{role.upper()}": secret}
    argv = ["sh", str(ROOT / "infra/s3/start.sh"), str(folder), *program.argv]
    return replace(program, argv=argv, env=environment)


def as_role(program: Program, port: int) -> Program:
    """Return a process of ours that logs in as its role."""
    role = program.name.partition("-")[0]
    url = f"redis://{role}:{PASSWORDS[role]}@127.0.0.1:{port}/0"
    access, secret = S3_KEYS[role]
    own = {"TILEQ_REDIS_URL": url, "TILEQ_S3_ACCESS_KEY": access, "TILEQ_S3_SECRET_KEY": secret}
    return ended_soon(replace(program, env={**program.env, **own}))


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    with tempfile.TemporaryDirectory(prefix="tileq-test-") as name:
        folder = Path(name)
        (port,) = free_ports(1)
        more = QUICK | {"TILEQ_ENGINE": "echo", "TILEQ_API_KEYS": f"acme={KEY}", "TILEQ_WEBHOOK_ALLOW": "127.0.0.0/8"}
        more |= {"TILEQ_LIMIT_REQUESTS": "100000", "TILEQ_ECHO_DELAY": "0.1"}
        whole = needed(
            lambda: whole_service(folder, Settings(), host="127.0.0.1", port=port, vision=1, more=more, load=60)
        )
        (valkey, weed), processes = whole.stages
        store_port = int(valkey.argv[valkey.argv.index("--port") + 1])
        stores = [guarded_store(valkey, folder, store_port), guarded_objects(weed, folder)]
        stages = [stores, [as_role(one, store_port) for one in processes]]
        with supervised(folder, stages):
            yield Guarded(whole.url, store_port, folder, str(whole.environment["TILEQ_S3_URL"]))


def test_every_role_does_its_work_and_is_denied_nothing(guarded: Guarded, hook: Receiver) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=guarded.url, headers=headers, timeout=60) as http, hook.up():
        api = Client(http)
        job = api.submit("Call me.", picture("PNG"), webhook={"url": hook.url}, headers={"Idempotency-Key": "k"})
        assert "event: end" in http.get(f"/v1/jobs/{job['id']}/events").text
        assert api.ended(job["id"])["state"] == "succeeded"
        eventually(lambda: api.job(job["id"])["webhook"]["state"] == "delivered")
        (message,) = http.get(f"/v1/jobs/{job['id']}/deliveries").json()["data"]
        assert http.post(f"/v1/jobs/{job['id']}/deliveries/{message['id']}/redeliver").status_code == 202
        assert http.post("/v1/webhooks/test", json={"url": hook.url}).json()["state"] == "delivered"
        assert http.post("/v1/webhooks/secret/rotate").status_code == 200
        endpoint = {"name": "a", "url": hook.url, "event_types": ["job.succeeded", "response.completed"]}
        we = http.post("/v1/webhook_endpoints", json=endpoint).json()["id"]
        assert http.post(f"/v1/webhook_endpoints/{we}", json={"name": "b"}).json()["name"] == "b"
        assert http.post(f"/v1/webhook_endpoints/{we}/rotate_secret", json={"overlap": 0.01}).status_code == 200
        assert http.post(f"/v1/webhook_endpoints/{we}/test", json={"event_type": "job.failed"}).json()["success"]
        file = http.post("/v1/files", files={"file": picture("PNG")}, data={"purpose": "vision"}).json()["id"]
        part = {"type": "input_image", "file_id": file}
        asked = {"input": [{"role": "user", "content": [part]}], "background": True}
        response = http.post("/v1/responses", json=asked).json()["id"]
        eventually(lambda: http.get(f"/v1/responses/{response}").json()["status"] == "completed")
        eventually(lambda: "response.completed" in hook.types())
        lost = api.submit(" ".join(["long"] * 60))
        api.reaches(lost["id"], "running")
        os.kill(int((guarded.folder / "run" / "vision.pid").read_text()), signal.SIGKILL)
        late = api.submit("Too late?", start_within=0.5)
        assert api.ended(late["id"])["state"] in {"expired", "succeeded"}
        assert api.ended(lost["id"])["attempt"] >= 2
        batch = http.post("/v1/batches", json={"jobs": [{"prompt": "?"}] * 3, "webhook": {"url": hook.url}}).json()
        eventually(lambda: http.get(f"/v1/batches/{batch['id']}").json()["state"] == "ended", 40)
        assert len(http.get(f"/v1/batches/{batch['id']}/results").text.splitlines()) == 3
        lines = batch_of_a_file(http, 3, url=hook.url)
        eventually(lambda: http.get(f"/v1/batches/{lines}").json()["status"] == "completed", 40)
        http.post(f"/v1/batches/{batch_of_a_file(http, 200)}/cancel").raise_for_status()
        again = http.post(f"/v1/jobs/{job['id']}/retry").json()
        api.cancel(again["id"])
        api.ended(again["id"])
        assert http.delete(f"/v1/jobs/{job['id']}").status_code == 204
        assert http.delete(f"/v1/files/{file}").json()["deleted"]
        assert http.delete(f"/v1/webhook_endpoints/{we}").json()["deleted"]
        assert http.get("/v1/models").status_code == 200
        assert http.get("/readyz").json()["status"] == "ready"
    assert guarded.denials() == []
    logs = [path.read_text(errors="replace") for path in (guarded.folder / "logs").glob("*.log")]
    assert not [log for log in logs if "AccessDenied" in log]


def batch_of_a_file(http: httpx.Client, lines: int, **webhook: str) -> str:
    """Upload a file of requests and make a batch of it; return its id."""
    request = {"custom_id": "", "method": "POST", "url": "/v1/responses", "body": {"input": "?"}}
    content = "\n".join(json.dumps(request | {"custom_id": str(n)}) for n in range(lines))
    file = http.post("/v1/files", files={"file": ("lines.jsonl", content)}, data={"purpose": "batch"}).json()
    asked = {"input_file_id": file["id"], "endpoint": "/v1/responses", "completion_window": "1h"}
    answer = http.post("/v1/batches", json=asked | {"tileq": {"webhook": webhook or None}})
    return str(answer.raise_for_status().json()["id"])


FORBIDDEN: list[tuple[str, tuple[str, ...]]] = [
    *((role, command) for role in ROLES for command in (("FLUSHALL",), ("KEYS", "*"), ("SCAN", "0"), ("ACL", "LIST"))),
    *((role, ("CONFIG", "SET", "appendonly", "no")) for role in ROLES),
    *((role, ("GET", "another:key")) for role in ROLES),
    *((role, ("HSET", "tileq:keys", "hash", "{}")) for role in ROLES),
    *((role, ("HSET", "tileq:limits", "acme", "{}")) for role in ROLES),
    *((role, ("HGETALL", "tileq:secret:acme")) for role in ("vision", "reconciler")),
    *((role, ("HGETALL", "tileq:endpoint_secret:we_x")) for role in ("vision", "reconciler")),
    *((role, ("HGETALL", "tileq:keys")) for role in ("vision", "reconciler")),
    *((role, ("EVAL", "return redis.call('HGETALL', 'tileq:secret:acme')", "0")) for role in ("vision", "reconciler")),
    *((role, ("ZADD", "tileq:outbox", "1", "job_x")) for role in ("webhooks",)),
    *((role, ("GET", "tileq:idem:acme:k")) for role in ("vision", "webhooks")),
]


@pytest.mark.parametrize(("role", "command"), FORBIDDEN, ids=lambda part: part if part in ROLES else " ".join(part))
def test_a_role_can_not_do_what_is_not_its_own(guarded: Guarded, role: str, command: tuple[str, ...]) -> None:
    with guarded.store(role) as store, pytest.raises(redis.exceptions.NoPermissionError):
        store.execute_command(*command)


def test_the_reconciler_restores_the_secret_of_an_endpoint_without_reading_it(guarded: Guarded) -> None:
    id = new_id("we")
    lost = {"id": id, "tenant": "other", "name": "a", "url": "https://a/", "host": "a:443", "events": "[]"}
    lost |= {"payload": "thin", "hint": "cret", "secret": "whsec_secret", "headers": "{}"}
    with guarded.store("reconciler") as reconciler, guarded.store("webhooks") as webhooks:
        assert Store(reconciler, "tileq:").run(endpoints.restore(lost))
        with pytest.raises(redis.exceptions.NoPermissionError):
            reconciler.hgetall(f"tileq:endpoint_secret:{id}")
        found = Store(webhooks, "tileq:").run(endpoints.get("", id))
    assert found is not None
    assert found.secrets == ["whsec_secret"]


@pytest.mark.parametrize(
    ("role", "act"),
    [
        ("webhooks", lambda client: client.put_object("tileq", "jobs/x/result-1.json", io.BytesIO(b"x"), 1)),
        ("webhooks", lambda client: client.get_object("tileq", "models/x/tokenizer.json")),
        ("webhooks", lambda client: list(client.list_objects("tileq"))),
        ("vision", lambda client: client.put_object("tileq", "batches/x.json", io.BytesIO(b"x"), 1)),
        ("vision", lambda client: client.get_object("tileq", "batches/x.json")),
        ("vision", lambda client: list(client.list_objects("tileq", recursive=True))),
        *((role, lambda client: client.remove_bucket("tileq")) for role in ROLES),
        *((role, lambda client: client.make_bucket("another")) for role in ROLES),
    ],
)
def test_a_role_reaches_its_own_objects_only(guarded: Guarded, role: str, act: Callable[[Minio], object]) -> None:
    with pytest.raises(S3Error, match="AccessDenied"):
        act(guarded.objects(role))


@pytest.mark.parametrize("role", ROLES)
def test_a_key_of_another_role_opens_nothing(guarded: Guarded, role: str) -> None:
    access, secret = S3_KEYS[role][0], S3_KEYS[ROLES[ROLES.index(role) - 1]][1]
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        S3(guarded.s3_url, access, secret, "tileq").client().get_object("tileq", "jobs/x/request.json")


def test_nobody_is_let_in_without_a_password(guarded: Guarded) -> None:
    with redis.Redis(port=guarded.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
