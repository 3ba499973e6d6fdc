"""Who is delivered to next, and what keeps two dispatchers apart: over the in-process double and a real Valkey."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.client import PubSub

from shared.deliveries import Delivery, DeliveryOutcome
from shared.events import deliveries_channel
from shared.ids import new_id
from shared.jobs import Job, State
from shared.records import WebhookTarget
from shared.store import deliveries, keys, transitions
from shared.store.client import Store, memory_store
from shared.store.stats import get_stats
from tests.message_ids import message_id
from tests.valkeys import valkeys
from tests.waiting import eventually

LONG = 60.0
GONE = 0.001  #: a lease that has ended by the next look


@pytest.fixture(params=["memory", "valkey"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "memory":
        yield memory_store()
        return
    client = redis.Redis.from_url(request.getfixturevalue("valkey_url"), decode_responses=True)
    yield Store(client, request.getfixturevalue("prefix"))
    client.close()


@pytest.fixture
def deliveries_only(store: Store) -> Iterator[PubSub]:
    """A subscription to the channel of deliveries."""
    with store.client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
        pubsub.subscribe(deliveries_channel(store.prefix))
        eventually(lambda: pubsub.get_message(timeout=0.1))
        yield pubsub


def end_job(store: Store) -> tuple[str, tuple[str, ...]]:
    """Return the message of a job that ends, and those that hints are to be published of."""
    hook = WebhookTarget(url="https://a/", host="a:443", events=["job.succeeded"])
    job = Job(id=new_id("job"), tenant="acme", model="m", start_within=LONG, run_within=LONG, retain=LONG, webhook=hook)
    store.run(transitions.submit("acme", [job], max_queued=10, grace=0))
    store.run(transitions.claim("m", "worker", LONG))
    return message_id(job.id, "succeeded"), store.run(transitions.finish(job.id, 1, State.SUCCEEDED, {})).messages


def test_a_delivery_that_no_dispatcher_listens_for_gets_a_hint(store: Store) -> None:
    msg, hinted = end_job(store)
    assert hinted == (msg,)


def test_a_delivery_that_a_dispatcher_heard_of_gets_no_hint(store: Store, deliveries_only: PubSub) -> None:
    msg, hinted = end_job(store)
    assert hinted == ()
    assert eventually(lambda: deliveries_only.get_message(timeout=0.1))["data"] == msg
    assert store.run(deliveries.list_due()) == [msg]  # the reconciler hints at it until it is claimed


def test_a_user_that_may_not_publish_deliveries_ends_jobs_and_leaves_them_to_hints(
    tmp_path: Path,
) -> None:
    with valkeys(tmp_path, {}) as (server,):
        rules = ("on", "nopass", "~*", "resetchannels", "&t:changes", "+@all")
        server.admin.execute_command("ACL", "SETUSER", "app", *rules)  # type: ignore[no-untyped-call]
        with redis.Redis(port=server.port, username="app", password="x", decode_responses=True) as client:
            store = Store(client, "t:")
            with server.admin.pubsub() as listening:  # type: ignore[no-untyped-call]
                listening.subscribe(deliveries_channel("t:"))
                msg, hinted = end_job(store)
            assert hinted == (msg,)


def owed(store: Store, host: str = "a:443", event: str = "succeeded", tenant: str = "acme") -> str:
    """Return the one message of a job that wanted to hear of `event`."""
    hook = WebhookTarget(url=f"https://{host}/", host=host, events=[f"job.{event}"])
    job = Job(id=new_id("job"), tenant=tenant, model="m", start_within=LONG, run_within=LONG, retain=LONG, webhook=hook)
    store.run(transitions.submit(tenant, [job], max_queued=10_000, grace=0))
    store.run(transitions.claim("m", "worker", LONG))
    store.run(transitions.finish(job.id, 1, State.SUCCEEDED, {}))
    return message_id(job.id, event)


def claim(store: Store, lease: float = LONG, *, hint: str = "", per_host: int = 8) -> Delivery | None:
    return store.run(deliveries.claim(hint, lease, per_host))


def claimed(store: Store, lease: float = LONG, **options: Any) -> Delivery:
    delivery = eventually(lambda: claim(store, lease, **options))
    assert delivery is not None
    return delivery


def finish(store: Store, held: Delivery, outcome: DeliveryOutcome = "delivered", delay: float = 0) -> bool:
    attempt, healthy = {"n": held.fence}, outcome == "delivered"
    call = deliveries.finish(held.msg, held.fence, outcome, delay=delay, attempt=attempt, healthy=healthy)
    return store.run(call)


def read(store: Store, msg: str) -> Delivery:
    (delivery,) = store.run(deliveries.get([msg]))
    return delivery


def hook_state(store: Store, msg: str) -> tuple[str, int]:
    job = store.run(transitions.read_job("", read(store, msg).subject))
    assert job is not None
    return job.hook_state, job.hook_attempts


def fail_until_paused(store: Store, host: str = "dead:443") -> list[str]:
    """Let five messages to `host` go unanswered; return them."""
    messages = [owed(store, host) for _ in range(5)]
    for _ in messages:
        finish(store, claimed(store), "again", delay=LONG)
    return messages


def test_receivers_are_served_in_turn_however_many_messages_one_has(store: Store) -> None:
    for host in ("greedy", "greedy", "greedy", "greedy", "modest", "modest"):
        owed(store, host)
    assert [claimed(store).host for _ in range(6)] == ["greedy", "modest", "greedy", "modest", "greedy", "greedy"]


def test_the_oldest_message_to_a_receiver_goes_first(store: Store) -> None:
    messages = [owed(store) for _ in range(3)]
    assert [claimed(store).msg for _ in messages] == messages


def test_a_hint_does_not_jump_the_line_and_a_test_does(store: Store) -> None:
    first, second = owed(store), owed(store)
    store.run(deliveries.add_test("msg_test", "acme", "https://a/", "a:443"))
    assert claimed(store, hint="msg_test").msg == "msg_test"
    assert claimed(store, hint=second).msg == first


def test_no_host_gets_more_than_its_share_at_once_and_others_are_not_held(store: Store) -> None:
    for _ in range(5):
        owed(store, "slow")
    assert [claimed(store, per_host=2).host for _ in range(2)] == ["slow", "slow"]
    assert claim(store, per_host=2) is None
    owed(store, "quick")
    assert claimed(store, per_host=2).host == "quick"
    assert claim(store, per_host=2) is None


def test_a_slot_of_a_host_is_free_once_an_attempt_ends_or_its_dispatcher_is_lost(store: Store) -> None:
    for _ in range(3):
        owed(store)
    held = claimed(store, per_host=1)
    assert claim(store, per_host=1) is None
    finish(store, held)
    claimed(store, GONE, per_host=1)
    assert claimed(store, per_host=1) is not None


@pytest.mark.parametrize("host", ["slow", "dead"])
def test_a_thousand_messages_to_a_closed_host_hide_no_other(store: Store, host: str) -> None:
    if host == "dead":
        fail_until_paused(store, host)
        # For longer than a busy machine takes to store a thousand messages.
        store.client.set(f"{store.prefix}host:{host}:open", store.run(keys.server_time()) + LONG)
    else:
        owed(store, host)
        claimed(store, per_host=1)
    for n in range(1000):
        store.run(deliveries.add_test(f"msg_{n}", "acme", f"https://{host}/", host))
    owed(store, "other")
    assert claimed(store, per_host=1).host == "other"
    assert claim(store, per_host=1) is None
    next_look = store.client.zscore(f"{store.prefix}hosts", host)
    assert next_look is not None
    assert next_look > store.run(keys.server_time()), "a claim skips the host in one step while it is closed"


def test_a_host_that_does_not_answer_is_paused_and_its_messages_lose_no_attempt(store: Store) -> None:
    fail_until_paused(store)
    waiting = owed(store, "dead:443")
    assert claim(store) is None
    assert waiting not in store.run(deliveries.list_due())
    assert (read(store, waiting).state, read(store, waiting).attempts) == ("pending", 0)


def test_after_the_pause_one_message_goes_ahead_and_an_answer_ends_it(store: Store) -> None:
    fail_until_paused(store)
    for _ in range(3):
        owed(store, "dead:443")
    end_pause(store, "dead:443")
    ahead = claimed(store)
    assert claim(store) is None
    finish(store, ahead)
    assert [claimed(store).host, claimed(store).host] == ["dead:443"] * 2


def test_a_failure_after_the_pause_pauses_longer_and_stragglers_do_not(store: Store) -> None:
    stragglers = [owed(store, "dead:443") for _ in range(8)]
    held = [claimed(store) for _ in stragglers]
    for one in held:
        finish(store, one, "again", delay=LONG)
    assert 4 < pause(store, "dead:443") <= 5
    owed(store, "dead:443")
    end_pause(store, "dead:443")
    finish(store, claimed(store), "again", delay=LONG)
    assert 9 < pause(store, "dead:443") <= 10


def test_a_test_goes_through_a_pause(store: Store) -> None:
    fail_until_paused(store)
    store.run(deliveries.add_test("msg_test", "acme", "https://dead/", "dead:443"))
    assert claimed(store, hint="msg_test").msg == "msg_test"


def pause(store: Store, host: str) -> float:
    """Return how long the host is still paused."""
    seconds, micro = store.client.time()
    return float(str(store.client.get(f"{store.prefix}host:{host}:open"))) - seconds - micro / 1e6


def end_pause(store: Store, host: str) -> None:
    """Let the pause be over."""
    store.client.set(f"{store.prefix}host:{host}:open", "1")
    store.client.zadd(f"{store.prefix}hosts", {host: 1})


def test_only_the_dispatcher_that_holds_a_message_writes_its_attempt_down(store: Store) -> None:
    msg = owed(store)
    frozen = claimed(store, GONE)
    winner = claimed(store)
    assert (frozen.msg, winner.fence) == (winner.msg, 2)
    assert finish(store, frozen) is False
    assert store.run(deliveries.release(msg, frozen.fence, 0)) is False
    assert finish(store, winner) is True
    assert [attempt["n"] for attempt in read(store, msg).log] == [2]


def test_writing_an_attempt_down_twice_changes_nothing(store: Store) -> None:
    msg = owed(store)
    held = claimed(store)
    assert finish(store, held, "again", delay=LONG)
    assert finish(store, held, "again", delay=LONG)
    assert (read(store, msg).attempts, len(read(store, msg).log)) == (1, 1)
    assert hook_state(store, msg) == ("pending", 1)


def test_a_released_message_comes_back_untried(store: Store) -> None:
    msg = owed(store)
    held = claimed(store)
    assert store.run(deliveries.release(msg, held.fence, 0.05)) is True
    assert claim(store) is None
    again = claimed(store)
    assert (again.msg, again.attempts, again.fence) == (msg, 0, 2)


def test_a_message_is_due_again_after_its_wait(store: Store) -> None:
    msg = owed(store)
    finish(store, claimed(store), "again", delay=0.1)
    assert claim(store) is None
    assert store.run(deliveries.list_due()) == []
    assert eventually(lambda: store.run(deliveries.list_due())) == [msg]
    assert claimed(store).attempts_in_schedule == 1


@pytest.mark.parametrize("outcome", ["delivered", "failed"])
def test_an_ended_message_is_delivered_again_when_asked_on_a_fresh_schedule(
    store: Store, outcome: DeliveryOutcome
) -> None:
    msg = owed(store)
    held = claimed(store)
    finish(store, held, outcome)
    assert hook_state(store, msg) == (outcome, 1)
    assert claim(store) is None
    assert store.run(deliveries.redeliver("mallory", held.subject, msg)) == ""
    assert store.run(deliveries.redeliver("acme", held.subject, msg)) == outcome
    assert hook_state(store, msg) == ("pending", 1)
    again = claimed(store)
    assert (again.msg, again.attempts_in_schedule, again.attempts) == (msg, 0, 1)
    assert again.since > held.since


def test_asking_again_for_a_message_on_its_way_does_not_send_it_twice(store: Store) -> None:
    msg = owed(store)
    held = claimed(store)
    assert store.run(deliveries.redeliver("acme", held.subject, msg)) == "pending"
    assert claim(store) is None
    assert finish(store, held)
    assert claim(store) is None
    assert hook_state(store, msg) == ("delivered", 1)


def test_asking_again_for_a_message_that_waits_does_not_wait(store: Store) -> None:
    msg = owed(store)
    held = claimed(store)
    finish(store, held, "again", delay=LONG)
    assert store.run(deliveries.redeliver("acme", held.subject, msg)) == "pending"
    assert claimed(store).msg == msg


def test_word_of_the_start_speaks_for_the_webhook_only_while_there_is_no_other(store: Store) -> None:
    alone = owed(store, event="started")
    finish(store, claimed(store))
    assert hook_state(store, alone) == ("delivered", 1)
    hook = WebhookTarget(url="https://a/", host="a", events=["job.started", "job.succeeded"])
    job = Job(id=new_id("job"), tenant="acme", model="m", start_within=LONG, run_within=LONG, retain=LONG, webhook=hook)
    store.run(transitions.submit("acme", [job], max_queued=10, grace=0))
    store.run(transitions.claim("m", "worker", LONG))
    started = claimed(store)
    store.run(transitions.finish(job.id, 1, State.SUCCEEDED, {}))
    finish(store, started)
    assert hook_state(store, started.msg) == ("pending", 0)


def test_a_deleted_job_leaves_its_receivers_line(store: Store) -> None:
    msg, other = owed(store), owed(store)
    store.run(transitions.delete("acme", read(store, msg).subject))
    assert claimed(store).msg == other
    assert claim(store) is None
    assert store.run(get_stats()).hooks == 1  # the one that is held


def test_when_all_is_delivered_no_host_is_left_to_look_at(store: Store) -> None:
    for host in ("a", "b"):
        owed(store, host)
        finish(store, claimed(store))
    left = {str(key).removeprefix(store.prefix).partition(":")[0] for key in store.client.scan_iter(f"{store.prefix}*")}
    assert not left & {"hosts", "line", "hooks", "host"}
