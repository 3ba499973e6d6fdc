"""Decoding steps over static buffers: what is recorded keeps its addresses, and padding touches nobody's pages."""

import pytest
import torch
from torch import Tensor

from workers.vision.bench.random_model import SMALL, make_model
from workers.vision.model.decode_steps import DecodeSteps
from workers.vision.model.decoder import Decoder
from workers.vision.model.graph import GraphPool
from workers.vision.model.kv_pages import KVPages
from workers.vision.model.packed_batch import PAGE_TOKENS
from workers.vision.model.tower_graphs import TILE_COUNTS, TowerGraphs, split
from workers.vision.model.vision_language_model import VisionLanguageModel

CPU = torch.device("cpu")
SLOTS, PAGES = 6, 12
ROWS = [(slot, PAGE_TOKENS + 3 * slot % PAGE_TOKENS, 2 * slot + 1) for slot in range(SLOTS)]  # in two pages each


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return make_model(SMALL, CPU, torch.float32, report=lambda _: None)[0]


@pytest.fixture
def decoder(model: VisionLanguageModel) -> Decoder:
    return model.decoder


def made(decoder: Decoder, *, recorded: bool = True) -> tuple[DecodeSteps, KVPages]:
    """Steps over pages of noise, every slot opened."""
    random = torch.Generator().manual_seed(0)
    pages = KVPages(decoder.config, PAGES, torch.float32, decoder.devices)
    for pool in (*pages.keys, *pages.values):
        pool.copy_(torch.randn(pool.shape, generator=random))
    steps = DecodeSteps(decoder, pages, torch.arange(300, 300 + SLOTS + 1))
    for slot in range(SLOTS):
        steps.open(slot, [2 * slot, 2 * slot + 1])
    return (steps.record(GraphPool(CPU)) if recorded else steps), pages


def addresses(steps: DecodeSteps) -> dict[str, int]:
    buffers: dict[str, Tensor] = {"tables": steps._tables, "newest": steps._newest}
    buffers |= {f"rows of {size}": rows for size, rows in steps._rows.items()}
    for size, graph in steps._graphs.items():
        buffers |= {f"{size}, output {number}": output for number, output in enumerate(graph._outputs)}
    return {name: tensor.data_ptr() for name, tensor in buffers.items()}


@torch.inference_mode()
def test_every_step_reads_and_writes_the_addresses_that_were_recorded(decoder: Decoder) -> None:
    steps, _ = made(decoder)
    before = addresses(steps)
    for rows in (ROWS[:1], ROWS[:3], ROWS[3:], ROWS, ROWS[:3]):
        logits, tokens = steps(rows)
        size = steps.size_for(len(rows))
        assert (logits.data_ptr(), tokens.data_ptr()) == (before[f"{size}, output 0"], before[f"{size}, output 1"])
        steps.open(rows[0][0], [2 * rows[0][0], 2 * rows[0][0] + 1])
    assert addresses(steps) == before


@torch.inference_mode()
@pytest.mark.parametrize("count", range(1, SLOTS + 1))
def test_a_padded_step_writes_its_own_rows_and_the_scratch_page_alone(decoder: Decoder, count: int) -> None:
    steps, pages = made(decoder)
    rows = ROWS[SLOTS - count :]
    before = [pool.clone() for pool in (*pages.keys, *pages.values)]
    tables = steps._tables.clone()
    logits, _ = steps(rows)
    own = [page * PAGE_TOKENS + position % PAGE_TOKENS for _, position, page in rows]
    scratch = range(PAGES * PAGE_TOKENS, (PAGES + 1) * PAGE_TOKENS)
    others = torch.ones(len(before[0]), dtype=torch.bool)
    others[[*own, *scratch]] = False
    for pool, old in zip((*pages.keys, *pages.values), before, strict=True):
        assert torch.equal(pool[others], old[others])
        assert not torch.equal(pool[own], old[own])
    assert torch.equal(steps._tables[:SLOTS], tables[:SLOTS])
    alone, _ = made(decoder, recorded=False)
    for place, row in enumerate(rows):
        torch.testing.assert_close(logits[place], alone([row])[0][0])


def test_no_step_has_more_rows_than_the_largest_that_was_recorded(decoder: Decoder) -> None:
    steps, pages = made(decoder)
    before = pages.keys[0].clone()
    with pytest.raises(ValueError, match="empty"):
        steps([*ROWS, ROWS[0]])
    with pytest.raises(RuntimeError, match="size"):
        steps.open(0, range(steps._tables.shape[1] + 1))
    assert torch.equal(pages.keys[0], before)


@torch.inference_mode()
def test_the_tower_s_graphs_keep_their_input_and_hand_out_copies(model: VisionLanguageModel) -> None:
    encoder = model.encoder
    graphs = TowerGraphs(encoder, GraphPool(CPU))
    tiles = torch.randint(0, 256, (3, encoder.side, encoder.side, 3), dtype=torch.uint8)
    address = graphs._tiles.data_ptr()
    first = graphs(tiles)
    kept = first.clone()
    graphs(255 - tiles)
    assert torch.equal(first, kept)
    assert graphs._tiles.data_ptr() == address
    torch.testing.assert_close(first, encoder.encode(tiles))


@pytest.mark.parametrize("tiles", [*range(1, 42), 1000])
def test_any_number_of_tiles_is_a_sum_of_recorded_ones(tiles: int) -> None:
    parts = list(split(tiles))
    assert sum(parts) == tiles
    assert set(parts) <= set(TILE_COUNTS)
