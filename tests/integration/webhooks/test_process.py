"""`python -m workers.webhooks` over a real Valkey and real receivers: what is promised when things stop and start."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from standardwebhooks import Webhook

from services.cli.local.ports import free_ports
from services.cli.local.supervisor import supervised
from services.cli.local.valkey import valkey
from shared.broker import Hints, make_celery
from shared.connections.redis_client import connect
from shared.deliveries import Delivery
from shared.ids import new_id
from shared.jobs import Job, State
from shared.records import WebhookTarget
from shared.settings.roles import Settings
from shared.store import deliveries, transitions
from shared.store import secrets as webhook_secrets
from shared.store.client import Store
from tests.message_ids import message_id
from tests.receiver import Receiver, receiver
from tests.waiting import eventually

pytestmark = pytest.mark.integration
OUTPUT = {"text": "你好", "finish_reason": "stop"}


@dataclass
class Fixture:
    """A store, hints, and dispatchers as processes of their own."""

    env: Mapping[str, str]
    folder: Path
    store: Store
    hints: Hints
    stack: ExitStack
    dispatchers: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def dispatcher(self, **more: str) -> "subprocess.Popen[bytes]":
        """Start a dispatcher; it is killed at the end of the test."""
        log = self.stack.enter_context((self.folder / f"webhooks-{len(self.dispatchers)}.log").open("wb"))
        env = {**os.environ, **self.env, **more}
        dispatcher = subprocess.Popen([sys.executable, "-m", "workers.webhooks"], env=env, stdout=log, stderr=log)
        self.dispatchers.append(dispatcher)
        self.stack.callback(end, dispatcher)
        return dispatcher

    def finish_job(self, url: str, hint: bool = True, headers: Mapping[str, str] | None = None) -> str:
        """Finish a job whose webhook goes to `url`; return the id of the message."""
        host = url.split("/")[2]
        hook = WebhookTarget(url=url, host=host, events=["job.succeeded"], headers=dict(headers or {}))
        job = Job(id=new_id("job"), tenant="acme", model="m", start_within=60, run_within=60, retain=600, webhook=hook)
        self.store.run(transitions.submit("acme", [job], max_queued=1000, grace=0))
        self.store.run(transitions.claim("m", "worker", 60))
        moved = self.store.run(transitions.finish(job.id, 1, State.SUCCEEDED, {"output": OUTPUT}))
        if hint:
            self.hints.deliveries(*moved.messages)
        return message_id(job.id, "succeeded")

    def read(self, msg: str) -> Delivery:
        (delivery,) = self.store.run(deliveries.get([msg]))
        return delivery

    def ended(self, msg: str, state: str = "delivered", within: float = 15) -> Delivery:
        """Wait until the message is in `state`."""
        self.until(lambda: self.read(msg).state == state, within)
        return self.read(msg)

    def until(self, holds: Callable[[], object], within: float = 15) -> None:
        """Wait until something holds, repeating hints as the reconciler does."""

        def look() -> object:
            self.hints.deliveries(*self.store.run(deliveries.list_due())[:10])
            return holds()

        try:
            eventually(look, within=within, every=0.1)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{self.logs()}") from None

    def logs(self) -> str:
        return "\n".join(log.read_text(errors="replace") for log in sorted(self.folder.glob("webhooks-*.log")))


def end(dispatcher: "subprocess.Popen[bytes]") -> None:
    dispatcher.kill()
    dispatcher.wait()


@contextmanager
def fixture_for(url: str, prefix: str, folder: Path) -> Iterator[Fixture]:
    env = {
        "TILEQ_REDIS_URL": url,
        "TILEQ_REDIS_PREFIX": prefix,
        "TILEQ_WEBHOOK_ALLOW": "127.0.0.0/8",
        "TILEQ_WEBHOOK_SCHEDULE": "0.3,0.3,0.3,0.3,0.5,0.5,1,1",
        "TILEQ_WEBHOOK_TIMEOUT": "5",
    }
    settings = Settings(redis_url=url, redis_prefix=prefix)
    client = connect(settings.store_endpoint)
    with ExitStack() as stack:
        stack.callback(client.close)
        yield Fixture(env, folder, Store(client, prefix), Hints(make_celery(settings)), stack)


@pytest.fixture
def fixture(valkey_url: str, prefix: str, tmp_path: Path) -> Iterator[Fixture]:
    with fixture_for(valkey_url, prefix, tmp_path) as fixture:
        yield fixture


@dataclass
class Slow:
    """A receiver that does something before it answers, and keeps the ids of what came."""

    url: str = ""
    ids: list[str] = field(default_factory=list)


@contextmanager
def slow(before_answering: Callable[[], object]) -> Iterator[Slow]:
    here = Slow()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            here.ids.append(self.headers["webhook-id"])
            before_answering()
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A dispatcher that was killed reads no answer."""

    with Server(("127.0.0.1", 0), Handler) as server:
        here.url = f"http://127.0.0.1:{server.server_port}/hook"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield here
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def hook() -> Receiver:
    return receiver()


