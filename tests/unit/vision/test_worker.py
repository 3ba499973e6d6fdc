"""How a job is processed: what is read, asked, stored and reported."""

import io
import threading
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from typing import Any

import pytest
import structlog
from PIL import Image
from prometheus_client import REGISTRY

from shared.jobs import State
from shared.records import JobImage, JobOutput, StageTimings, TokenUsage
from shared.requests import Generation
from shared.results import MAX_INLINE_OUTPUT_BYTES
from shared.storage import archive_key, result_key, view_key
from shared.store.stats import get_stats
from shared.store.transitions import MANY_READY
from tests.metrics import sample
from tests.unit.vision.worker_fixture import MODEL, PER_TILE, SIDE, ScriptedEngine, WorkerFixture, answer
from tests.waiting import eventually
from workers.vision.engine.base import Delta, Stage
from workers.vision.engine.echo import EchoEngine
from workers.vision.images.decoder_pool import TiledImage
from workers.vision.images.preview import TILE_GAP
from workers.vision.worker import MAX_JOBS_PER_HINT

Build = Callable[..., WorkerFixture]


def test_a_job_is_answered(worker: WorkerFixture) -> None:
    job = worker.submit("What is this?", images=[b"image"])
    assert worker.handle_hint() == 1
    ended = worker.read(job)
    assert (ended.state, ended.attempt, ended.stage, ended.tiles) == (State.SUCCEEDED, 1, "decode", 3)
    assert ended.output == JobOutput(text="echo: What is this?", finish_reason="stop")
    prompt_tokens = 3 * PER_TILE + len("What is this?")
    assert ended.usage == TokenUsage(
        prompt_tokens=prompt_tokens, image_tokens=3 * PER_TILE, cached_tokens=0, completion_tokens=4
    )
    assert (ended.prompt_tokens, ended.completion_tokens) == (prompt_tokens, 4)
    assert ended.result == ""
    assert list(worker.objects.keys("")) == [archive_key(job.id), view_key(job.id, 0)]


@pytest.mark.parametrize("inline", [True, False])
def test_a_job_of_a_former_release_is_answered_from_its_objects(worker: WorkerFixture, inline: bool) -> None:
    job = worker.submit("?", images=[b"one", b"two"], inline=inline, former=True)
    assert worker.handle_hint() == 1
    assert worker.read(job).tiles == 6
    assert worker.read(job).result == result_key(job.id, 1)  # it has no key with which its end is archived


def waiting(worker: WorkerFixture, wait_s: float) -> threading.Thread:
    """Follow a hint in a thread, whose slot waits for `wait_s` after its last job."""
    thread = threading.Thread(target=replace(worker.worker, wait_s=wait_s).handle_hint, args=("hint",))
    thread.start()
    return thread


def test_a_slot_that_waits_takes_a_job_for_which_no_hint_is_published(worker: WorkerFixture) -> None:
    first = worker.submit("one")
    thread = waiting(worker, 30)
    eventually(lambda: worker.state(first) is State.SUCCEEDED)
    second = worker.submit("two")  # publishes no hint
    eventually(lambda: worker.state(second) is State.SUCCEEDED)
    worker.shutdown.stopping.set()
    third = worker.submit("three")  # wakes the slot, whose worker stops
    thread.join(10)
    assert not thread.is_alive()
    assert (worker.state(third), worker.hints.jobs) == (State.QUEUED, [third.id])
    assert worker.read(third).charged == 0


def test_a_slot_that_waited_in_vain_returns_to_its_hints(worker: WorkerFixture) -> None:
    worker.submit("one")
    thread = waiting(worker, 0.05)
    thread.join(10)
    assert not thread.is_alive()
    assert worker.store.client.zcard(f"{worker.store.prefix}waiting:{MODEL}") == 0
    assert worker.hints.jobs == []


def test_a_slot_whose_store_is_away_while_it_waits_claims_and_returns(worker: WorkerFixture) -> None:
    job = worker.submit("one")
    worker.store.wakes = False
    thread = waiting(worker, 30)
    thread.join(10)
    assert not thread.is_alive()
    assert worker.state(job) is State.SUCCEEDED


def test_a_slot_whose_worker_stops_does_not_keep_waiting_in_the_store(worker: WorkerFixture) -> None:
    def stop_at_the_end(script: str) -> bool:
        if script == "finish":
            worker.shutdown.stopping.set()
        return False

    worker.store.away = stop_at_the_end
    worker.submit("one")
    thread = waiting(worker, 30)
    thread.join(10)
    assert not thread.is_alive()
    assert worker.store.client.zcard(f"{worker.store.prefix}waiting:{MODEL}") == 0


STAGES = ("queue", "fetch", "tile", "engine_wait", "vision", "prefill", "decode")


def observed(stage: str) -> float:
    return REGISTRY.get_sample_value("tileq_vision_stage_duration_seconds_count", {"stage": stage}) or 0


def test_the_object_of_a_large_result_holds_what_recovery_and_readers_need(build: Build) -> None:
    long = "yes" * MAX_INLINE_OUTPUT_BYTES
    worker = build(engine=ScriptedEngine(Stage("vision"), Stage("decode"), Delta(long, 2), answer(long)))
    job = worker.submit("?", images=[b"image"])
    worker.handle_hint()
    result = worker.result(job)
    assert {name: result[name] for name in ("state", "output", "attempt")} == {
        "state": "succeeded",
        "output": {"text": long, "finish_reason": "stop"},
        "attempt": 1,
    }
    assert result["usage"] == {"prompt_tokens": 7, "image_tokens": 4, "cached_tokens": 3, "completion_tokens": 2}
    timings = result["timings"]
    assert set(timings) == {*STAGES, "first_token", "total"}
    assert (timings["vision"], timings["prefill"], timings["decode"]) == (0.1, 0.2, 0.3)
    assert timings["queue"] <= timings["first_token"] <= timings["total"]
    assert result["ended_at"].endswith("Z")
    assert worker.read(job).timings == StageTimings.model_validate(timings)


@pytest.mark.parametrize("images", [(), (b"image", b"other")])
def test_the_seconds_of_the_stages_add_up_and_are_histograms(build: Build, images: tuple[bytes, ...]) -> None:
    worker = build(engine=EchoEngine(0.01))
    before = {stage: observed(stage) for stage in (*STAGES, "first_token", "total")}
    job = worker.submit("one two three", images=images)
    worker.handle_hint()
    ended = worker.read(job).timings
    assert ended is not None
    timings = ended.model_dump()
    assert sum(timings[stage] for stage in STAGES) == pytest.approx(timings["total"], abs=len(STAGES) * 1e-4)
    assert min(timings.values()) >= 0
    assert timings["decode"] >= 0.03
    assert timings["queue"] < timings["first_token"] < timings["total"]
    assert {stage: observed(stage) - count for stage, count in before.items()} == dict.fromkeys(before, 1)


def test_a_large_output_stays_out_of_the_record(build: Build) -> None:
    long = "é" * (MAX_INLINE_OUTPUT_BYTES // 2)
    worker = build(engine=ScriptedEngine(Delta(long, 1), answer(long)))
    job = worker.submit()
    worker.handle_hint()
    assert (worker.state(job), worker.read(job).output) == (State.SUCCEEDED, None)
    assert worker.result(job)["output"]["text"] == long


def test_without_a_copy_in_the_record_the_manifest_says_what_is_asked(worker: WorkerFixture) -> None:
    job = worker.submit("from the manifest", inline=False)
    worker.handle_hint()
    assert worker.read(job).output == JobOutput(text="echo: from the manifest", finish_reason="stop")


def test_each_place_in_the_prompt_takes_its_group_of_images(build: Build) -> None:
    engine = ScriptedEngine(answer())
    worker = build(engine=engine)
    worker.submit("<image> and <image>", images=[b"a", b"b", b"c"], groups=(2, 1))
    worker.handle_hint()
    (asked,) = engine.asked
    assert asked.prompt.image_tokens == 9 * PER_TILE
    assert asked.tiles.shape[0] == 9
    assert worker.decoder.asked == [(6, True)] * 3


def test_a_truncated_image_has_a_warning_in_the_record(worker: WorkerFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    tile = worker.decoder.tile

    def tile_with_warning(image: bytes, max_tiles: int, thumbnail: bool) -> TiledImage:
        tiled = tile(image, max_tiles, thumbnail)
        return replace(tiled, warning="10 rows are missing") if image == b"truncated" else tiled

    monkeypatch.setattr(worker.decoder, "tile", tile_with_warning)
    image = JobImage(media_type="image/png", bytes=1, width=64, height=32, sha256="", grid=[2, 1], tiles=3)
    job = worker.submit("?", images=[b"intact", b"truncated"], record={"images": [image, image]})
    worker.handle_hint()
    assert worker.state(job) is State.SUCCEEDED
    assert worker.read(job).images == [image, image.model_copy(update={"warning": "10 rows are missing"})]


def test_a_question_without_images_has_no_tiles(build: Build) -> None:
    engine = ScriptedEngine(answer())
    worker = build(engine=engine)
    job = worker.submit("just text", generation=Generation(max_new_tokens=5, temperature=0.5, seed=1, stop=("x",)))
    worker.handle_hint()
    (asked,) = engine.asked
    assert (len(asked.tiles), asked.prompt.image_tokens, worker.read(job).tiles) == (0, 0, 0)
    sampling = asked.sampling
    assert (sampling.max_new_tokens, sampling.temperature, sampling.seed, sampling.stop) == (5, 0.5, 1, ("x",))


def test_what_the_model_saw_is_stored_before_the_job_has_ended(worker: WorkerFixture) -> None:
    ended_before: list[bool] = []
    job = worker.submit("?", images=[b"a", b"b"], groups=(2,), former=True)

    def wait_for_the_result(key: str) -> None:
        if key.endswith(".png"):
            eventually(lambda: list(worker.objects.keys(result_key(job.id, 1))))
            ended_before.append(worker.state(job).terminal)

    worker.objects.gate = wait_for_the_result
    worker.handle_hint()
    assert ended_before == [False, False]
    assert worker.state(job) is State.SUCCEEDED
    for n in range(2):
        with Image.open(io.BytesIO(worker.objects.get(view_key(job.id, n)))) as sheet:
            assert sheet.format == "PNG"
            assert sheet.size == (3 * (SIDE + TILE_GAP), SIDE)


def test_a_view_that_is_not_stored_costs_no_job(worker: WorkerFixture) -> None:
    worker.objects.refused = ".png"
    job = worker.submit("?", images=[b"a"])
    worker.handle_hint()
    assert worker.state(job) is State.SUCCEEDED


def test_one_hint_leads_to_all_the_work_there_is(worker: WorkerFixture) -> None:
    jobs = [worker.submit(str(n)) for n in range(3)]
    assert worker.handle_hint() == 3
    assert {worker.state(job) for job in jobs} == {State.SUCCEEDED}


def test_one_hint_does_not_lead_on_for_ever(worker: WorkerFixture) -> None:
    jobs = [worker.submit(str(n)) for n in range(MAX_JOBS_PER_HINT + 1)]
    assert worker.handle_hint() == MAX_JOBS_PER_HINT
    assert [worker.state(job) for job in jobs].count(State.QUEUED) == 1


def test_a_hint_goes_on_to_another_slot_when_jobs_still_wait(worker: WorkerFixture, monkeypatch: Any) -> None:
    monkeypatch.setattr("workers.vision.worker.MAX_JOBS_PER_HINT", 2)
    jobs = [worker.submit() for _ in range(3)]
    assert worker.handle_hint(jobs[0].id) == 2
    assert worker.hints.jobs == [jobs[0].id]


def test_a_hint_is_passed_on_with_its_first_claim_while_many_jobs_wait(worker: WorkerFixture) -> None:
    jobs = [worker.submit() for _ in range(MANY_READY + 2)]
    worker.handle_hint(jobs[0].id)
    assert worker.hints.jobs == [jobs[0].id]


def test_a_hint_is_not_passed_on_where_submissions_published_one_for_each_job(worker: WorkerFixture) -> None:
    for _ in range(MANY_READY):
        worker.submit()
    worker.handle_hint()
    assert worker.hints.jobs == []


def test_no_claim_and_no_hint_follow_the_last_job(worker: WorkerFixture) -> None:
    worker.submit()
    worker.handle_hint()
    assert [call.script for call in worker.store.calls].count("claim") == 1
    assert worker.hints.jobs == []


def test_a_hint_without_work_is_dropped_and_counted(worker: WorkerFixture) -> None:
    before = sample("tileq_vision_idle_hints_total")
    assert worker.handle_hint() == 0
    assert sample("tileq_vision_idle_hints_total") == before + 1


def test_a_hint_is_dropped_while_the_store_is_away(worker: WorkerFixture) -> None:
    job = worker.submit()
    worker.store.away = lambda script: script == "claim"
    before = sample("tileq_vision_claims_total", outcome="unavailable")
    assert worker.handle_hint() == 0
    assert sample("tileq_vision_claims_total", outcome="unavailable") == before + 1
    assert worker.state(job) is State.QUEUED


def test_webhooks_that_became_due_are_hinted(worker: WorkerFixture) -> None:
    hook = {
        "url": "http://127.0.0.1:9/",
        "host": "127.0.0.1:9",
        "payload": "full",
        "events": ["job.started", "job.succeeded"],
    }
    job = worker.submit(webhook=hook)
    worker.handle_hint()
    number = job.id.partition("_")[2]
    assert worker.hints.messages == [f"msg_{number}_started", f"msg_{number}_succeeded"]


def test_the_log_names_job_attempt_and_trace(worker: WorkerFixture) -> None:
    lines: list[dict[str, Any]] = []

    def note(_: object, __: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
        lines.append(dict(event))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, note])
    try:
        job = worker.submit(trace="00-abc-def-01")
        worker.handle_hint()
    finally:
        structlog.reset_defaults()
    (ended,) = [line for line in lines if line["event"] == "attempt ended"]
    assert (ended["job"], ended["attempt"], ended["traceparent"]) == (job.id, 1, "00-abc-def-01")
    assert structlog.contextvars.get_contextvars() == {}


def test_deltas_add_up_to_the_output_before_the_job_has_ended(build: Build) -> None:
    worker = build(engine=EchoEngine(0.1))
    job = worker.submit("one two 三")
    worker.handle_hint()
    parts = worker.deltas_of(job)
    assert "".join(part.text for part in parts) == "echo: one two 三"
    assert {part.attempt for part in parts} == {1}
    offsets = [part.offset for part in parts]
    assert offsets == [sum(len(part.text) for part in parts[:n]) for n in range(len(parts))]


def test_the_store_lists_this_worker_until_it_closes(worker: WorkerFixture) -> None:
    worker.heartbeat.tick()
    census = worker.store.run(get_stats())
    assert census.models[MODEL].workers == 1
    worker.heartbeat.close()
    assert worker.store.run(get_stats()).models[MODEL].workers == 0
