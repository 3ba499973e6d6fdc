"""Tiles are those of the original, byte for byte: out of the decoders and after normalising."""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image

from shared.images import ImageMode
from tests.encoded import encoded
from tests.integration.vision import cases
from workers.vision.images.decoder_pool import DecoderPool
from workers.vision.model.pixels import normalise

pytestmark = cases.needs_folder


@pytest.fixture(scope="module", params=["natural", "original"])
def decoders(request: pytest.FixtureRequest) -> Iterator[DecoderPool]:
    mode: ImageMode = request.param
    with cases.decoder_pool(mode) as started:
        yield started


@pytest.mark.parametrize("case", cases.read("tiling")["pixels"], ids=lambda case: f"{case['width']}x{case['height']}")
def test_tiles_are_the_bytes_of_the_original(decoders: DecoderPool, case: dict[str, Any]) -> None:
    size = (case["width"], case["height"])
    pixels = cases.script("images").picture(*size, case["picture_seed"])
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == case["picture_sha256"], "the image itself"
    tiled = decoders.tile(encoded(Image.fromarray(pixels)), case["max_num"], thumbnail=True)
    assert (tiled.width, tiled.height, len(tiled.tiles)) == (*size, case["tiles"])
    assert hashlib.sha256(tiled.tiles.tobytes()).hexdigest() == case["uint8_tiles_sha256"]
    normalised = normalise(torch.from_numpy(tiled.tiles)).contiguous().numpy()
    assert hashlib.sha256(normalised.tobytes()).hexdigest() == case["normalised_float32_sha256"]
