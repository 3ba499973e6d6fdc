"""The packed forward pass over fused weights computes what the original computed, for each model of the family."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.integration.vision import cases
from workers.vision.checkpoint.config import read_config
from workers.vision.checkpoint.weight_files import find_weight_files
from workers.vision.model.fused import fuse
from workers.vision.model.kv_pages import KVPages
from workers.vision.model.packed_batch import PAGE_TOKENS, PackedBatch, Segment
from workers.vision.model.vision_language_model import VisionLanguageModel, build_model
from workers.vision.model.weights import read_weights

pytestmark = cases.needs_folder

TOLERANCE = 1e-4


def near(found: Any, expected: Any) -> bool:
    return bool(np.allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=TOLERANCE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


def chunk(
    ids: Sequence[int], first: int, pages: tuple[int, ...], features: tuple[tuple[int, torch.Tensor], ...] = ()
) -> PackedBatch:
    """The rows of one sequence from position `first` on."""
    positions = torch.arange(first, first + len(ids))
    table = torch.tensor(pages)
    return PackedBatch(
        ids=torch.tensor(ids),
        positions=positions,
        slots=table[positions // PAGE_TOKENS] * PAGE_TOKENS + positions % PAGE_TOKENS,
        segments=(Segment(0, len(ids), first + len(ids), pages[: (first + len(ids) - 1) // PAGE_TOKENS + 1]),),
        wanted=torch.tensor([len(ids) - 1]),
        features=features,
    )


@pytest.mark.parametrize("scattered", [False, True], ids=["run of pages", "scattered pages"])
@pytest.mark.parametrize(
    "case", cases.read("model")["cases"], ids=lambda case: f"{case['variant']}-{case['checkpoint_seed']}"
)
@torch.inference_mode()
def test_the_model_computes_what_the_original_computes(folder: Path, case: dict[str, Any], scattered: bool) -> None:
    where = cases.checkpoint(folder, case["variant"], case["checkpoint_seed"])
    config = read_config(where)
    weights = read_weights(find_weight_files(where), config)
    model = build_model(config, fuse(weights, config, torch.float32, lambda _: torch.device("cpu")))
    shape = (case["tiles"], 3, config.vision.image, config.vision.image)
    pixels = np.random.default_rng(case["pixel_seed"]).standard_normal(shape, dtype=np.float32)

    found, expected = model.encoder.features(torch.from_numpy(pixels)), case["features"]
    assert list(found.shape) == expected["shape"]
    assert near(found[0, [0, 1, 255], :8], expected["first_tile_rows_0_1_255_first_8"])
    assert near([found.mean(), found.std()], [expected["mean"], expected["std"]])

    before, tokens = len(case["ids_before_image"]), config.tokens_per_tile * case["tiles"]
    ids = case["ids_before_image"] + [case["image_token_id"]] * tokens + case["ids_after_image"]
    assert near(*answer(model, ids, [(before, found.flatten(0, 1))], case, scattered))


def answer(
    model: VisionLanguageModel,
    ids: list[int],
    features: list[tuple[int, torch.Tensor]],
    case: dict[str, Any],
    scattered: bool,
) -> tuple[Any, Any]:
    """Prefill in two chunks, decode greedily; the top logits and the expected ones."""
    needed = (len(ids) + len(case["greedy_ids"])) // PAGE_TOKENS + 1
    pool = KVPages(model.decoder.config, 2 * needed, torch.float32, model.decoder.devices)
    pages = tuple(range(0, 2 * needed, 2)) if scattered else tuple(range(needed))
    cut = 100  # amid the image
    (row, rows) = features[0]
    model.decoder(chunk(ids[:cut], 0, pages, ((row, rows[: cut - row]),)), pool)
    logits = model.decoder(chunk(ids[cut:], cut, pages, ((0, rows[cut - row :]),)), pool)[0]
    top = case["last_logits_top5"]
    assert logits.topk(len(top["ids"])).indices.tolist() == top["ids"]
    greedy = [int(logits.argmax())]
    while len(greedy) < len(case["greedy_ids"]):
        step = chunk(greedy[-1:], len(ids) + len(greedy) - 1, pages)
        greedy.append(int(model.decoder(step, pool)[0].argmax()))
    assert greedy == case["greedy_ids"]
    return logits[top["ids"]], top["values"]
