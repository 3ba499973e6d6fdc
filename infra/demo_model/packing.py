"""Many conversations about the same pictures in one row: they share what is seen and cannot see one another.

    <s> system … <img> tiles </img> | question, answer | question, answer | …
    positions 0 … p                 | p+1 …            | p+1 …            |

Each conversation computes exactly what it would alone, and the pictures are paid for once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infra.demo_model.attention_supervision import attention_targets
from infra.demo_model.conversations import Conversation
from infra.demo_model.render import Rng
from workers.vision.prompts import IMAGE_CONTEXT, IMAGE_END, PromptFormat, build

IGNORE_LABEL = -100


@dataclass
class PackedRow:
    """One packed row; `features` (tokens, width) belong at the places where `ids` is the context token."""

    ids: list[int]
    positions: list[int]
    segments: list[int]  # 0: shared by all
    labels: list[int]  # the next token where it is part of an answer, else SILENT
    features: Tensor
    attention_targets: Tensor  # (answer tokens, tokens of the pictures): what each is read off


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
    """Pack `talks` about pictures of so many `tiles`, on which `seen` stands, one (tokens, attributes) a picture.

    With `keep` (tokens,) only those tokens of the pictures stay.
    """
    end, stop = (
        prompt_format.tokenizer.token_id(IMAGE_END),
        prompt_format.tokenizer.token_id(prompt_format.template.stop),
    )
    context = prompt_format.tokenizer.token_id(IMAGE_CONTEXT)
    shared: list[int] = []
    packed = PackedRow([], [], [], [], features, torch.zeros(0, len(features), dtype=torch.bool))
    targets: list[Tensor] = []
    for segment, conversation in enumerate(conversations, 1):
        prompt = build(conversation.messages, tiles, prompt_format).ids
        shared_length = len(prompt) - prompt[::-1].index(end)
        if not shared:
            shared = prompt[:shared_length]
            packed = PackedRow(
                list(shared),
                list(range(shared_length)),
                [0] * shared_length,
                [IGNORE_LABEL] * shared_length,
                features,
                packed.attention_targets,
            )
        answer = [*prompt_format.tokenizer.encode_text(conversation.answer), stop]
        text = prompt[shared_length:] + answer
        position_gap = int(rng.integers(0, 1500)) if rng.random() < 0.2 else 0  # larger pictures than these come later
        packed.ids += text
        packed.positions += range(shared_length + position_gap, shared_length + position_gap + len(text))
        packed.segments += [segment] * len(text)
        packed.labels += [IGNORE_LABEL] * (len(prompt) - shared_length - 1) + answer + [IGNORE_LABEL]
        segments = [torch.zeros(len(answer), len(image_index), dtype=torch.bool) for image_index in image_classes]
        segments[conversation.image_index] = attention_targets(
            conversation.grounding,
            [prompt_format.tokenizer.decode([t]) for t in answer],
            image_classes[conversation.image_index],
        )
        targets.append(torch.cat(segments, 1))
    packed.attention_targets = torch.cat(targets)
    return packed if kept is None else drop_image_tokens(packed, kept, context)


def drop_image_tokens(row: PackedRow, kept: Tensor, context: int) -> PackedRow:
    """Leave out the tokens of pictures that are not kept; the others keep their positions."""
    is_kept = iter(kept.tolist())
    indices = [i for i, token in enumerate(row.ids) if token != context or next(is_kept)]
    ids, positions, segments, labels = (
        [values[i] for i in indices] for values in (row.ids, row.positions, row.segments, row.labels)
    )
    return PackedRow(ids, positions, segments, labels, row.features[kept], row.attention_targets[:, kept])


@dataclass
class PackedBatch:
    """Rows of one length."""

    ids: Tensor
    positions: Tensor
    attention_mask: Tensor  # (b, n, n): what sees what
    labels: Tensor
    features: Tensor
    attention_targets: Tensor  # (answer tokens, n)


def pad_rows(rows: Sequence[PackedRow], context: int) -> PackedBatch:
    """Pad `rows` to one length; `context` is the token in whose places the features belong."""
    longest = max(len(r.ids) for r in rows)

    def padded(name: str, fill: int) -> Tensor:
        return torch.tensor([getattr(r, name) + [fill] * (longest - len(getattr(r, name))) for r in rows])

    ids, segments = padded("ids", 0), padded("segments", -1)
    targets = []
    for r, is_image in zip(rows, ids == context, strict=True):
        columns = torch.zeros(len(r.attention_targets), longest, dtype=torch.bool)
        columns[:, is_image] = r.attention_targets
        targets.append(columns)
    earlier = torch.ones(longest, longest, dtype=torch.bool).tril()
    attention_mask = earlier & ((segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None]))
    return PackedBatch(
        ids,
        padded("positions", 0),
        attention_mask,
        padded("labels", IGNORE_LABEL),
        torch.cat([r.features for r in rows]),
        torch.cat(targets),
    )
