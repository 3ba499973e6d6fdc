"""`python -m tests.bench.arithmetic`: what the steps of a GPU compute, move and launch, beside what they have to.

The model's own code in Mini's shapes in bf16, over tensors without memory (torch's meta device), each operation
counted: its floating-point operations, the bytes of its inputs and outputs as if none of them stayed in a cache, and a
launch. The attention kernels of a GPU are counted as they work: causal attention computes half, the paged kernel reads
each context once. The least is each weight read once, the keys and values of each context read once, those of the rows
written, and no operation but products. "time" adds up, operation by operation, the longer of computing and moving on an
H200 at its peak, beside the same for the least: what it is above 1 for is left to gain by joining operations.

The last line is of the host: what its loop queues for a decoding step that is one graph.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tests.bench.engine_peers.stages import text_ids
from tests.bench.figures import at_most
from tests.meta_model import META, meta_model
from workers.vision.bench.random_model import MINI, shapes
from workers.vision.checkpoint.weight_map import weight_shapes
from workers.vision.engine import model_runner
from workers.vision.engine.base import EngineRequest, Sampling
from workers.vision.engine.core import EngineCore, Parts
from workers.vision.engine.handle import RequestHandle
from workers.vision.engine.model_runner import ModelRunner
from workers.vision.engine.step_allowance import vision_operations
from workers.vision.engine.step_budget import StepBudget
from workers.vision.model.attention import attend_biased
from workers.vision.model.decode_steps import DecodeSteps
from workers.vision.model.decoder import DecoderKernels
from workers.vision.model.kv_pages import KVPages, page_bytes
from workers.vision.model.linear import PlainLinear
from workers.vision.model.norm import joined_rms_norm
from workers.vision.model.packed_batch import PAGE_TOKENS, DecodeTables, PackedBatch, Segment
from workers.vision.model.tower_graphs import split
from workers.vision.prompts import Prompt

FLOPS, BYTES_PER_S = 989e12, 4.8e12  # of an H200, bf16
BF16 = torch.bfloat16
CONTEXT = 1916  #: of each sequence that decodes: 7 tiles, a question, half of 128 tokens
BOUND = 1.15  #: times the least

aten = torch.ops.aten
FREE = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten._unsafe_view, aten.detach, aten.alias}
GATHERS = {aten.embedding, aten.index, aten.index_select}  # read as much of their table as they write
SCATTERS = {aten.index_put_, aten.index_put, aten.index_copy_, aten._index_put_impl_, aten.copy_}


@dataclass
class Work:
    """Of one or many operations."""

    flops: float = 0.0
    bytes: float = 0.0
    launches: int = 0
    seconds: float = 0.0  #: on a device at its peak

    def add(self, flops: float, moved: float, launches: int = 1) -> None:
        """Count an operation."""
        self.flops += flops
        self.bytes += moved
        self.launches += launches
        self.seconds += max(flops / FLOPS, moved / BYTES_PER_S)


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is called inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if not (func.is_view or packet in FREE):
            flops = flop_registry[packet](*args, **(kwargs or {}), out_val=found) if packet in flop_registry else 0
            self.work.add(flops, moved_bytes(packet, args, found))
        return found


class KernelsOfAGpu(TorchFunctionMode):
    """Takes the place of what is one kernel on a GPU and many operations on the meta device."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.rms_norm:
            self._work.add(0, 2 * size(args[0]) + size(kwargs["weight"]))
            return torch.empty_like(args[0])
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        queries, keys, values = args[:3]
        rows, context = queries.shape[-2], keys.shape[-2]
        causal = bool(kwargs and (kwargs.get("is_causal") or kwargs.get("attn_mask") is not None))
        seen = rows * context - causal * rows * (rows - 1) / 2
        flops = 4 * queries.shape[:-2].numel() * queries.shape[-1] * seen
        out = torch.empty_like(queries)
        self._work.add(flops, sum(map(size, (queries, keys, values, out))))
        return out


def moved_bytes(packet: Any, args: Any, found: Any) -> float:
    """Bytes that an operation reads and writes."""
    tensors = [arg for arg in flattened(args) if isinstance(arg, Tensor)]
    written = sum(size(out) for out in flattened([found]) if isinstance(out, Tensor))
    if packet in GATHERS:
        return 2 * written + sum(map(size, tensors[1:]))
    if packet in SCATTERS:
        return size(tensors[-1]) + sum(map(size, tensors[1:]))
    return written + sum(map(size, tensors))


