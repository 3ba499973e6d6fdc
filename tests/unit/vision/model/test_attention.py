"""Attention over pages: by segment, all answers at once, and over pages that lie anywhere, it is the same."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from workers.vision.checkpoint.config import DecoderConfig
from workers.vision.model import small_batch
from workers.vision.model.attention import attend, attend_padded
from workers.vision.model.cpu_kernels import checked_attention
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


def alone() -> PackedBatch:
    """The answers of `SEGMENTS` by themselves."""
    return batch(*(replace(segment, start=place) for place, segment in enumerate(SEGMENTS[2:])))


def test_all_answers_at_once_are_each_by_itself() -> None:
    pages, asked = filled(), queries(3)
    found = attend(asked, alone(), pages, 0, attend_padded)
    assert torch.allclose(found, attend(asked, alone(), pages, 0), atol=1e-5)


def test_answers_at_once_and_prompts_share_a_batch() -> None:
    pages, asked = filled(), queries(30)
    found = attend(asked, batch(*SEGMENTS), pages, 0, attend_padded)
    assert torch.allclose(found, attend(asked, batch(*SEGMENTS), pages, 0), atol=1e-5)


def test_what_lies_behind_a_context_changes_nothing() -> None:
    """Padding may be anything, even what a broken request left there."""
    pages, asked = filled(), queries(2)
    segments = batch(Segment(0, 1, 33, (12, 13, 14)), Segment(1, 1, 17, (20, 7)))
    before = attend(asked, segments, pages, 0, attend_padded)
    for pool in (*pages.keys, *pages.values):
        pool[14 * PAGE_TOKENS + 1 :][: PAGE_TOKENS - 1] = torch.nan
        pool[:PAGE_TOKENS] = torch.nan
    assert torch.equal(attend(asked, segments, pages, 0, attend_padded), before)


@pytest.mark.parametrize("portable", [False, True])
def test_the_kernel_computes_what_torch_does(portable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("cc"):
        pytest.skip("no C compiler here")
    if portable:
        flags = [*(flag for flag in small_batch.FLAGS if not flag.startswith("-march")), "-mno-avx512f"]
        monkeypatch.setattr(small_batch, "FLAGS", tuple(flags))
    config = replace(CONFIG, hidden=512)  # 8 heads of 64
    random = torch.Generator().manual_seed(2)
    asked, keys, values = (
        torch.randn(rows, heads, config.head, generator=random).bfloat16()
        for rows, heads in ((3, 8), (40 * PAGE_TOKENS, 2), (40 * PAGE_TOKENS, 2))
    )
    tables = alone().decode_tables
    found = small_batch.SmallBatchKernels().attend_rows(asked, keys, values, tables)
    assert torch.allclose(found.float(), attend_padded(asked, keys, values, tables).float(), atol=0.02)


def test_an_attention_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("cc"):
        pytest.skip("no C compiler here")
    kernels, said = small_batch.SmallBatchKernels(), list[str]()
    config = replace(CONFIG, hidden=512)
    assert checked_attention(kernels, config, said.append) is not None
    assert checked_attention(kernels, replace(CONFIG, hidden=128), said.append) is None  # heads of 16
    monkeypatch.setattr(kernels, "attend_rows", lambda queries, *_: queries)
    assert checked_attention(kernels, config, said.append) is None
    assert "heads of 16" in said[0]
    assert "something else" in said[1]
