"""A job that ends as it should: what is read, asked, stored and told."""

import io
import time
from collections.abc import Callable, MutableMapping
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from PIL import Image

from shared.jobs import State
from shared.requests import Generation
from shared.storage import result_key, view_key
from shared.store.stats import get_stats
from tests.unit.vision_worker.house import MODEL, PER_TILE, SIDE, House, ScriptedEngine
from workers.vision.engine.base import Delta, Done, Stage
from workers.vision.render import GAP
from workers.vision.results import INLINE
from workers.vision.worker import CLAIMS, DROPPED_HINTS, PER_HINT

Build = Callable[..., House]


def answer(text: str = "yes", **changes: object) -> Done:
    timings = {"vision": 0.1, "prefill": 0.2, "decode": 0.3, "first_token": 0.3}
    parts = {
        "text": text,
        "finish_reason": "stop",
        "prompt_tokens": 7,
        "image_tokens": 4,
        "cached_tokens": 3,
        "completion_tokens": 2,
    }
    return Done(**(parts | {"timings": timings} | changes))  # type: ignore[arg-type]


def test_a_job_is_answered(house: House) -> None:
    job = house.submit("What is this?", images=[b"picture"])
    assert house.look() == 1
    ended = house.read(job)
    assert (ended.state, ended.attempt, ended.stage, ended.tiles) == (State.SUCCEEDED, 1, "decode", 3)
    assert ended.output == {"text": "echo: What is this?", "finish_reason": "stop"}
    prompt_tokens = 3 * PER_TILE + len("What is this?")
    assert ended.usage == {
        "prompt_tokens": prompt_tokens,
        "image_tokens": 3 * PER_TILE,
        "cached_tokens": 0,
        "completion_tokens": 4,
    }
    assert (ended.prompt_tokens, ended.completion_tokens) == (prompt_tokens, 4)
    assert ended.result == result_key(job.id, 1)


def test_the_result_object_holds_what_recovery_and_readers_need(build: Build) -> None:
    house = build(engine=ScriptedEngine(Stage("vision"), Stage("decode"), Delta("yes", 2), answer()))
    job = house.submit("?", images=[b"picture"])
    house.look()
    result = house.result(job)
    assert {name: result[name] for name in ("state", "output", "attempt")} == {
        "state": "succeeded",
        "output": {"text": "yes", "finish_reason": "stop"},
        "attempt": 1,
    }
    assert result["usage"] == {"prompt_tokens": 7, "image_tokens": 4, "cached_tokens": 3, "completion_tokens": 2}
    timings = result["timings"]
    assert set(timings) == {"queue", "fetch", "tile", "vision", "prefill", "decode", "first_token", "total"}
    assert (timings["vision"], timings["prefill"], timings["decode"]) == (0.1, 0.2, 0.3)
    assert timings["queue"] <= timings["first_token"] <= timings["total"]
    assert result["ended_at"].endswith("Z")
    assert house.read(job).timings == timings