def test_a_message_arrives_signed_and_is_written_down(fixture: Fixture, hook: Receiver) -> None:
    fixture.dispatcher()
    with hook.up():
        msg = fixture.finish_job(hook.url)
        delivery = fixture.ended(msg)
    (arrived,) = hook.arrived
    (secret,) = fixture.store.run(webhook_secrets.active_secrets("acme"))
    body = Webhook(secret).verify(arrived.body, arrived.headers)
    assert (body["type"], body["data"]["output"]) == ("job.succeeded", OUTPUT)
    assert arrived.headers["webhook-id"] == msg
    assert [attempt["status"] for attempt in delivery.log] == [204]


def test_a_receiver_that_was_down_gets_its_message_when_it_is_back(fixture: Fixture, hook: Receiver) -> None:
    fixture.dispatcher()
    msg = fixture.finish_job(hook.url)
    fixture.until(lambda: fixture.read(msg).attempts >= 2)
    hook.status = 503
    with hook.up():
        fixture.until(lambda: hook.arrived)
        hook.status = 204
        delivery = fixture.ended(msg)
    assert delivery.log[0]["error"] == "the connection failed: Connection refused"
    assert 503 in [attempt["status"] for attempt in delivery.log]
    assert len({arrived.body for arrived in hook.arrived}) == 1
    assert {arrived.headers["webhook-id"] for arrived in hook.arrived} == {msg}
    job = fixture.store.run(transitions.read_job("", delivery.subject))
    assert job is not None
    assert (job.hook_state, job.hook_attempts) == ("delivered", delivery.attempts)


def test_a_receiver_that_stays_down_fails_the_message_when_the_schedule_is_used_up(
    fixture: Fixture, hook: Receiver
) -> None:
    fixture.dispatcher(TILEQ_WEBHOOK_SCHEDULE="0.1,0.1")
    delivery = fixture.ended(fixture.finish_job(hook.url), "failed")
    assert delivery.attempts == 3
    assert [attempt["next_at"] is None for attempt in delivery.log] == [False, False, True]


def test_a_dispatcher_killed_between_sending_and_recording_repeats_under_the_same_id(
    fixture: Fixture,
) -> None:
    first = fixture.dispatcher()
    killed = threading.Event()

    def kill_the_first() -> None:
        if not killed.is_set():
            first.kill()
            killed.set()

    with slow(kill_the_first) as receiver:
        msg = fixture.finish_job(receiver.url)
        assert killed.wait(15), fixture.logs()
        first.wait()
        assert (fixture.read(msg).state, fixture.read(msg).attempts) == ("pending", 0)
        fixture.dispatcher()
        end_lease(fixture.store, msg)
        delivery = fixture.ended(msg)
    assert receiver.ids == [msg, msg]
    assert (delivery.attempts, delivery.fence) == (1, 2)


def end_lease(store: Store, msg: str) -> None:
    """Let the lease of a dead dispatcher be over."""
    host = str(store.client.hget(f"{store.prefix}hook:{msg}", "host"))
    for key, member in (("hooks", msg), (f"line:{host}", msg), (f"host:{host}:busy", msg), ("hosts", host)):
        store.client.zadd(f"{store.prefix}{key}", {member: 1})


def test_two_dispatchers_send_nothing_twice(fixture: Fixture, hook: Receiver) -> None:
    with hook.up():
        messages = [fixture.finish_job(hook.url) for _ in range(40)]
        for _ in range(2):
            fixture.hints.deliveries(*messages)  # hints come twice and three times
        for _ in range(2):
            fixture.dispatcher(TILEQ_WEBHOOK_CONCURRENCY="8")
        for msg in messages:
            fixture.ended(msg)
    assert sorted(arrived.headers["webhook-id"] for arrived in hook.arrived) == sorted(messages)


