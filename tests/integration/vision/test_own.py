"""The line that the original's cases draw, held by cases of our own where those are not at hand."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.vision import cases, own
from tests.integration.vision.engine.test_engines import ENGINES
from workers.vision.images.decoder_pool import DecoderPool

EXPECTED: dict[str, Any] = json.loads(own.FILE.read_text())


@pytest.fixture(scope="module")
def decoders() -> Iterator[DecoderPool]:
    with cases.decoder_pool() as started:
        yield started


def test_tiles_are_the_same_bytes(decoders: DecoderPool) -> None:
    assert list(own.tiles(decoders)) == EXPECTED["tiles"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", own.VARIANTS)
def test_every_model_of_the_family_computes_what_it_did(
    name: str, engine: own.EngineName, tmp_path: Path, decoders: DecoderPool
) -> None:
    found, expected = own.variant(name, tmp_path / name, decoders, engine), EXPECTED["variants"][name]
    assert np.allclose(found.pop("features"), expected["features"], rtol=0, atol=1e-4)
    assert found == {key: value for key, value in expected.items() if key != "features"}


def test_rows_and_columns_of_tokens_are_told_apart() -> None:
    """The same tower with ps_version v1 and v2 gives other tokens everywhere but on the diagonal."""
    v1_2, v1_5 = (EXPECTED["variants"][name]["features"] for name in ("v1_2", "v1_5"))
    assert v1_2[3:6] != v1_5[3:6]