def test_a_large_output_stays_out_of_the_record(build: Build) -> None:
    long = "é" * (INLINE // 2)
    house = build(engine=ScriptedEngine(Delta(long, 1), answer(long)))
    job = house.submit()
    house.look()
    assert (house.state(job), house.read(job).output) == (State.SUCCEEDED, None)
    assert house.result(job)["output"]["text"] == long


def test_without_a_copy_in_the_record_the_manifest_says_what_is_asked(house: House) -> None:
    job = house.submit("from the manifest", inline=False)
    house.look()
    assert house.result(job)["output"]["text"] == "echo: from the manifest"


def test_each_place_in_the_prompt_takes_its_group_of_images(build: Build) -> None:
    engine = ScriptedEngine(answer())
    house = build(engine=engine)
    house.submit("<image> and <image>", images=[b"a", b"b", b"c"], groups=(2, 1))
    house.look()
    (asked,) = engine.asked
    assert asked.prompt.image_tokens == 9 * PER_TILE
    assert asked.tiles.shape[0] == 9
    assert house.sandbox.asked == [(6, True)] * 3


def test_a_question_without_images_has_no_tiles(build: Build) -> None:
    engine = ScriptedEngine(answer())
    house = build(engine=engine)
    job = house.submit("just text", generation=Generation(max_new_tokens=5, temperature=0.5, seed=1, stop=("x",)))
    house.look()
    (asked,) = engine.asked
    assert (len(asked.tiles), asked.prompt.image_tokens, house.read(job).tiles) == (0, 0, 0)
    sampling = asked.sampling
    assert (sampling.max_new_tokens, sampling.temperature, sampling.seed, sampling.stop) == (5, 0.5, 1, ("x",))


def test_what_the_model_saw_is_there_when_the_job_has_ended(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    store = house.objects.put

    def put_slowly(key: str, data: bytes, media_type: str) -> None:
        time.sleep(0.2 * key.endswith(".png"))
        store(key, data, media_type)

    monkeypatch.setattr(house.images, "_objects", SimpleNamespace(put=put_slowly, get=house.objects.get))
    job = house.submit("?", images=[b"a", b"b"], groups=(2,))
    house.look()
    for n in range(2):
        with Image.open(io.BytesIO(house.objects.get(view_key(job.id, n)))) as sheet:
            assert sheet.format == "PNG"
            assert sheet.size == (3 * (SIDE + GAP), SIDE)


def test_a_view_that_is_not_stored_costs_no_job(house: House) -> None:
    house.objects.refused = ".png"
    job = house.submit("?", images=[b"a"])
    house.look()
    assert house.state(job) is State.SUCCEEDED


def test_one_hint_leads_to_all_the_work_there_is(house: House) -> None:
    jobs = [house.submit(str(n)) for n in range(3)]
    assert house.look() == 3
    assert {house.state(job) for job in jobs} == {State.SUCCEEDED}


def test_one_hint_does_not_lead_on_for_ever(house: House) -> None:
    jobs = [house.submit(str(n)) for n in range(PER_HINT + 1)]
    assert house.look() == PER_HINT
    assert [house.state(job) for job in jobs].count(State.QUEUED) == 1


def test_a_hint_without_work_is_dropped_and_counted(house: House) -> None:
    before = DROPPED_HINTS._value.get()
    assert house.look() == 0
    assert DROPPED_HINTS._value.get() == before + 1


def test_a_hint_is_dropped_while_the_store_is_away(house: House) -> None:
    job = house.submit()
    house.store.away = lambda script: script == "claim"
    before = CLAIMS.labels("unavailable")._value.get()
    assert house.look() == 0
    assert CLAIMS.labels("unavailable")._value.get() == before + 1
    assert house.state(job) is State.QUEUED


def test_webhooks_that_became_due_are_hinted(house: House) -> None:
    hook = {
        "url": "http://127.0.0.1:9/",
        "host": "127.0.0.1:9",
        "payload": "full",
        "events": ["job.started", "job.succeeded"],
    }
    job = house.submit(webhook=hook)
    house.look()
    number = job.id.partition("_")[2]
    assert house.hints.messages == [f"msg_{number}_started", f"msg_{number}_succeeded"]


def test_the_log_names_job_attempt_and_trace(house: House) -> None:
    lines: list[dict[str, Any]] = []

    def note(_: object, __: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
        lines.append(dict(event))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, note])
    try:
        job = house.submit(trace="00-abc-def-01")
        house.look()
    finally:
        structlog.reset_defaults()
    (ended,) = [line for line in lines if line["event"] == "attempt ended"]
    assert (ended["job"], ended["attempt"], ended["traceparent"]) == (job.id, 1, "00-abc-def-01")
    assert structlog.contextvars.get_contextvars() == {}


def test_deltas_add_up_to_the_output_before_the_job_has_ended(build: Build) -> None:
    words = [Delta(word, n) for n, word in enumerate(("one", " two", " 三", ""), 1)]
    house = build(engine=ScriptedEngine(*words, answer("one two 三")))
    job = house.submit()
    house.look()
    parts = house.deltas_of(job)
    assert "".join(part.text for part in parts) == "one two 三"
    assert {part.attempt for part in parts} == {1}
    offsets = [part.offset for part in parts]
    assert offsets == [sum(len(part.text) for part in parts[:n]) for n in range(len(parts))]


def test_the_house_sees_this_worker_until_it_goes(house: House) -> None:
    house.pulse.attempt()
    census = house.store.run(get_stats())
    assert census.models[MODEL].workers == 1
    house.pulse.close()
    assert house.store.run(get_stats()).models[MODEL].workers == 0
