"""Features, logits and greedy tokens are those of the original, for each model of the family."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from tests.integration.vision import cases
from workers.vision.checkpoint.config import read_config
from workers.vision.model.image_features import embed, features

pytestmark = cases.needs_folder

TOLERANCE = 1e-4


def near(found: Any, expected: Any) -> bool:
    return bool(np.allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=TOLERANCE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


@pytest.mark.parametrize(
    "case", cases.read("model")["cases"], ids=lambda case: f"{case['variant']}-{case['checkpoint_seed']}"
)
@torch.inference_mode()
def test_the_model_computes_what_the_original_computes(folder: Path, case: dict[str, Any]) -> None:
    where = cases.checkpoint(folder, case["variant"], case["checkpoint_seed"])
    config = read_config(where)
    model = cases.stock_model(where)
    shape = (case["tiles"], 3, config.vision.image, config.vision.image)
    pixels = np.random.default_rng(case["pixel_seed"]).standard_normal(shape, dtype=np.float32)

    found, expected = features(model, config, torch.from_numpy(pixels)), case["features"]
    assert list(found.shape) == expected["shape"]
    assert near(found[0, [0, 1, 255], :8], expected["first_tile_rows_0_1_255_first_8"])
    assert near([found.mean(), found.std()], [expected["mean"], expected["std"]])

    context = [case["image_token_id"]] * config.tokens_per_tile * case["tiles"]
    ids = torch.tensor([case["ids_before_image"] + context + case["ids_after_image"]])
    embeddings = embed(model, ids, case["image_token_id"], [found])
    logits, top = model(inputs_embeds=embeddings).logits[0, -1], case["last_logits_top5"]
    assert logits.topk(len(top["ids"])).indices.tolist() == top["ids"]
    assert near(logits[top["ids"]], top["values"])

    make: Any = GenerationConfig
    greedy = make(max_new_tokens=len(case["greedy_ids"]), do_sample=False, pad_token_id=0)
    mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
    output = model.generate(inputs_embeds=embeddings, attention_mask=mask, generation_config=greedy)
    assert output[0].tolist() == case["greedy_ids"]
