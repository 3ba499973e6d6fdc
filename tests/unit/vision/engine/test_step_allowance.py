"""Operations, by which a step's allowance is estimated, are those of the model's matrices."""

from pathlib import Path

import pytest

from tests.random_checkpoint import write_random
from workers.vision.checkpoint.config import Config, read_config
from workers.vision.engine.step_allowance import decoder_operations, vision_operations


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder: Path = write_random(tmp_path_factory.mktemp("checkpoint"))
    return read_config(folder)


def test_a_long_prompt_takes_more_than_its_parts(config: Config) -> None:
    assert decoder_operations(config, 8000) > 2 * decoder_operations(config, 4000) > 0


def test_a_pass_over_the_tower_counts_its_tiles(config: Config) -> None:
    assert vision_operations(config, 8) == 8 * vision_operations(config, 1) > 0


def test_operations_are_those_of_the_layers_matrices(config: Config) -> None:
    decoder = config.decoder
    weights = sum(
        (
            decoder.hidden * (decoder.heads + 2 * decoder.kv_heads) * decoder.head,
            decoder.hidden * decoder.hidden,
            3 * decoder.hidden * decoder.inner,
        )
    )
    assert decoder_operations(config, 1) == decoder.layers * (2 * weights + 4 * decoder.hidden)
