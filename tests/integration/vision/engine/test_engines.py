"""What every engine does that computes, on a small checkpoint of our own."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jsonschema
import numpy as np
import pytest

from shared.conversation import Message
from shared.settings.roles import Settings
from tests.random_checkpoint import write_random
from workers.vision.engine.base import Delta, Done, EngineRequest, Sampling, Stage
from workers.vision.engine.errors import Cancelled, ContextExceeded, EngineClosed
from workers.vision.engine.factory import ServedModel, make_engine

EngineName = Literal["resident", "transformers"]
ENGINES: tuple[EngineName, ...] = ("resident", "transformers")


def make(folder: Path, engine: EngineName) -> ServedModel:
    return make_engine(Settings(engine=engine, model=str(folder), device="cpu", dtype="float32"), lambda _: None)


@pytest.fixture(scope="module", params=ENGINES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    made = make(write_random(tmp_path_factory.mktemp("model") / "tileq-demo"), request.param)
    yield made
    made.engine.close()


def asked(
    served: ServedModel, name: str = "job", tiles: int = 1, text: str = "What is this?", image: int = 1, **sampling: Any
) -> EngineRequest:
    prompt = served.prompt([Message(role="user", content=text)], [tiles] if tiles else [])
    pixels = np.random.default_rng(image).integers(0, 256, (tiles, served.side, served.side, 3), np.uint8)
    return EngineRequest(name, prompt, pixels, Sampling(**{"max_new_tokens": 24, **sampling}))


def answer(served: ServedModel, **sampling: Any) -> Done:
    *_, done = served.engine.submit(asked(served, **sampling))
    assert isinstance(done, Done)
    return done


def test_events_come_in_order_and_deltas_join(served: ServedModel) -> None:
    events = list(served.engine.submit(asked(served, tiles=3, image=2)))
    done = events[-1]
    assert isinstance(done, Done)
    assert [event.name for event in events if isinstance(event, Stage)] == ["vision", "prefill", "decode"]
    deltas = [event for event in events if isinstance(event, Delta)]
    assert "".join(delta.text for delta in deltas) == done.text
    assert [delta.completion_tokens for delta in deltas] == sorted(delta.completion_tokens for delta in deltas)
    assert done.image_tokens == 3 * 196
    assert done.prompt_tokens > done.image_tokens
    assert set(done.timings) == {"vision", "prefill", "decode", "first_token"}
    assert done.timings["first_token"] >= done.timings["vision"] > 0


def test_text_alone_needs_no_picture(served: ServedModel) -> None:
    events = list(served.engine.submit(asked(served, tiles=0)))
    assert [event.name for event in events if isinstance(event, Stage)] == ["prefill", "decode"]


def test_greedy_answers_are_the_same_each_time(served: ServedModel) -> None:
    assert answer(served).text == answer(served).text


def test_a_picture_matters(served: ServedModel) -> None:
    dark = asked(served)
    dark.tiles[:] = 0
    *_, done = served.engine.submit(dark)
    assert isinstance(done, Done)
    assert done.text != answer(served).text


def test_the_same_seed_gives_the_same_text(served: ServedModel) -> None:
    drawn = [answer(served, temperature=1.5, seed=seed).text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert answer(served, temperature=1.5).text != answer(served, temperature=1.5).text


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_an_answer_follows_its_schema(served: ServedModel, temperature: float) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["car", "sign"]}, "note": {"type": "string", "maxLength": 8}},
        "required": ["kind", "note"],
        "additionalProperties": False,
    }
    assert served.masks
    request = asked(served, temperature=temperature, max_new_tokens=200)
    beside = threading.Thread(target=answer, args=(served,))  # a neighbour without a schema
    beside.start()
    *_, done = served.engine.submit(replace(request, token_mask=served.masks.mask(schema)))
    beside.join()
    assert isinstance(done, Done)
    jsonschema.validate(json.loads(done.text), schema)
    assert done.finish_reason == "stop"


def test_narrow_sampling_is_greedy(served: ServedModel) -> None:
    greedy = answer(served).text
    assert answer(served, temperature=1.5, top_k=1).text == greedy
    assert answer(served, temperature=1.5, top_p=1e-6).text == greedy


def test_a_repetition_penalty_changes_a_text_that_repeats(served: ServedModel) -> None:
    assert answer(served, max_new_tokens=60, repetition_penalty=5.0).text != answer(served, max_new_tokens=60).text


def test_beams_answer_in_one_piece(served: ServedModel) -> None:
    events = list(served.engine.submit(asked(served, num_beams=3)))
    done = events[-1]
    assert isinstance(done, Done)
    assert "".join(event.text for event in events if isinstance(event, Delta)) == done.text
    assert 0 < done.completion_tokens <= 24


def test_a_stop_string_ends_the_answer_before_it(served: ServedModel) -> None:
    whole = answer(served)
    stop = whole.text[3:5]
    cut = answer(served, stop=(stop,))
    assert (cut.text, cut.finish_reason) == (whole.text[: whole.text.index(stop)].rstrip(), "stop")
    assert cut.completion_tokens < whole.completion_tokens


def test_max_new_tokens_is_a_limit(served: ServedModel) -> None:
    done = answer(served, max_new_tokens=3)
    assert (done.completion_tokens, done.finish_reason) == (3, "length")


def test_the_context_bounds_prompt_and_answer(served: ServedModel) -> None:
    with pytest.raises(ContextExceeded, match="the context of the model holds 32768"):
        list(served.engine.submit(asked(served, tiles=0, text="x" * 33_000)))
    nearly = answer(served, tiles=0, text="x" * 32_660, max_new_tokens=500)
    assert nearly.prompt_tokens + nearly.completion_tokens <= 32768


def test_a_running_request_leaves_within_a_step(served: ServedModel) -> None:
    events = served.engine.submit(asked(served, "long", max_new_tokens=20_000))
    for event in events:
        if isinstance(event, Delta):
            break
    served.engine.cancel("long")
    with pytest.raises(Cancelled):
        list(events)
    assert answer(served, max_new_tokens=1).completion_tokens == 1


def test_a_waiting_request_leaves_at_once(served: ServedModel) -> None:
    running = served.engine.submit(asked(served, "first", max_new_tokens=20_000))
    next(running)
    waiting = served.engine.submit(asked(served, "second"))
    served.engine.cancel("second")
    with pytest.raises(Cancelled):
        next(waiting)
    served.engine.cancel("first")
    with pytest.raises(Cancelled):
        list(running)


def test_a_reader_that_goes_away_frees_the_engine(served: ServedModel) -> None:
    events = served.engine.submit(asked(served, "left", max_new_tokens=20_000))
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert answer(served, max_new_tokens=1).completion_tokens == 1


def test_many_threads_may_ask(served: ServedModel) -> None:
    alone = answer(served).text

    def ask(number: int) -> str:
        *_, done = served.engine.submit(asked(served, f"job-{number}"))
        assert isinstance(done, Done)
        return done.text

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, range(16))) == {alone}
    stats = served.engine.stats()
    assert (stats.running, stats.waiting, stats.busy_since) == (0, 0, None)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_float16_model_answers(tmp_path: Path, engine: EngineName) -> None:
    folder = write_random(tmp_path / "model")
    settings = Settings(engine=engine, model=str(folder), device="cpu", dtype="float16")
    made = make_engine(settings, lambda _: None)
    assert answer(made, max_new_tokens=4).completion_tokens > 0
    made.engine.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_closed_engine_takes_nothing(tmp_path: Path, engine: EngineName) -> None:
    made = make(write_random(tmp_path / "model"), engine)
    running = made.engine.submit(asked(made, max_new_tokens=20_000))
    next(running)
    made.engine.close()
    with pytest.raises(Cancelled):
        list(running)
    with pytest.raises(EngineClosed):
        made.engine.submit(asked(made))
    assert not [thread for thread in threading.enumerate() if thread.name == "engine" and not thread.daemon]
