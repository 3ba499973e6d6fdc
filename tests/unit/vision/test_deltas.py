"""Deltas are gathered, written in order, and cost no job when they are lost."""

from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest
from redis.exceptions import ConnectionError as Away

from shared.events import STREAM_TTL_S, stream_key
from shared.jobs import State
from tests.metrics import sample
from tests.unit.vision.worker_fixture import WorkerFixture
from tests.waiting import eventually
from workers.vision.deltas import DeltaWriter
from workers.vision.engine.echo import EchoEngine


class CountingRedis(fakeredis.FakeRedis):
    """Counts its round trips; unavailable while `away`."""

    trips = 0
    away = False

    def pipeline(self, *args: Any, **options: Any) -> Any:
        self.trips += 1
        if self.away:
            raise Away("away")
        return super().pipeline(*args, **options)


@pytest.fixture
def client() -> CountingRedis:
    return CountingRedis(decode_responses=True)


@pytest.fixture
def deltas(client: CountingRedis) -> Iterator[DeltaWriter]:
    thread = DeltaWriter(client, "t:", 0.2)
    thread.start()
    yield thread
    thread.close()


def entries(client: CountingRedis, job: str) -> list[tuple[str, str, str]]:
    found: Any = client.xrange(stream_key("t:", job))
    return [(fields["attempt"], fields["offset"], fields["text"]) for _, fields in found]


def test_text_of_many_jobs_goes_out_together(client: CountingRedis, deltas: DeltaWriter) -> None:
    buffers = [deltas.buffer(f"job-{n}", 1) for n in range(10)]
    for buffer in buffers:
        buffer.add("first ")
    eventually(lambda: all(entries(client, buffer.job) for buffer in buffers))
    before = client.trips
    for text in ("one ", "two"):
        for buffer in buffers:
            buffer.add(text)
    eventually(lambda: entries(client, "job-9")[1:])
    assert client.trips == before + 1
    assert all(entries(client, buffer.job)[1:] == [("1", "6", "one two")] for buffer in buffers)
    left: Any = client.ttl(stream_key("t:", "job-0"))
    assert STREAM_TTL_S - 5 < left <= STREAM_TTL_S


def test_the_first_text_of_an_attempt_does_not_wait_for_the_interval(client: CountingRedis) -> None:
    deltas = DeltaWriter(client, "t:", interval=3600)
    deltas.start()
    deltas.buffer("job", 1).add("text")
    eventually(lambda: entries(client, "job"))
    deltas.close()


def test_text_is_written_without_a_flush(client: CountingRedis, deltas: DeltaWriter) -> None:
    buffer = deltas.buffer("job", 1)
    for text in ("text ", "and more"):
        buffer.add(text)
    eventually(lambda: "".join(text for _, _, text in entries(client, "job")) == "text and more")


def test_a_flush_does_not_wait_for_the_interval(client: CountingRedis) -> None:
    deltas = DeltaWriter(client, "t:", interval=3600)
    deltas.start()
    buffer = deltas.buffer("job", 2)
    buffer.add("last words")
    assert buffer.flush().wait(10)
    assert entries(client, "job") == [("2", "0", "last words")]
    deltas.close()


def test_text_that_was_not_written_before_the_end_is_not_written(client: CountingRedis) -> None:
    deltas = DeltaWriter(client, "t:", interval=3600)
    deltas.start()
    buffer = deltas.buffer("job", 1)
    buffer.add("all of it")
    assert buffer.finish().is_set()
    deltas.close()
    assert client.trips == 0


def test_the_text_of_a_later_attempt_is_written_so_that_readers_of_a_lost_one_reset(client: CountingRedis) -> None:
    deltas = DeltaWriter(client, "t:", interval=3600)
    deltas.start()
    buffer = deltas.buffer("job", 2)
    buffer.add("all of it")
    assert buffer.finish().wait(10)
    assert entries(client, "job") == [("2", "0", "all of it")]
    deltas.close()


def test_the_rest_of_a_text_that_was_written_in_part_is_written_at_the_end(
    client: CountingRedis, deltas: DeltaWriter
) -> None:
    buffer = deltas.buffer("job", 1)
    buffer.add("first")
    buffer.flush().wait(10)
    buffer.add(" and last")
    assert buffer.finish().wait(10)
    assert entries(client, "job") == [("1", "0", "first"), ("1", "5", " and last")]


def test_a_flush_of_nothing_sends_nothing(client: CountingRedis, deltas: DeltaWriter) -> None:
    assert deltas.buffer("job", 1).flush().wait(1)
    assert client.trips == 0


def test_offsets_count_characters_of_the_attempt(client: CountingRedis, deltas: DeltaWriter) -> None:
    buffer = deltas.buffer("job", 1)
    for text in ("é三", "x", "yz"):
        buffer.add(text)
        buffer.flush().wait(1)
    assert entries(client, "job") == [("1", "0", "é三"), ("1", "2", "x"), ("1", "3", "yz")]


def test_lost_text_is_counted_and_leaves_a_gap(client: CountingRedis, deltas: DeltaWriter) -> None:
    buffer = deltas.buffer("job", 1)
    before = sample("tileq_vision_deltas_lost_total")
    client.away = True
    buffer.add("lost")
    assert buffer.flush().wait(1)
    client.away = False
    buffer.add("kept")
    buffer.flush().wait(1)
    assert sample("tileq_vision_deltas_lost_total") == before + 1
    assert entries(client, "job") == [("1", "4", "kept")]


def test_text_that_can_not_be_written_does_not_end_the_writing(client: CountingRedis, deltas: DeltaWriter) -> None:
    broken, fine = deltas.buffer("broken", 1), deltas.buffer("fine", 1)
    broken.add("\ud800")
    assert broken.flush().wait(1)
    fine.add("text")
    assert fine.flush().wait(1)
    assert entries(client, "fine") == [("1", "0", "text")]


def test_closing_writes_what_is_left(client: CountingRedis) -> None:
    deltas = DeltaWriter(client, "t:", 60)
    deltas.start()
    deltas.buffer("job", 1).add("left")
    deltas.close()
    assert entries(client, "job") == [("1", "0", "left")]


def test_losing_the_events_redis_costs_no_job(
    build: Callable[..., WorkerFixture], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = build(engine=EchoEngine(0.1))

    def away(*_: Any, **__: Any) -> None:
        raise Away("away")

    monkeypatch.setattr(worker.deltas, "_client", type("Gone", (), {"pipeline": away})())
    job = worker.submit("one two three")
    worker.handle_hint()
    assert worker.state(job) is State.SUCCEEDED
    assert worker.deltas_of(job) == []
