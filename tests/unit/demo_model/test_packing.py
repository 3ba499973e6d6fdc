"""Conversations that are packed into one row do not influence one another."""

from pathlib import Path

import numpy as np
import torch

from infra.demo_model import seeds
from infra.demo_model.attention_supervision import token_classes
from infra.demo_model.conversations import about_drawing
from infra.demo_model.dense_targets import dense_targets
from infra.demo_model.model import ChatModel
from infra.demo_model.packing import SHARED_SEGMENT, PackedRow, pack_row
from infra.demo_model.prompt_format import load_prompt_format
from infra.demo_model.scenes import mixed_scene
from tests.unit.demo_model.logits import answer_logits
from workers.vision.prompts import IMAGE_CONTEXT


def test_packed_conversations_compute_what_each_would_alone(tokenizer: Path, model: ChatModel) -> None:
    prompt_format = load_prompt_format(tokenizer)
    scene = mixed_scene(seeds.check(20))
    conversations = [about_drawing(seeds.check(21, n), scene, 1 + n % 2) for n in range(3)]
    features = torch.randn(196, model.config.width)

    def packed(indices: list[int]) -> PackedRow:
        row = pack_row(
            prompt_format,
            [conversations[i] for i in indices],
            [1],
            features,
            image_classes=[token_classes(dense_targets(scene))],
            kept=None,
            rng=np.random.default_rng(3),
        )
        shared = row.segments.index(1)
        row.positions = [  # without the random gaps, which differ
            p if segment == SHARED_SEGMENT else shared + sum(s == segment for s in row.segments[:i])
            for i, (p, segment) in enumerate(zip(row.positions, row.segments, strict=True))
        ]
        return row

    context_id = prompt_format.tokenizer.token_id(IMAGE_CONTEXT)
    together = answer_logits(model, [packed([0, 1, 2])], context_id)
    alone = [x for i in range(3) for x in answer_logits(model, [packed([i])], context_id)]
    torch.testing.assert_close(torch.stack(together), torch.stack(alone), atol=1e-4, rtol=1e-4)
