"""Engine requests say which tokens show which tiles, and refuse what no engine can do."""

from collections.abc import Sequence
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
