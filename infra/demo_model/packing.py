"""Sequence packing: many conversations about the same images in one row, which share the image tokens.

    <s> system … <img> tiles </img> | question, answer | question, answer | …
    positions 0 … p                 | p+1 …            | p+1 …            |

The attention mask separates the conversations, so each is computed exactly as it would be alone, and the image tokens
are computed once (prefix sharing, as in Krell et al. 2021, arXiv:2107.02027, with a common prefix).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infra.demo_model.attention_supervision import attention_targets
from infra.demo_model.conversations import Conversation
from infra.demo_model.render import Rng
from workers.vision.prompts import IMAGE_CONTEXT, IMAGE_END, PromptFormat, build

IGNORE_LABEL = -100  # torch's default `ignore_index`
SHARED_SEGMENT, PADDING_SEGMENT = 0, -1
POSITION_GAP_PROBABILITY, MAX_POSITION_GAP_TOKENS = 0.2, 1500  # positions that prompts with more tiles reach


@dataclass
class PackedRow:
    """One packed row; `features` replace the embeddings at the places where `ids` is the context token."""

    ids: list[int]
    positions: list[int]
    segments: list[int]  #: SHARED_SEGMENT or the number of the conversation, from 1
    labels: list[int]  #: the next token where it is part of an answer, else IGNORE_LABEL
    features: Tensor  #: (image tokens, width)
    attention_targets: Tensor  #: (answer tokens, image tokens), bool


def pack_row(
    prompt_format: PromptFormat,
    conversations: Sequence[Conversation],
    tiles: Sequence[int],
    features: Tensor,
    *,
    image_classes: Sequence[Tensor],
    kept: Tensor | None,
    rng: Rng,
) -> PackedRow:
    """Pack `conversations` about the same images into one row.

    tiles: number of tiles of each image; features: (image tokens, width) of all of them
    image_classes: one (tokens, digits + attributes) an image; kept: (image tokens,), the others are dropped
    """
    tokenizer = prompt_format.tokenizer
    end, stop = tokenizer.token_id(IMAGE_END), tokenizer.token_id(prompt_format.template.stop)
    row = PackedRow([], [], [], [], features, torch.zeros(0, len(features), dtype=torch.bool))
    targets: list[Tensor] = []
    for segment, conversation in enumerate(conversations, 1):
        prompt = build(conversation.messages, tiles, prompt_format).ids
        shared = len(prompt) - prompt[::-1].index(end)  # tokens up to the end of the last image
        if not row.ids:
            row.ids, row.positions = prompt[:shared], list(range(shared))
            row.segments, row.labels = [SHARED_SEGMENT] * shared, [IGNORE_LABEL] * shared
        answer = [*tokenizer.encode_text(conversation.answer), stop]
        text = prompt[shared:] + answer
        start = shared + draw_position_gap(rng)
        row.ids += text
        row.positions += range(start, start + len(text))
        row.segments += [segment] * len(text)
        row.labels += [IGNORE_LABEL] * (len(prompt) - shared - 1) + answer + [IGNORE_LABEL]
        image_targets = [torch.zeros(len(answer), len(classes), dtype=torch.bool) for classes in image_classes]
        asked = conversation.image_index
        answer_texts = [tokenizer.decode([t]) for t in answer]
        image_targets[asked] = attention_targets(conversation.grounding, answer_texts, image_classes[asked])
        targets.append(torch.cat(image_targets, 1))
    row.attention_targets = torch.cat(targets)
    return row if kept is None else drop_image_tokens(row, kept, tokenizer.token_id(IMAGE_CONTEXT))


def draw_position_gap(rng: Rng) -> int:
    """Draw the number of positions skipped after the images."""
    return int(rng.integers(0, MAX_POSITION_GAP_TOKENS)) if rng.random() < POSITION_GAP_PROBABILITY else 0


def drop_image_tokens(row: PackedRow, kept: Tensor, context_id: int) -> PackedRow:
    """Drop the image tokens that are not `kept` (image tokens,); the others keep their positions."""
    is_kept = iter(kept.tolist())
    indices = [i for i, token in enumerate(row.ids) if token != context_id or next(is_kept)]
    ids, positions, segments, labels = (
        [values[i] for i in indices] for values in (row.ids, row.positions, row.segments, row.labels)
    )
    return PackedRow(ids, positions, segments, labels, row.features[kept], row.attention_targets[:, kept])


@dataclass
class PackedBatch:
    """Rows padded to one length n."""

    ids: Tensor  #: (batch, n)
    positions: Tensor  #: (batch, n)
    attention_mask: Tensor  #: (batch, n, n), true where the second position may attend to the third
    labels: Tensor  #: (batch, n)
    features: Tensor  #: (image tokens of all rows, width)
    attention_targets: Tensor  #: (answer tokens of all rows, n)


def pad_rows(rows: Sequence[PackedRow], context_id: int) -> PackedBatch:
    """Pad `rows` to the length of the longest; `context_id` is the token whose embedding the features replace."""
    length = max(len(r.ids) for r in rows)

    def pad(lists: Sequence[list[int]], fill: int) -> Tensor:
        return torch.tensor([values + [fill] * (length - len(values)) for values in lists])

    ids, segments = pad([r.ids for r in rows], 0), pad([r.segments for r in rows], PADDING_SEGMENT)
    targets = []
    for row, is_image in zip(rows, ids == context_id, strict=True):
        row_targets = torch.zeros(len(row.attention_targets), length, dtype=torch.bool)
        row_targets[:, is_image] = row.attention_targets
        targets.append(row_targets)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same_segment = segments[:, None, :] == segments[:, :, None]
    return PackedBatch(
        ids,
        pad([r.positions for r in rows], 0),
        causal & ((segments[:, None, :] == SHARED_SEGMENT) | same_segment),
        pad([r.labels for r in rows], IGNORE_LABEL),
        torch.cat([r.features for r in rows]),
        torch.cat(targets),
    )
