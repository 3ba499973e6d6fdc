"""Attention over pages: by segment, all answers at once, and over pages that lie anywhere, it is the same."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from workers.vision.checkpoint.config import DecoderConfig
from workers.vision.model.attention import attend, attend_decodes
from workers.vision.model.kv_pages import KVPages
from workers.vision.model.packed_batch import PAGE_TOKENS, PackedBatch, Segment

CONFIG = DecoderConfig("llama", 32, 1, 8, 2, 64, 100, 1e-5, False, 1e4, 1.0, 4096)  # 8 heads of 4, 2 kv heads
CPU = torch.device("cpu")


def filled(pages: int = 40) -> KVPages:
    made = KVPages(CONFIG, pages, torch.float32, [CPU])
    random = torch.Generator().manual_seed(0)
    for pool in (*made.keys, *made.values):
        pool.copy_(torch.randn(pool.shape, generator=random))
    return made


def batch(*segments: Segment) -> PackedBatch:
    rows = sum(segment.rows for segment in segments)
    none = torch.zeros(rows, dtype=torch.int64)
    return PackedBatch(none, none, none, segments, none)


def queries(rows: int) -> Tensor:
    return torch.randn(rows, CONFIG.heads, CONFIG.head, generator=torch.Generator().manual_seed(1))


def expected(asked: Tensor, segment: Segment, pages: KVPages) -> Tensor:
    """Written out: every row over the positions up to its own, every query head with its group's keys."""
    slots = [page * PAGE_TOKENS + offset for page in segment.pages for offset in range(PAGE_TOKENS)][: segment.context]
    keys, values = (
        pool[0][slots].repeat_interleave(CONFIG.heads // CONFIG.kv_heads, dim=1) for pool in (pages.keys, pages.values)
    )
    rows = []
    for row, query in enumerate(asked):
        seen = segment.context - segment.rows + row + 1
        scores = torch.einsum("hd,shd->hs", query, keys[:seen]) / CONFIG.head**0.5
        rows.append(torch.einsum("hs,shd->hd", functional.softmax(scores, dim=-1), values[:seen]))
    return torch.stack(rows)


SEGMENTS = (
    Segment(0, 20, 20, (3, 4)),  # a prompt from its beginning
    Segment(20, 7, 50, (9, 2, 30, 5)),  # the rest of one, on pages that lie anywhere
    Segment(27, 1, 33, (12, 13, 14)),
    Segment(28, 1, 61, (20, 7, 33, 1)),
    Segment(29, 1, 1, (0,)),
)


def test_every_segment_sees_its_own_past_and_nothing_else() -> None:
    pages, asked = filled(), queries(30)
    found = attend(asked, batch(*SEGMENTS), pages, 0)
    for segment in SEGMENTS:
        rows = slice(segment.start, segment.start + segment.rows)
        assert torch.allclose(found[rows], expected(asked[rows], segment, pages), atol=1e-5)


def test_all_answers_at_once_are_each_by_itself() -> None:
    pages, asked = filled(), queries(3)
    segments = [replace(segment, start=place) for place, segment in enumerate(SEGMENTS[2:])]
    found = attend_decodes(asked, batch(*segments), pages, 0)
    assert torch.allclose(found, attend(asked, batch(*segments), pages, 0), atol=1e-5)


def test_what_lies_behind_a_context_changes_nothing() -> None:
    """Padding may be anything, even what a broken request left there."""
    pages, asked = filled(), queries(2)
    segments = batch(Segment(0, 1, 33, (12, 13, 14)), Segment(1, 1, 17, (20, 7)))
    before = attend_decodes(asked, segments, pages, 0)
    for pool in (*pages.keys, *pages.values):
        pool[14 * PAGE_TOKENS + 1 :][: PAGE_TOKENS - 1] = torch.nan
        pool[:PAGE_TOKENS] = torch.nan
    assert torch.equal(attend_decodes(asked, segments, pages, 0), before)
