"""Hints through a real broker."""

import json
from dataclasses import dataclass

import pytest
import redis

from shared.broker import DELIVERY_DUE, JOB_AVAILABLE, WEBHOOK_QUEUE, Hints, make_celery, vision_queue
from shared.settings.roles import Settings


def refuse(*_: object) -> None:
    raise redis.ConnectionError("reset")


@dataclass
class Broker:
    """The broker as seen from outside."""

    client: "redis.Redis"
    prefix: str

    def messages(self, queue: str) -> list[dict[str, object]]:
        """The messages that wait in `queue`, headers and all."""
        return [json.loads(raw) for raw in self.client.lrange(f"{self.prefix}mq:{queue}", 0, -1)]


@pytest.fixture
def settings(valkey_url: str, prefix: str) -> Settings:
    return Settings(redis_url=valkey_url, redis_prefix=prefix)


@pytest.fixture
def broker(valkey_url: str, prefix: str) -> Broker:
    return Broker(redis.Redis.from_url(valkey_url, decode_responses=True), prefix)


def test_a_hint_carries_the_id_and_nothing_else(settings: Settings, broker: Broker) -> None:
    hints = Hints(make_celery(settings))
    assert hints.job("m", "job_x")
    assert hints.deliveries("msg_a", "msg_b")
    assert hints.depth(vision_queue("m")) == 1
    assert hints.depth(WEBHOOK_QUEUE) == 2
    (message,) = broker.messages(vision_queue("m"))
    headers = message["headers"]
    assert isinstance(headers, dict)
    assert (headers["task"], headers["argsrepr"], headers["kwargsrepr"]) == (JOB_AVAILABLE, "('job_x',)", "{}")
    assert broker.messages(WEBHOOK_QUEUE)[0]["headers"]["task"] == DELIVERY_DUE  # type: ignore[index]
    assert len(json.dumps(message)) < 1500


def test_a_hint_is_spared_where_enough_wait(settings: Settings) -> None:
    hints = Hints(make_celery(settings))
    assert [hints.job("few", "job_a", unless_waiting=2) for _ in range(4)] == [True] * 4
    assert hints.depth(vision_queue("few")) == 2


def test_a_channel_makes_one_client_for_its_acknowledgements(settings: Settings) -> None:
    with make_celery(settings).connection_for_write() as connection, connection.channel() as channel:
        with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
            assert first is second
        channel._disconnect_pools()
        with channel.conn_or_acquire() as anew:
            assert anew is not first
            assert anew.connection_pool is channel.pool


def test_a_hint_whose_acknowledgement_fails_holds_no_place(
    settings: Settings, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_celery(settings)
    for id in ("job_a", "job_b"):
        assert Hints(app).job("m", id)
    with app.connection_for_read() as connection, connection.channel() as channel:
        channel.basic_qos(0, 1, False)
        name = vision_queue("m")
        first = channel.basic_get(name)
        assert not channel.qos.can_consume()
        with monkeypatch.context() as broken:
            broken.setattr(channel.qos, "_remove_from_indices", refuse)
            channel.basic_ack(first.delivery_tag)
        assert channel.qos.can_consume()
        channel.basic_ack(channel.basic_get(name).delivery_tag)
        assert broker.client.hkeys(f"{broker.prefix}mq:unacked") == [first.delivery_tag]


def test_a_broker_that_is_gone_costs_a_hint_and_no_exception() -> None:
    hints = Hints(make_celery(Settings(redis_url="redis://127.0.0.1:1/0", redis_timeout=0.5)))
    assert hints.job("m", "job_x") is False
    assert hints.deliveries("msg_a") is False


def test_a_hint_that_finds_no_broker_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("kombu.utils.functional.sleep", waits.append)
    Hints(make_celery(Settings(redis_url="redis://127.0.0.1:1/0"))).job("m", "job_x")
    assert waits == []


def test_no_setting_that_loses_or_strands_a_message_is_on() -> None:
    conf = make_celery(Settings(), WEBHOOK_QUEUE).conf
    assert conf.worker_cancel_long_running_tasks_on_connection_loss is False
    assert (conf.task_acks_late, conf.worker_disable_prefetch, conf.task_ignore_result) == (True, True, True)
    assert conf.accept_content == ["json"]
    assert conf.worker_enable_remote_control is False
    assert conf.broker_transport_options["visibility_timeout"] > Settings().max_run_within
