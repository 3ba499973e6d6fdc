"""From a loaded model to a resident engine that fits its device."""

import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from shared.tokenization.tokenizer import Tokenizer
from workers.vision.checkpoint.cache import Report
from workers.vision.checkpoint.config import Config
from workers.vision.engine.core import Parts
from workers.vision.engine.device_paths import checked_pipelining, checked_steps, checked_tower
from workers.vision.engine.model_runner import ModelRunner
from workers.vision.engine.resident import ResidentEngine
from workers.vision.engine.step_allowance import decoder_operations, vision_operations
from workers.vision.engine.step_budget import StepBudget
from workers.vision.model.decode_steps import DecodeSteps
from workers.vision.model.decoder import Decoder
from workers.vision.model.device import seconds_per_operation
from workers.vision.model.gpu_kernels import PAGED_ATTENTION
from workers.vision.model.graph import GraphPool
from workers.vision.model.kv_pages import KVPages, page_bytes
from workers.vision.model.openmp import release_threads
from workers.vision.model.packed_batch import PAGE_TOKENS
from workers.vision.model.vision_language_model import VisionLanguageModel

CPU_SHARE, CPU_MOST = 8, 4 << 30  # an eighth of the memory, and no more bytes than this, for keys and values
CUDA_MEMORY_FRACTION = 0.85  # of what is free once the model is loaded; the rest is for the steps' own tensors
FEATURE_DIVISOR = 8  # image features get an eighth of what keys and values get
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@torch.inference_mode()
def resident_engine(
    model: VisionLanguageModel,
    config: Config,
    tokenizer: Tokenizer,
    *,
    slots: int = 0,
    kv_bytes: int = 0,
    report: Report = lambda _: None,
    fast: bool | None = None,
) -> ResidentEngine:
    """Size caches and steps for the model's device; 0 for a default.

    `fast`: try graphs and pipelining; None: where they can pay off.
    """
    device, dtype = model.encoder.device, model.decoder.embedding.dtype
    slots = slots or default_slots(device)
    newest = torch.zeros(slots + 1, dtype=torch.int64, device=device)
    graphs = GraphPool(device) if (suits_graphs(model) if fast is None else fast) else None
    encode, steps, recorded, paths = None, None, 0, model.decoder.paths
    if graphs:
        encode, path = checked_tower(model.encoder, graphs, report)
        recorded, paths = recorded_bytes(model.decoder, newest), (*paths, path)
    budget = kv_bytes or kv_budget(device, recorded)
    # More than every sequence at its longest can't be used.
    pages = max(1, min(slots * config.context // PAGE_TOKENS, budget // page_bytes(config.decoder, dtype)))
    pool = KVPages(config.decoder, pages, dtype, model.decoder.devices)
    if graphs:
        steps, path = checked_steps(model.decoder, pool, newest, graphs, report)
        paths = (*paths, path)
    parts = Parts(
        runner=ModelRunner(model, pool, newest, encode, steps),
        config=config,
        tokenizer=tokenizer,
        pages=pages,
        feature_bytes=budget // FEATURE_DIVISOR,
        slots=slots,
        budget=step_budget(config, dtype, device),
        paths=paths,
    )
    if graphs:
        parts, path = checked_pipelining(parts, report)
        parts = replace(parts, paths=(*paths, path))
    release_threads()  # this thread has loaded and measured; from here on the engine's own computes
    return ResidentEngine(parts)


def suits_graphs(model: VisionLanguageModel) -> bool:
    """Whether the model is on one GPU, and its attention's kernel costs no more for the widest page table."""
    used = any(path.name == PAGED_ATTENTION and path.state == "used" for path in model.decoder.paths)
    return used and len({model.encoder.device, *model.decoder.devices}) == 1


def recorded_bytes(decoder: Decoder, newest: Tensor) -> int:
    """Memory that the graphs of all decoding steps take, by recording them over a cache of a few pages."""
    pages = KVPages(decoder.config, 2 * len(newest), decoder.embedding.dtype, decoder.devices)
    before = free_bytes(newest.device)
    kept = DecodeSteps(decoder, pages, newest).record(GraphPool(newest.device))
    after = free_bytes(newest.device)
    del kept
    return before - after


def default_slots(device: torch.device) -> int:
    """Sequences worth batching: a step of so many costs little more than a step of one.

    On a CPU few, because each job's time to run counts from its claim and a tile takes seconds.
    """
    return 64 if device.type == "cuda" else 8


def step_budget(config: Config, dtype: torch.dtype, device: torch.device) -> StepBudget:
    """What a step may do; on a CPU a tile takes seconds, on a GPU milliseconds."""
    each = seconds_per_operation(dtype, device)
    row_s = each * decoder_operations(config, 1)
    tile_s = each * vision_operations(config, 1)
    if device.type == "cuda":
        return StepBudget(4096, 16, pause_s=0.1, longest_s=5.0, row_s=row_s, tile_s=tile_s)
    return StepBudget(512, 8, pause_s=1.0, longest_s=5.0, row_s=row_s, tile_s=tile_s)


def kv_budget(device: torch.device, recorded: int) -> int:
    """Bytes for keys and values beside `recorded` of graphs to come. A CPU commits memory as pages are written."""
    if device.type == "cuda":
        return int((free_bytes(device) - recorded) * CUDA_MEMORY_FRACTION)
    return min(CPU_MOST, _memory() // CPU_SHARE) - recorded


def free_bytes(device: torch.device) -> int:
    """Bytes of a GPU that nobody has taken; 0 for a CPU."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def _memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = CGROUP_LIMIT.read_text().strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine
