"""Attention over pages: by segment, all answers at once, and over pages that lie anywhere, it is the same."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.unit.vision.model.test_linear import portable
from workers.vision.checkpoint.config import DecoderConfig
from workers.vision.model.attention import attend, attend_padded, attend_segment
from workers.vision.model.cpu_kernels import cpu_kernels
from workers.vision.model.cpu_library import CpuLibrary
from workers.vision.model.kv_pages import KVPages
from workers.vision.model.packed_batch import PAGE_TOKENS, PackedBatch, Segment
from workers.vision.model.rotary import RotaryTable, rotate_and_store
from workers.vision.model.vision_encoder import attend_tiles

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


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2)).bfloat16()


@pytest.fixture(scope="module", params=["of this machine", "portable"])
def library(request: pytest.FixtureRequest) -> CpuLibrary:
    if not shutil.which("cc"):
        pytest.skip("no C compiler here")
    return portable() if request.param == "portable" else CpuLibrary()


def pools(heads: int, head: int) -> tuple[Tensor, Tensor]:
    return drawn(40 * PAGE_TOKENS, heads, head), drawn(40 * PAGE_TOKENS, heads, head).flip(0)


@pytest.mark.parametrize("head", [32, 64, 128])
def test_the_kernel_of_answers_computes_what_torch_does(library: CpuLibrary, head: int) -> None:
    asked, (keys, values) = drawn(3, 12, head)[:, :8], pools(2, head)  # rows that do not follow one another
    tables = alone().decode_tables
    found = library.attend_rows(asked, keys, values, tables)
    assert torch.allclose(found.float(), attend_padded(asked, keys, values, tables).float(), atol=0.02)


@pytest.mark.parametrize("head", [32, 64, 128])
@pytest.mark.parametrize(("rows", "context"), [(20, 20), (7, 50), (200, 300), (2, 129)])
def test_the_kernel_of_prompts_computes_what_torch_does(
    library: CpuLibrary, head: int, rows: int, context: int
) -> None:
    """What lies behind the context is NaN, left by a request that broke."""
    pages = torch.randperm(40, generator=torch.Generator().manual_seed(3)).tolist()[: -(-context // PAGE_TOKENS)]
    segment, (keys, values) = Segment(0, rows, context, tuple(pages)), pools(2, head)
    slots = (torch.tensor(pages).unsqueeze(1) * PAGE_TOKENS + torch.arange(PAGE_TOKENS)).flatten()[:context]
    for pool in (keys, values):
        behind = torch.ones(len(pool), dtype=torch.bool).index_fill_(0, slots, False)
        pool[behind] = torch.nan
    asked = drawn(rows, 12, head)[:, :8]
    expected = attend_segment(asked.float(), keys.float(), values.float(), segment)
    found = library.attend_prompt(asked, keys, values, segment)
    assert torch.allclose(found.float(), expected, atol=0.03)


def test_the_kernel_of_tiles_computes_what_torch_does(library: CpuLibrary) -> None:
    tiles = drawn(2, 77, 12, 64).chunk(3, dim=2)
    assert torch.allclose(library.attend_tiles(*tiles).float(), attend_tiles(*tiles).float(), atol=0.02)


def test_a_broken_score_reaches_its_own_row_only(library: CpuLibrary) -> None:
    asked, (keys, values) = drawn(20, 8, 64), pools(2, 64)
    asked[3] = torch.nan
    found = library.attend_prompt(asked, keys, values, Segment(0, 20, 20, (3, 4)))
    assert not found[3].isfinite().any()
    assert found[[0, 1, 2, 4, 19]].isfinite().all()


@pytest.mark.parametrize("normed", [False, True])
def test_the_kernel_turns_and_stores_what_torch_does(library: CpuLibrary, normed: bool) -> None:
    qkv, slots = drawn(9, 8 + 2 * 2, 64), torch.randperm(640, generator=torch.Generator().manual_seed(1))[:9]
    rotary = RotaryTable(drawn(9, 1, 32), drawn(9, 1, 32).flip(0))
    norms = (drawn(64), drawn(64).flip(0)) if normed else None
    fast, slow = pools(2, 64), pools(2, 64)
    found = library.rotate_and_store(qkv.clone(), rotary, norms, 1e-5, (*fast, slots))
    expected = rotate_and_store(qkv, rotary, norms, 1e-5, (*slow, slots))
    for one, other in ((found, expected), *zip(fast, slow, strict=True)):
        assert torch.allclose(one.float(), other.float(), atol=0.03, rtol=0.02)


def test_an_attention_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("cc"):
        pytest.skip("no C compiler here")
    monkeypatch.setattr(CpuLibrary, "attend_prompt", lambda _, queries, *__: queries)
    said: list[str] = []
    kernels = cpu_kernels(replace(CONFIG, hidden=512), torch.bfloat16, None, said.append)
    assert kernels.attend_prompt is None
    assert any(line.startswith("attention of prompts: wrong") for line in said)
    narrow = cpu_kernels(replace(CONFIG, hidden=128), torch.bfloat16, None, said.append)
    assert narrow.attend_rows is None
    assert "heads of 16 are no multiple of 32" in said[-1]


def test_the_wanted_rows_see_what_they_saw_among_all() -> None:
    whole = replace(batch(*SEGMENTS), wanted=torch.tensor([19, 24, 28]))
    assert whole.wanted_rows.segments == (
        replace(SEGMENTS[0], rows=1),
        Segment(1, 1, 48, (9, 2, 30)),
        replace(SEGMENTS[3], start=2),
    )
