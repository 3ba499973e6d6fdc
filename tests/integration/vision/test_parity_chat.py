"""Whole conversations, through all that a job goes through: bytes, decoders, prompt, engine, streamed text."""

from collections.abc import Iterator
from typing import Any

import pytest

from shared.conversation import Message
from tests.integration.vision import cases
from tests.integration.vision.engine.test_engines import ENGINES, make
from workers.vision.engine.base import Delta, Done, EngineRequest, Sampling
from workers.vision.engine.factory import ServedModel
from workers.vision.images.decoder_pool import DecoderPool
from workers.vision.prompts import IMAGE_CONTEXT

pytestmark = cases.needs_folder

CHAT = cases.read("chat")


@pytest.fixture(scope="module", params=ENGINES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    folder = cases.checkpoint(tmp_path_factory.mktemp("parity"), "mini", CHAT["checkpoint_seed"])
    made = make(folder, request.param)
    yield made
    made.engine.close()


@pytest.fixture(scope="module")
def decoders() -> Iterator[DecoderPool]:
    with cases.decoder_pool() as started:
        yield started


def messages(case: dict[str, Any]) -> Iterator[Message]:
    for question, answer in case["history"]:
        yield Message(role="user", content=question)
        yield Message(role="assistant", content=answer)
    yield Message(role="user", content=case["question"])


@pytest.mark.parametrize("case", CHAT["cases"], ids=lambda case: case["kind"])
def test_a_conversation_has_the_prompt_and_the_answer_of_the_original(
    served: ServedModel, decoders: DecoderPool, case: dict[str, Any]
) -> None:
    tiled = [
        decoders.tile(
            cases.image_file(image["width"], image["height"], image["picture_seed"]), image["max_num"], thumbnail=True
        )
        for image in case["images"]
    ]
    prompt = served.prompt(list(messages(case)), [len(image.tiles) for image in tiled])
    assert served.tokenizer is not None
    context = served.tokenizer.token_id(IMAGE_CONTEXT)
    expected: list[int] = []
    for part in case["prompt_ids"]:
        expected += [context] * part["image_tokens"] if isinstance(part, dict) else [part]
    assert prompt.ids == expected

    limit = len(case["generated_ids"])
    request = EngineRequest(case["kind"], prompt, cases.stacked(tiled), Sampling(max_new_tokens=limit))
    events = list(served.engine.submit(request))
    done = events[-1]
    assert isinstance(done, Done)
    assert done.text == case["response"] == "".join(event.text for event in events if isinstance(event, Delta))
    assert done.completion_tokens == limit
    assert (done.prompt_tokens, done.image_tokens) == (len(expected), expected.count(context))