def test_a_slow_host_delays_no_other(fixture: Fixture, hook: Receiver) -> None:
    release = threading.Event()
    with slow(lambda: release.wait(20)) as crawling, hook.up():
        for _ in range(40):
            fixture.finish_job(crawling.url)
        fixture.dispatcher(TILEQ_WEBHOOK_CONCURRENCY="4", TILEQ_WEBHOOK_PER_HOST="2", TILEQ_WEBHOOK_TIMEOUT="20")
        eventually(lambda: len(crawling.ids) == 2, within=15)
        for _ in range(10):
            fixture.ended(fixture.finish_job(hook.url))
        assert len(crawling.ids) == 2
        release.set()


def test_a_signal_lets_the_current_sends_end_and_begins_no_new_ones(fixture: Fixture) -> None:
    asked, release = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        release.wait(10)

    dispatcher = fixture.dispatcher(TILEQ_WEBHOOK_CONCURRENCY="1")
    with slow(hold) as receiver:
        msg, later = fixture.finish_job(receiver.url), fixture.finish_job(receiver.url)
        assert asked.wait(15), fixture.logs()
        dispatcher.send_signal(signal.SIGTERM)
        eventually(lambda: "shutdown" in fixture.logs().lower())
        release.set()
        assert dispatcher.wait(10) == 0, fixture.logs()
        assert (fixture.read(msg).state, fixture.read(msg).attempts) == ("delivered", 1)
        assert (fixture.read(later).state, fixture.read(later).attempts) == ("pending", 0)


def test_a_dispatcher_outlives_a_broker_and_store_that_are_away(tmp_path: Path, hook: Receiver) -> None:
    port, health = free_ports(2)
    url = f"http://127.0.0.1:{health}"
    with fixture_for(f"redis://127.0.0.1:{port}/0", "t:", tmp_path) as fixture, hook.up():
        dispatcher = fixture.dispatcher(TILEQ_METRICS_PORT=str(health))
        eventually(lambda: "Cannot connect" in fixture.logs(), within=15)
        for _ in range(2):  # comes, goes, comes back with what it had
            assert set(httpx.get(f"{url}/readyz", timeout=20).json()["failures"]) == {"broker", "store"}
            with supervised(tmp_path, [[valkey(tmp_path / "valkey", port)]]):
                fixture.ended(fixture.finish_job(hook.url), within=40)
                assert dispatcher.poll() is None, fixture.logs()
                eventually(lambda: httpx.get(f"{url}/readyz", timeout=20).status_code == 200, within=40)
            eventually(lambda: httpx.get(f"{url}/readyz", timeout=20).status_code == 503, within=15)
            assert httpx.get(f"{url}/livez").status_code == 200
        assert "tileq_webhook_attempts_total" in httpx.get(f"{url}/metrics").text


def test_a_secret_that_is_none_is_refused_at_the_start(fixture: Fixture) -> None:
    dispatcher = fixture.dispatcher(TILEQ_WEBHOOK_SECRET="whsec_short")
    assert dispatcher.wait(15) == 2
    assert "TILEQ_WEBHOOK_SECRET" in fixture.logs()


def test_headers_of_the_client_arrive_and_no_log_holds_them(fixture: Fixture, hook: Receiver) -> None:
    fixture.dispatcher(TILEQ_LOG_LEVEL="debug")
    with hook.up():
        fixture.ended(fixture.finish_job(hook.url, headers={"Authorization": "Bearer s3cret-token"}))
    assert hook.arrived[0].headers["authorization"] == "Bearer s3cret-token"
    assert "webhook attempt" in fixture.logs()
    assert "s3cret" not in fixture.logs()


def test_the_logs_are_json_and_name_the_message(fixture: Fixture, hook: Receiver) -> None:
    fixture.dispatcher()
    with hook.up():
        msg = fixture.finish_job(hook.url)
        fixture.ended(msg)
    lines = eventually(lambda: [line for line in fixture.logs().splitlines() if "webhook attempt" in line])
    entry = json.loads(lines[0])
    assert (entry["process"], entry["msg"], entry["status"]) == ("webhooks", msg, 204)
    assert entry["outcome"] == "delivered"
