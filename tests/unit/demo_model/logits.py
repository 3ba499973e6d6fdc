"""Logits of packed conversations, as training computes them."""

from collections.abc import Sequence

import torch

from infra.demo_model.model import ChatModel
from infra.demo_model.packing import IGNORE_LABEL, PackedRow, pad_rows


def answer_logits(model: ChatModel, rows: Sequence[PackedRow], context_id: int) -> list[torch.Tensor]:
    """The logits (tokens of the vocabulary,) of every token of the answers in `rows`."""
    batch = pad_rows(rows, context_id)
    with torch.no_grad():
        x = model.language_model.model.tok_embeddings(batch.ids)
        x = x.masked_scatter((batch.ids == context_id)[..., None], batch.features)
        hidden = model.language_model(x, batch.positions, batch.attention_mask)
        return list(model.language_model.output(hidden[batch.labels != IGNORE_LABEL]))
