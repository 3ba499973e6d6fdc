"""Engine requests say which tokens show which tiles, and refuse what no engine can do."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import pytest

from shared.conversation import Message
from workers.vision.engine.base import EngineRequest, Sampling, Tiles
from workers.vision.prompts import plain

SIDE = 4


def tiles(*values: int) -> Tiles:
    return np.concatenate([np.full((1, SIDE, SIDE, 3), value, np.uint8) for value in values])


def request(blocks: Sequence[int], pixels: Tiles) -> EngineRequest:
    return EngineRequest("job", plain([Message(role="user", content="?")], blocks, 10), pixels, Sampling())


def test_each_image_block_carries_the_digest_of_its_own_tiles() -> None:
    first, second = request([1, 2], tiles(1, 2, 3)).images
    assert (first.offset, first.tokens, second.offset, second.tokens) == (0, 10, 10, 20)
    assert first.sha256 == sha256(tiles(1).data).hexdigest()
    assert second.sha256 == sha256(tiles(2, 3).data).hexdigest()


def test_the_digest_does_not_depend_on_how_the_tiles_lie_in_memory() -> None:
    blank = np.broadcast_to(np.uint8(7), (2, SIDE, SIDE, 3))
    assert request([2], blank).images == request([2], tiles(7, 7)).images


def test_a_request_without_images_has_no_spans() -> None:
    assert request([], np.empty((0, SIDE, SIDE, 3), np.uint8)).images == ()


def test_another_number_of_tiles_than_the_prompt_has_places_for_is_refused() -> None:
    with pytest.raises(ValueError, match="image tokens for 1 tiles, but there are 2"):
        request([1], tiles(1, 2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"repetition_penalty": 0},
        {"num_beams": 0},
        {"stop": ("",)},
    ],
)
def test_impossible_sampling_is_refused_when_built(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)