def flattened(values: Any) -> Iterator[Any]:
    """The leaves of nested lists and tuples."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from flattened(value)
        else:
            yield value


def size(tensor: Tensor) -> int:
    """Bytes of memory behind a tensor; what is repeated counts once."""
    wide = [length for length, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return torch.Size(wide).numel() * tensor.element_size()


class Steps:
    """The steps that are counted, and the least of each."""

    def __init__(self) -> None:
        self.config, _ = shapes(MINI)
        self.counted = Work()
        self.model = meta_model(MINI, self._kernels())
        decoder, vision = self.config.decoder, self.config.vision
        wide = {name: torch.Size(shape).numel() for name, shape in weight_shapes(self.config).items()}
        self.head = wide["decoder.output.weight"]
        self.layers = sum(count for name, count in wide.items() if name.startswith("decoder.layers."))
        self.tower = sum(count for name, count in wide.items() if name.startswith(("vision.", "projector.")))
        self.projector = sum(count for name, count in wide.items() if name.startswith("projector.linear"))
        self.patch = wide["vision.embeddings.patch.weight"]
        self.kv_bytes = page_bytes(decoder, BF16) / PAGE_TOKENS
        self.scores = 4 * decoder.layers * decoder.heads * decoder.head
        self.pages = KVPages(decoder, 64 * 200, BF16, self.model.decoder.devices)
        self.patches = vision.grid**2

    def _kernels(self) -> DecoderKernels:
        """Those of a GPU; the bias of a prompt's last part takes no memory."""
        linear = partial(PlainLinear, normalise=joined_rms_norm)
        prompt = partial(attend_biased, bias=lambda *_: torch.empty(0, device=META))
        return DecoderKernels(linear, linear, attend_rows=self._paged, attend_prompt=prompt)

    @contextmanager
    def counting(self) -> Iterator[Work]:
        """Count what runs inside."""
        counting = Counting()
        self.counted = counting.work
        with torch.no_grad(), KernelsOfAGpu(counting.work), counting:
            yield counting.work

    def decode(self, sequences: int) -> tuple[Work, Work]:
        """A step that gives each of `sequences` a token, as it is recorded in a graph."""
        steps = DecodeSteps(self.model.decoder, self.pages, torch.zeros(65, dtype=torch.int64, device=META))
        program = steps.program(sequences)
        with self.counting() as work:
            program()
        least = Work()
        read = 2 * (self.layers + self.head) + sequences * (CONTEXT + 1) * self.kv_bytes
        each = 2 * (self.layers + self.head) + self.scores * CONTEXT
        least.add(sequences * each, read + sequences * 2 * self.config.decoder.hidden)
        return work, least

    def prefill(self, rows: int, context: int) -> tuple[Work, Work]:
        """The last `rows` of a prompt of `context` tokens."""
        places = torch.zeros(rows, dtype=torch.int64, device=META)
        segment = Segment(0, rows, context, tuple(range(-(-context // PAGE_TOKENS))))
        batch = PackedBatch(places, places, places, (segment,), places[:1])
        with self.counting() as work:
            self.model.decoder(batch, self.pages)
        least = Work()
        seen = rows * context - rows * (rows - 1) / 2
        moved = 2 * (self.layers + self.head) + 2 * rows * self.config.decoder.hidden + context * self.kv_bytes
        least.add(2 * rows * self.layers + 2 * self.head + self.scores * seen, moved)
        return work, least

    def encode(self, tiles: int) -> tuple[Work, Work]:
        """Tiles through the tower, in the graphs that there are."""
        encoder, side = self.model.encoder, self.config.vision.image
        with self.counting() as work:
            for count in split(tiles):
                encoder.encode(torch.empty((count, side, side, 3), dtype=torch.uint8, device=META))
        features = self.config.tokens_per_tile
        products = vision_operations(self.config, 1)
        products += 2 * self.patches * self.patch + 2 * features * self.projector
        least = Work()
        moved = 2 * self.tower + tiles * (3 * side**2 + 2 * features * self.config.decoder.hidden)
        least.add(tiles * products, moved)
        return work, least

    def _paged(self, queries: Tensor, keys: Tensor, values: Tensor, tables: DecodeTables) -> Tensor:
        """`paged_attention.attend_paged`: two kernels, the first of which leaves the parts of each context."""
        from workers.vision.model.paged_attention import parts_for

        rows, heads, head = queries.shape
        parts = parts_for(rows * keys.shape[1], tables.pages.shape[1] * PAGE_TOKENS)
        between = 4 * rows * heads * parts * (head + 2) if parts > 1 else 4 * rows * heads * (head + 2)
        read = 2 * rows * CONTEXT * keys.shape[1] * head * keys.element_size()
        self.counted.add(4 * rows * heads * head * CONTEXT, read + size(queries) + between)
        self.counted.add(0, between + size(queries))
        return torch.empty_like(queries)


def queued_by_host(sequences: int) -> int:
    """Launches and copies that a decoding step of `sequences` asks for, its graph being one."""
    config, tokenizer = shapes(MINI)
    decoder = meta_model(MINI).decoder
    newest = torch.zeros(sequences + 1, dtype=torch.int64, device=META)
    pages = KVPages(config.decoder, 8 * sequences, BF16, decoder.devices)
    steps = DecodeSteps(decoder, pages, newest)
    outputs = torch.empty((sequences, config.decoder.vocab), dtype=BF16, device=META), newest[:sequences].clone()
    graph: Any = SimpleNamespace(replay=lambda: outputs)
    steps._graphs = dict.fromkeys(steps.sizes, graph)
    model: Any = SimpleNamespace(encoder=SimpleNamespace(device=META, encode=None), decoder=decoder)
    runner = ModelRunner(model, pages, newest, steps=steps)
    budget = StepBudget(1 << 20, 8, 1e9, 1e9, 1e-9, 1e-9)
    parts = Parts(runner, config, tokenizer, pages.scratch, 0, sequences, budget, pipelined=True)
    core = EngineCore(parts, lambda *_: None, lambda: None)
    for number in range(sequences):
        prompt, none = Prompt(text_ids(number, 20), (), ""), np.zeros((0, 1, 1, 3), np.uint8)
        core.add(core.prepare(RequestHandle(EngineRequest(str(number), prompt, none, Sampling())), number))
    with patch.object(model_runner, "Readback", TokensOfNoDevice):
        for _ in range(3):  # the prompts, and the first steps, which open the sequences' slots
            core.step()
        with Counting() as counting:
            core.step()
    graph_and_copy_back = 2
    return int(counting.work.launches) + graph_and_copy_back


class TokensOfNoDevice:
    """In place of `Readback`."""

    def __init__(self, values: Tensor) -> None:
        self._count = len(values)

    def read(self) -> list[int]:
        """Any tokens."""
        return [300] * self._count


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args()
    steps = Steps()
    cases: list[tuple[str, Callable[[], tuple[Work, Work]]]] = [
        *((f"decode, {count} sequences", lambda count=count: steps.decode(count)) for count in (1, 8, 64)),
        ("prefill of 1,852", lambda: steps.prefill(1852, 1852)),
        ("prefill, last 4,096 of 10,526", lambda: steps.prefill(4096, 10526)),
        *((f"tower, {tiles} tiles", lambda tiles=tiles: steps.encode(tiles)) for tiles in (1, 7, 13, 41)),
    ]  # fmt: skip
    print("| step | GFLOP | least | ratio | GB | least | ratio | operations | time on an H200, ms | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, count in cases:
        work, least = count()
        flops, moved, time = work.flops / least.flops, work.bytes / least.bytes, work.seconds / least.seconds
        at_most(f"{name}: FLOPs beside the least", flops, BOUND)
        if name.startswith("decode"):  # what bounds it; the others are bounded by their products
            at_most(f"{name}: bytes beside the least", moved, BOUND)
        print(
            f"| {name} | {work.flops / 1e9:.1f} | {least.flops / 1e9:.1f} | {flops:.3f} | {work.bytes / 1e9:.2f} | "
            f"{least.bytes / 1e9:.2f} | {moved:.2f} | {work.launches} | {1000 * work.seconds:.2f} | {time:.2f} |"
        )

    queued = ", ".join(str(queued_by_host(sequences)) for sequences in (1, 8, 64))
    print(f"queued by the host for a step of 1, 8 and 64 answers: {queued}")


if __name__ == "__main__":
    main()
