"""What only the resident engine does: batches, shared prefixes, preemption, beams and samples beside neighbours."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared.conversation import Message
from tests.integration.vision.engine.test_engines import answer, asked, make
from tests.random_checkpoint import write_random
from tests.waiting import eventually
from workers.vision.checkpoint.checkpoint import Checkpoint, open_checkpoint
from workers.vision.engine.assembly import resident_engine
from workers.vision.engine.base import Delta, Done, EngineRequest, Sampling, Stage
from workers.vision.engine.errors import NonFiniteLogits, OutOfMemory
from workers.vision.engine.factory import ServedModel
from workers.vision.engine.model_runner import Forward
from workers.vision.engine.resident import ResidentEngine
from workers.vision.model.kv_pages import page_bytes
from workers.vision.model.loader import LoadOptions, load_packed
from workers.vision.model.packed_batch import PAGE_TOKENS

NEIGHBOURS = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("model") / "tileq-demo")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def stock(folder: Path) -> Iterator[ServedModel]:
    made = make(folder, "transformers")
    yield made
    made.engine.close()


@pytest.fixture
def start(checkpoint: Checkpoint) -> Iterator[Callable[..., ServedModel]]:
    """Starts an engine of its own, with `pages` pages and `slots` slots."""
    model = load_packed(checkpoint, LoadOptions("cpu", "float32"), lambda _: None)
    started: list[ResidentEngine] = []

    def build(pages: int = 4096, slots: int = NEIGHBOURS + 1) -> ServedModel:
        size = pages * page_bytes(checkpoint.config.decoder, torch.float32)
        engine = resident_engine(model, checkpoint.config, checkpoint.tokenizer, slots=slots, kv_bytes=size)
        started.append(engine)
        return ServedModel(engine, checkpoint.model, checkpoint.config.vision.image, checkpoint.prompt_format)

    yield build
    for engine in started:
        engine.close()


def variety(served: ServedModel) -> list[EngineRequest]:
    """Requests that differ in length, images and sampling."""
    return [
        replace(
            asked(served, f"job-{n}", tiles=n % 4, text=f"Question {n}: " + "why? " * (7 * n), image=n % 5),
            sampling=Sampling(
                max_new_tokens=12 + n,
                temperature=1.2 if n % 3 == 0 else 0,
                top_p=0.9 if n % 2 else None,
                seed=n,
                repetition_penalty=1.3 if n % 4 == 1 else None,
                num_beams=2 if n % 7 == 2 else 1,
            ),
        )
        for n in range(NEIGHBOURS)
    ]


def finished(served: ServedModel, request: EngineRequest) -> Done:
    *_, done = served.engine.submit(request)
    assert isinstance(done, Done)
    return done


def together(served: ServedModel, requests: list[EngineRequest]) -> list[Done]:
    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(lambda request: finished(served, request), requests))


def test_each_of_many_gets_the_text_that_it_gets_alone(start: Callable[..., ServedModel]) -> None:
    served = start()
    alone = [finished(served, request).text for request in variety(served)]
    assert [done.text for done in together(start(), variety(served))] == alone


def test_a_greedy_text_is_the_stock_models_among_neighbours(
    start: Callable[..., ServedModel], stock: ServedModel
) -> None:
    served = start()
    greedy = asked(served, "greedy", tiles=2, max_new_tokens=40)
    assert together(served, [*variety(served), greedy])[-1].text == finished(stock, greedy).text


@pytest.mark.parametrize("sampling", [{"num_beams": 3}, {"num_beams": 4, "repetition_penalty": 2.0}], ids=str)
def test_beams_find_what_the_stock_models_beams_find(
    start: Callable[..., ServedModel], stock: ServedModel, sampling: dict[str, Any]
) -> None:
    served = start()
    for image in range(3):
        request = asked(served, image=image, **sampling)
        found, expected = finished(served, request), finished(stock, request)
        assert (found.text, found.completion_tokens) == (expected.text, expected.completion_tokens)


def test_few_pages_preempt_but_change_no_text(start: Callable[..., ServedModel]) -> None:
    roomy, narrow = start(), start(pages=40)
    samplings: list[dict[str, Any]] = [{}, {"temperature": 1.3, "seed": 3}, {}, {"num_beams": 2}, {}]
    requests = [
        asked(roomy, f"job-{n}", tiles=0, text=f"Question {n}", max_new_tokens=180, **sampling)
        for n, sampling in enumerate(samplings)
    ]
    assert [done.text for done in together(narrow, requests)] == [done.text for done in together(roomy, requests)]
    assert narrow.engine.stats().preemptions > 0
    assert narrow.engine.stats().used_pages == 0


def test_another_question_about_an_image_pays_neither_vision_nor_its_prefill(start: Callable[..., ServedModel]) -> None:
    served = start()
    first = finished(served, asked(served, tiles=3))
    events = list(served.engine.submit(asked(served, tiles=3, text="And what else?")))
    done = events[-1]
    assert isinstance(done, Done)
    assert first.cached_tokens == 0
    assert 3 * 196 - PAGE_TOKENS < done.cached_tokens < done.prompt_tokens
    assert [event.name for event in events if isinstance(event, Stage)] == ["prefill", "decode"]
    assert done.text == finished(start(), asked(served, tiles=3, text="And what else?")).text


def test_equal_prompts_about_other_images_share_only_what_comes_before_the_image(
    start: Callable[..., ServedModel],
) -> None:
    served = start()
    finished(served, asked(served, image=1))
    other = finished(served, asked(served, image=2))
    assert other.cached_tokens < other.prompt_tokens - 196
    assert other.text == finished(start(), asked(served, image=2)).text


def test_prompts_of_another_salt_share_nothing(start: Callable[..., ServedModel]) -> None:
    served = start()
    finished(served, asked(served))
    assert finished(served, replace(asked(served), cache_salt="another tenant")).cached_tokens == 0
    assert finished(served, asked(served)).cached_tokens > 0


def test_features_outlive_the_pages_of_their_prompt(start: Callable[..., ServedModel]) -> None:
    served = start(pages=80)
    finished(served, asked(served, tiles=1))
    finished(served, asked(served, tiles=0, text="x" * 1100))  # takes every page
    events = list(served.engine.submit(asked(served, tiles=1)))
    assert [event.name for event in events if isinstance(event, Stage)] == ["prefill", "decode"]


def test_many_equal_requests_encode_their_image_once(start: Callable[..., ServedModel]) -> None:
    served = start()
    texts = {done.text for done in together(served, [asked(served, f"job-{n}", tiles=2) for n in range(8)])}
    assert len(texts) == 1
    assert served.engine.stats().encoded_tiles == 2


def test_a_request_that_fits_no_cache_is_refused_with_the_numbers(start: Callable[..., ServedModel]) -> None:
    with pytest.raises(Exception, match="the key-value cache holds 159"):
        answer(start(pages=10), tiles=1)


def test_non_finite_logits_end_only_their_request(
    start: Callable[..., ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = start()
    assert isinstance(served.engine, ResidentEngine)
    forward = served.engine.parts.runner.forward

    def broken(chunks: Any) -> Forward:
        found = forward(chunks)
        for row, chunk in enumerate(found.chunks):
            if chunk.sequence.request.id == "broken":
                found.logits[row, 5] = torch.nan
        return found

    monkeypatch.setattr(served.engine.parts.runner, "forward", broken)
    healthy = served.engine.submit(asked(served, "healthy", image=1))
    with pytest.raises(NonFiniteLogits):
        list(served.engine.submit(asked(served, "broken", image=2)))
    *_, done = healthy
    assert isinstance(done, Done)
    assert done.completion_tokens == 24
    again = finished(served, asked(served, "again", image=2))
    assert again.cached_tokens < again.prompt_tokens - 196  # nothing of its image is kept


def test_too_little_memory_makes_steps_smaller_before_it_ends_a_request(
    start: Callable[..., ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = start()
    assert isinstance(served.engine, ResidentEngine)
    forward, largest = served.engine.parts.runner.forward, 64

    def small(chunks: Any) -> Forward:
        if sum(chunk.rows for chunk in chunks) > largest:
            raise torch.OutOfMemoryError("no memory")
        return forward(chunks)

    monkeypatch.setattr(served.engine.parts.runner, "forward", small)
    expected = finished(start(), asked(served, tiles=2)).text
    assert finished(served, asked(served, tiles=2)).text == expected
    largest = 0
    with pytest.raises(OutOfMemory):
        finished(served, asked(served, text="other"))


def test_a_step_that_fails_ends_its_requests_and_the_engine_goes_on(
    start: Callable[..., ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = start()
    assert isinstance(served.engine, ResidentEngine)
    with monkeypatch.context() as patch:
        patch.setattr(served.engine.parts.runner, "forward", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            finished(served, asked(served))
    assert finished(served, asked(served)).completion_tokens == 24


def test_a_token_mask_bounds_what_is_said(start: Callable[..., ServedModel], checkpoint: Checkpoint) -> None:
    served = start()
    digits = [token for digit in "0123456789" for token in checkpoint.tokenizer.encode_text(digit)]
    allowed = np.zeros(checkpoint.config.decoder.vocab, dtype=np.bool_)
    allowed[digits] = True
    for sampling in (Sampling(max_new_tokens=9), Sampling(max_new_tokens=9, temperature=1.0)):
        request = replace(asked(served), token_mask=lambda _: allowed, sampling=sampling)
        assert finished(served, request).text.isdigit()


def test_a_running_answer_goes_on_while_a_long_prompt_comes_in(start: Callable[..., ServedModel]) -> None:
    served = start()
    running = served.engine.submit(asked(served, "running", tiles=0, max_new_tokens=20_000))
    assert any(isinstance(event, Delta) for event in running)
    long = served.engine.submit(asked(served, "long", tiles=0, text="x" * 8000, max_new_tokens=1))
    said = 0
    reader = threading.Thread(target=lambda: list(long), daemon=True)
    reader.start()
    for event in running:
        said += isinstance(event, Delta)
        if not reader.is_alive():
            break
    assert said > 8  # the prompt took more steps than one, and each gave a token


def test_the_urgent_goes_first(start: Callable[..., ServedModel]) -> None:
    served = start(slots=1)
    engine = served.engine
    blocker = engine.submit(asked(served, "blocker", max_new_tokens=20_000))
    next(blocker)
    low = engine.submit(replace(asked(served, "low", max_new_tokens=20_000), priority=2))
    high = engine.submit(replace(asked(served, "high", max_new_tokens=3), priority=0))  # queued once `submit` returns
    engine.cancel("blocker")
    next(event for event in low if isinstance(event, Stage) and event.name == "decode")
    assert engine.stats().finished == 1  # the one slot was the urgent request's before
    assert isinstance(list(high)[-1], Done)
    engine.cancel("low")


def test_cancelling_frees_the_pages(start: Callable[..., ServedModel]) -> None:
    served = start()
    events = served.engine.submit(asked(served, "long", max_new_tokens=20_000))
    next(events)
    served.engine.cancel("long")
    eventually(lambda: served.engine.stats().used_pages == 0)
    assert served.engine.stats().running == 0


def test_a_second_round_finds_the_first_ones_keys_and_values(start: Callable[..., ServedModel]) -> None:
    served = start()
    first = finished(served, asked(served, tiles=4))
    rounds = [
        Message(role="user", content="What is this?"),
        Message(role="assistant", content=first.text),
        Message(role="user", content="Are you sure?"),
    ]
    prompt = served.prompt(rounds, [4])
    second = finished(served, replace(asked(served, tiles=4), prompt=prompt))
    assert second.cached_tokens >= first.prompt_tokens - 2 * PAGE_TOKENS


def test_a_watchdog_knows_what_the_part_in_progress_may_take(
    start: Callable[..., ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = start()
    assert isinstance(served.engine, ResidentEngine)
    engine, runner = served.engine, served.engine.parts.runner
    seen: list[tuple[float | None, float]] = []

    def watched(compute: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(work: Any) -> Any:
            stats = engine.stats()
            seen.append((stats.busy_since, stats.step_allowance))
            return compute(work)

        return call

    monkeypatch.setattr(runner, "encode", watched(runner.encode))
    monkeypatch.setattr(runner, "forward", watched(runner.forward))
    running = engine.submit(asked(served, "running", max_new_tokens=20_000))
    assert any(isinstance(event, Delta) for event in running)
    finished(served, asked(served, tiles=2, image=3, max_new_tokens=3))  # its tiles share steps with the answer
    times = [since for since, _ in seen]
    assert None not in times
    assert len(set(times)) == len(times)  # each part is a step of its own to the watchdog
    assert min(allowance for _, allowance in seen) > 0
