"""What makes a GPU's host fast enough, each held against its twin on the device that serves when a worker starts.

    tower graphs      the tower by number of tiles       twin: the tower, called
    decode graphs     a step by number of sequences      twin: the same step, called
    pipelining        a step's tokens read one behind    twin: read at once

A path that is missing, wrong or slower is left out alone.
"""

from dataclasses import replace

import torch
from torch import Tensor

from workers.vision.checkpoint.cache import Report
from workers.vision.engine.base import EngineRequest, Sampling
from workers.vision.engine.core import EngineCore, Parts
from workers.vision.engine.handle import RequestHandle
from workers.vision.engine.model_runner import Encode
from workers.vision.model.decode_steps import DecodeSteps
from workers.vision.model.decoder import Decoder
from workers.vision.model.fast_path import FastPath, Way, choose
from workers.vision.model.graph import GraphPool
from workers.vision.model.kv_pages import KVPages
from workers.vision.model.packed_batch import PAGE_TOKENS
from workers.vision.model.tower_graphs import TILE_COUNTS, TowerGraphs
from workers.vision.model.transfers import staging
from workers.vision.model.vision_encoder import VisionEncoder
from workers.vision.prompts import Prompt

PROMPT_TOKENS, NEW_TOKENS = 40, 32  # of the requests by which pipelining is checked
SAMPLINGS = (
    Sampling(max_new_tokens=NEW_TOKENS),
    Sampling(max_new_tokens=NEW_TOKENS, repetition_penalty=1.2),
    Sampling(max_new_tokens=NEW_TOKENS, temperature=1.0, seed=1),
)


def checked_tower(encoder: VisionEncoder, pool: GraphPool, report: Report) -> tuple[Encode, FastPath]:
    """Graphs of the tower or, if they are no good, the tower. Every number of tiles that is recorded is compared."""
    tiles = staging((max(TILE_COUNTS), encoder.side, encoder.side, 3), encoder.device)
    tiles.random_(generator=torch.Generator().manual_seed(0))

    def by_count(encode: Encode) -> Way:
        return lambda tiles: torch.cat([encode(tiles[:count]) for count in TILE_COUNTS])

    twin: Encode = encoder.encode
    return choose("tower graphs", lambda: TowerGraphs(encoder, pool), twin, (tiles,), report, by_count)


def checked_steps(
    decoder: Decoder, pages: KVPages, newest: Tensor, pool: GraphPool, report: Report
) -> tuple[DecodeSteps, FastPath]:
    """Decoding steps by graphs or, if they are no good, called. Every number of sequences is compared."""
    slots, device = len(newest) - 1, newest.device
    random = torch.Generator().manual_seed(0)
    newest[:slots] = torch.randint(decoder.config.vocab, (slots,), generator=random).to(device)
    owned = [((2 * slot) % pages.scratch, (2 * slot + 1) % pages.scratch) for slot in range(slots)]
    for keys_or_values in (*pages.keys, *pages.values):  # fresh memory may hold NaN
        keys_or_values[: 2 * slots * PAGE_TOKENS].normal_()

    def steps() -> DecodeSteps:
        made = DecodeSteps(decoder, pages, newest)
        for slot, both in enumerate(owned):
            made.open(slot, both)
        return made

    def by_size(steps: DecodeSteps) -> Way:
        rows = [(slot, PAGE_TOKENS + slot % PAGE_TOKENS, both[1]) for slot, both in enumerate(owned)]
        return lambda _: torch.cat([steps(rows[:size])[0].clone() for size in steps.sizes])

    return choose("decode graphs", lambda: steps().record(pool), steps(), (newest,), report, by_size)


def checked_pipelining(parts: Parts, report: Report) -> tuple[Parts, FastPath]:
    """`parts` pipelined or, if that is no good, as they are. A few requests are answered both ways."""

    def tokens(parts: Parts) -> Way:
        return lambda _: answers(parts)

    return choose("pipelining", lambda: replace(parts, pipelined=True), parts, (torch.empty(0),), report, tokens)


@torch.inference_mode()
def answers(parts: Parts) -> Tensor:
    """Tokens of a few requests, (requests, PROMPT_TOKENS + NEW_TOKENS), with -1 behind an answer's end."""
    core = EngineCore(parts, lambda *_: None, lambda: None)
    none = torch.zeros((0, 1, 1, 3), dtype=torch.uint8).numpy()
    prompt = Prompt([place % parts.config.decoder.vocab for place in range(100, 100 + PROMPT_TOKENS)], (), "")
    asked = [EngineRequest(str(number), prompt, none, sampling) for number, sampling in enumerate(SAMPLINGS)]
    sequences = [core.prepare(RequestHandle(request), number) for number, request in enumerate(asked)]
    for sequence in sequences:
        core.add(sequence)
    while core.busy:
        core.step()
    found = torch.full((len(sequences), PROMPT_TOKENS + NEW_TOKENS), -1.0)
    for row, sequence in zip(found, sequences, strict=True):
        row[: len(sequence.branch.tokens)] = torch.tensor(sequence.branch.tokens, dtype=torch.float32)
    return found
