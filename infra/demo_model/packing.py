"""Many conversations about the same pictures in one row: they share what is seen and cannot see one another.

    <s> system … <img> tiles </img> | question, answer | question, answer | …
    positions 0 … p                 | p+1 …            | p+1 …            |

Each conversation computes exactly what it would alone, and the pictures are paid for once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infra.demo_model.attention_supervision import looks
from infra.demo_model.conversations import Conversation
from infra.demo_model.render import Rng
from workers.vision.prompts import IMAGE_CONTEXT, IMAGE_END, PromptFormat, build

SILENT = -100


@dataclass
class Row:
    """One packed row; `features` (tokens, width) belong at the places where `ids` is the context token."""

    ids: list[int]
    positions: list[int]
    parts: list[int]  # 0: shared by all
    wanted: list[int]  # the next token where it is part of an answer, else SILENT
    features: Tensor
    looks: Tensor  # (answer tokens, tokens of the pictures): what each is read off


def row(
    style: PromptFormat,
    talks: Sequence[Conversation],
    tiles: Sequence[int],
    features: Tensor,
    *,
    seen: Sequence[Tensor],
    keep: Tensor | None,
    rng: Rng,
) -> Row:
    """Pack `talks` about pictures of so many `tiles`, on which `seen` stands, one (tokens, attributes) a picture.

    With `keep` (tokens,) only those tokens of the pictures stay.
    """
    end, stop = style.tokenizer.token_id(IMAGE_END), style.tokenizer.token_id(style.template.stop)
    context = style.tokenizer.token_id(IMAGE_CONTEXT)
    shared: list[int] = []
    packed = Row([], [], [], [], features, torch.zeros(0, len(features), dtype=torch.bool))
    read: list[Tensor] = []
    for part, talk in enumerate(talks, 1):
        asked = build(talk.messages, tiles, style).ids
        cut = len(asked) - asked[::-1].index(end)
        if not shared:
            shared = asked[:cut]
            packed = Row(list(shared), list(range(cut)), [0] * cut, [SILENT] * cut, features, packed.looks)
        said = [*style.tokenizer.encode_text(talk.answer), stop]
        text = asked[cut:] + said
        gap = int(rng.integers(0, 1500)) if rng.random() < 0.2 else 0  # larger pictures than these come later
        packed.ids += text
        packed.positions += range(cut + gap, cut + gap + len(text))
        packed.parts += [part] * len(text)
        packed.wanted += [SILENT] * (len(asked) - cut - 1) + said + [SILENT]
        parts = [torch.zeros(len(said), len(picture), dtype=torch.bool) for picture in seen]
        parts[talk.picture] = looks(talk.look, [style.tokenizer.decode([t]) for t in said], seen[talk.picture])
        read.append(torch.cat(parts, 1))
    packed.looks = torch.cat(read)
    return packed if keep is None else thin(packed, keep, context)


def thin(full: Row, keep: Tensor, context: int) -> Row:
    """Leave out the tokens of pictures that are not kept; the others keep their positions."""
    kept = iter(keep.tolist())
    stay = [i for i, token in enumerate(full.ids) if token != context or next(kept)]
    ids, positions, parts, wanted = (
        [values[i] for i in stay] for values in (full.ids, full.positions, full.parts, full.wanted)
    )
    return Row(ids, positions, parts, wanted, full.features[keep], full.looks[:, keep])


@dataclass
class Packed:
    """Rows of one length."""

    ids: Tensor
    positions: Tensor
    allowed: Tensor  # (b, n, n): what sees what
    wanted: Tensor
    features: Tensor
    looks: Tensor  # (answer tokens, n)


def pack(rows: Sequence[Row], context: int) -> Packed:
    """Pad `rows` to one length; `context` is the token in whose places the features belong."""
    longest = max(len(r.ids) for r in rows)

    def padded(name: str, fill: int) -> Tensor:
        return torch.tensor([getattr(r, name) + [fill] * (longest - len(getattr(r, name))) for r in rows])

    ids, parts = padded("ids", 0), padded("parts", -1)
    read = []
    for r, line in zip(rows, ids == context, strict=True):
        mine = torch.zeros(len(r.looks), longest, dtype=torch.bool)
        mine[:, line] = r.looks
        read.append(mine)
    earlier = torch.ones(longest, longest, dtype=torch.bool).tril()
    allowed = earlier & ((parts[:, None, :] == 0) | (parts[:, None, :] == parts[:, :, None]))
    return Packed(
        ids,
        padded("positions", 0),
        allowed,
        padded("wanted", SILENT),
        torch.cat([r.features for r in rows]),
        torch.cat(read),
    )
