"""How far bfloat16, int8 and 4-bit decoders on a CPU are from float32, on a small checkpoint of our own."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.random_checkpoint import write_random
from workers.vision.checkpoint.checkpoint import Checkpoint, open_checkpoint
from workers.vision.checkpoint.config import Quantised
from workers.vision.model.kv_pages import KVPages
from workers.vision.model.loader import LoadOptions, load_packed
from workers.vision.model.packed_batch import PAGE_TOKENS, PackedBatch, Segment

WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
IDS = torch.randint(3, 400, (40,), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_random(tmp_path_factory.mktemp("model") / "wide", decoder=WIDE))


@torch.inference_mode()
def logits(checkpoint: Checkpoint, dtype: str, quantised: Quantised | None = None) -> Tensor:
    """(rows, vocab): of a prompt's last row, then of each of a few ids after it, so of many rows and of one."""
    decoder = load_packed(checkpoint, LoadOptions("cpu", dtype, quantised), lambda _: None).decoder
    pool = KVPages(decoder.config, 4, decoder.embedding.dtype, decoder.devices)
    found = []
    for first, stop in [(0, 33), *((place, place + 1) for place in range(33, len(IDS)))]:
        positions = torch.arange(first, stop)
        pages = tuple(range(-(-stop // PAGE_TOKENS)))
        segment = Segment(0, stop - first, stop, pages)
        batch = PackedBatch(IDS[first:stop], positions, positions, (segment,), torch.tensor([stop - first - 1]))
        found.append(decoder(batch, pool).float())
    return torch.cat(found)


@pytest.mark.parametrize(
    ("dtype", "quantised", "least"),
    [("bfloat16", None, 0.995), ("bfloat16", "int8", 0.99), ("bfloat16", "int4", 0.8), ("float32", "int8", 0.995)],
)
def test_logits_point_where_those_of_float32_do(
    checkpoint: Checkpoint, dtype: str, quantised: Quantised | None, least: float
) -> None:
    expected, found = logits(checkpoint, "float32"), logits(checkpoint, dtype, quantised)
    similarity = functional.cosine_similarity(found, expected)
    assert found.isfinite().all()
    assert similarity.min() > least
    assert quantised is None or not torch.equal(found, logits(checkpoint, dtype))
