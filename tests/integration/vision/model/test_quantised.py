"""How far bfloat16, int8 and 4-bit decoders on a CPU are from float32, on a small checkpoint of our own."""

import pytest
import torch
from torch.nn import functional

from tests.bench.quantised import logits
from tests.random_checkpoint import write_random
from workers.vision.checkpoint.checkpoint import Checkpoint, open_checkpoint
from workers.vision.checkpoint.config import Quantised

WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_random(tmp_path_factory.mktemp("model") / "wide", decoder=WIDE))


@pytest.mark.parametrize(
    ("dtype", "quantised", "least"),
    [("bfloat16", None, 0.995), ("bfloat16", "int8", 0.99), ("bfloat16", "int4", 0.8), ("float32", "int8", 0.995)],
)
def test_logits_point_where_those_of_float32_do(
    checkpoint: Checkpoint, dtype: str, quantised: Quantised | None, least: float
) -> None:
    expected, found = logits(checkpoint, "float32", None), logits(checkpoint, dtype, quantised)
    similarity = functional.cosine_similarity(found, expected)
    assert found.isfinite().all()
    assert similarity.min() > least
    assert quantised is None or not torch.equal(found, logits(checkpoint, dtype, None))
