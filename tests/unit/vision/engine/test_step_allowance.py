"""The allowance of a step follows the device's measured speed."""

from pathlib import Path

import pytest

from tests.random_checkpoint import write_random
from workers.vision.checkpoint.config import Config, read_config
from workers.vision.engine.step_allowance import (
    HANG_FACTOR,
    StepAllowance,
    decoder_layer_operations,
    vision_layer_operations,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder: Path = write_random(tmp_path_factory.mktemp("checkpoint"))
    return read_config(folder)


def test_a_long_prefill_on_a_slow_device_may_take_longer(config: Config) -> None:
    slow, fast = StepAllowance(config, 1e-9, 1), StepAllowance(config, 1e-12, 1)
    for allowance in (slow, fast):
        allowance.prefill(4000)
    assert slow.seconds == pytest.approx(1000 * fast.seconds)
    assert slow.seconds == pytest.approx(HANG_FACTOR * decoder_layer_operations(config, 4000) * 1e-9)
    short = slow.seconds
    slow.prefill(8000)
    assert slow.seconds > 2 * short


def test_a_step_of_the_tower_counts_its_tiles(config: Config) -> None:
    allowance = StepAllowance(config, 1e-9, 1)
    allowance.vision(8)
    assert allowance.seconds == pytest.approx(HANG_FACTOR * 8 * vision_layer_operations(config, 1) * 1e-9)


def test_where_all_layers_are_asked_for_ahead_a_step_is_all_of_them(config: Config) -> None:
    one, all_layers = StepAllowance(config, 1e-9, 1), StepAllowance(config, 1e-9, 24)
    one.prefill(100)
    all_layers.prefill(100)
    assert all_layers.seconds == pytest.approx(24 * one.seconds)


def test_layers_that_take_longer_than_the_product_raise_the_allowance_and_fast_ones_do_not_lower_it(
    config: Config,
) -> None:
    allowance = StepAllowance(config, 1e-9, 1)
    allowance.prefill(1000)
    before = allowance.seconds
    allowance.layer_done(0)
    assert allowance.seconds == before
    for _ in range(100):
        allowance.layer_done(before)  # HANG_FACTOR times slower than the product
    assert allowance.seconds == pytest.approx(HANG_FACTOR * before, rel=0.01)


def test_single_tokens_have_no_allowance_of_their_own(config: Config) -> None:
    allowance = StepAllowance(config, 1e-9, 1)
    allowance.prefill(1000)
    allowance.decode()
    allowance.layer_done(60)
    assert allowance.seconds == 0


def test_operations_are_those_of_the_layers_matrices(config: Config) -> None:
    decoder = config.decoder
    weights = sum(
        (
            decoder.hidden * (decoder.heads + 2 * decoder.kv_heads) * decoder.head,
            decoder.hidden * decoder.hidden,
            3 * decoder.hidden * decoder.inner,
        )
    )
    assert decoder_layer_operations(config, 1) == 2 * weights + 4 * decoder.hidden
