"""From a loaded model to a resident engine that fits its device."""

import os
from pathlib import Path

import torch

from shared.tokenization.tokenizer import Tokenizer
from workers.vision.checkpoint.config import Config
from workers.vision.engine.core import Parts
from workers.vision.engine.model_runner import ModelRunner
from workers.vision.engine.resident import ResidentEngine
from workers.vision.engine.scheduler import Limits
from workers.vision.engine.step_allowance import (
    decoder_layer_operations,
    measure_seconds_per_operation,
    vision_layer_operations,
)
from workers.vision.engine.step_budget import StepBudget
from workers.vision.model.kv_pages import KVPages, page_bytes
from workers.vision.model.openmp import release_threads
from workers.vision.model.packed_batch import PAGE_TOKENS
from workers.vision.model.vision_language_model import VisionLanguageModel

CPU_SHARE, CPU_MOST = 8, 4 << 30  # an eighth of the memory, and no more bytes than this, for keys and values
CUDA_MEMORY_FRACTION = 0.85  # of what is free once the model is loaded; the rest is for the steps' own tensors
FEATURE_DIVISOR = 8  # image features get an eighth of what keys and values get
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def resident_engine(
    model: VisionLanguageModel, config: Config, tokenizer: Tokenizer, *, slots: int = 0, kv_bytes: int = 0
) -> ResidentEngine:
    """Size caches and steps for the model's device; 0 for a default."""
    device, dtype = model.encoder.device, model.decoder.embedding.dtype
    budget = kv_bytes or kv_budget(device)
    # More than every sequence at its longest can't be used.
    most = (slots or default_slots(device)) * config.context // PAGE_TOKENS
    pages = max(1, min(most, budget // page_bytes(config.decoder, dtype)))
    pool = KVPages(config.decoder, pages, dtype, model.decoder.devices)
    parts = Parts(
        runner=ModelRunner(model, pool),
        config=config,
        tokenizer=tokenizer,
        pages=pages,
        feature_bytes=budget // FEATURE_DIVISOR,
        limits=Limits(sequences=slots or default_slots(device), held_tiles=256),
        budget=step_budget(config, dtype, device),
        paths=model.decoder.paths,
    )
    release_threads()  # this thread has loaded and measured; from here on the engine's own computes
    return ResidentEngine(parts)


def default_slots(device: torch.device) -> int:
    """Sequences worth batching: a step of so many costs little more than a step of one.

    On a CPU few, because each job's time to run counts from its claim and a tile takes seconds.
    """
    return 64 if device.type == "cuda" else 8


def step_budget(config: Config, dtype: torch.dtype, device: torch.device) -> StepBudget:
    """What a step may do; on a CPU a tile takes seconds, on a GPU milliseconds."""
    each = measure_seconds_per_operation(dtype, device)
    row_s = each * config.decoder.layers * decoder_layer_operations(config, 1)
    tile_s = each * config.used_layers * vision_layer_operations(config, 1)
    if device.type == "cuda":
        return StepBudget(4096, 16, pause_s=0.1, longest_s=5.0, row_s=row_s, tile_s=tile_s)
    return StepBudget(512, 8, pause_s=1.0, longest_s=5.0, row_s=row_s, tile_s=tile_s)


def kv_budget(device: torch.device) -> int:
    """Bytes for keys and values. A CPU's memory is committed only as pages are written."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * CUDA_MEMORY_FRACTION)
    return min(CPU_MOST, _memory() // CPU_SHARE)


def _memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = CGROUP_LIMIT.read_text().strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine
