"""Loads a checkpoint onto its devices: files hashed, weights placed and copied, with a line of progress."""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as ProgressBar
from torch import Tensor

from workers.vision.checkpoint.cache import Report
from workers.vision.checkpoint.checkpoint import Checkpoint
from workers.vision.checkpoint.checksums import compute_checksums, verify
from workers.vision.checkpoint.config import DecoderConfig, Quantised
from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.model.cpu_kernels import cpu_kernels
from workers.vision.model.decoder import DecoderKernels
from workers.vision.model.device import choose_device, choose_dtype
from workers.vision.model.fused import fuse
from workers.vision.model.gpu_kernels import gpu_kernels
from workers.vision.model.linear import Linear, MakeLinear
from workers.vision.model.placement import (
    Placement,
    block_sizes,
    connect,
    cuda_budgets,
    on_one_device,
    plan,
    weight_bytes,
)
from workers.vision.model.quantise import Quantiser
from workers.vision.model.vision_language_model import VisionLanguageModel, build_model
from workers.vision.model.weights import Weight, read_weights

if TYPE_CHECKING:
    from workers.vision.model.hf_model import StockModel

PROGRESS_INTERVAL_S = 5


@dataclass(frozen=True)
class LoadOptions:
    """How a model is to be loaded."""

    device: str = "auto"
    dtype: str = "auto"
    quantised: Quantised | None = None
    pinned: str = ""  #: sha256 of the checkpoint, or the path of a file of checksums


def load(checkpoint: Checkpoint, options: LoadOptions, report: Report) -> "StockModel":
    """Return the stock model of `checkpoint` on its devices. Raises `CheckpointError`."""
    from workers.vision.model.hf_model import assemble  # noqa: PLC0415  # brings transformers: 180 MB of memory

    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device, lambda dtype: _fits(checkpoint, device, dtype, options.quantised))
    placement = _place(checkpoint, device, dtype, options.quantised)
    quantiser = Quantiser(options.quantised, dtype) if options.quantised else None
    with _timed(checkpoint, options.quantised or dtype, placement, report):
        with reading(checkpoint, options.pinned, report) as weights:
            model = assemble(checkpoint.config, weights, dtype, placement, quantiser)
        if placement.split:
            connect(model, placement)
    return model


def load_packed(checkpoint: Checkpoint, options: LoadOptions, report: Report) -> VisionLanguageModel:
    """Return the packed model of `checkpoint` on its devices; a CPU's decoder may be quantised.

    Raises `CheckpointError`.
    """
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device, lambda dtype: _fits(checkpoint, device, dtype, None))
    placement = _place(checkpoint, device, dtype, None)
    kernels = kernels_for(checkpoint.config.decoder, dtype, placement.blocks[1], options.quantised, report)
    with _timed(checkpoint, options.quantised or dtype, placement, report):
        with reading(checkpoint, options.pinned, report) as weights:
            fused = fuse(weights, checkpoint.config, dtype, placement)
        total = sum(weight.numel() for weight in fused.values())
        return build_model(checkpoint.config, fused, _watched(kernels, total, options.quantised, report))


def _watched(kernels: DecoderKernels, total: int, quantised: Quantised | None, report: Report) -> DecoderKernels:
    """`kernels` that report how far they are, because quantising takes longer than reading."""
    done, reported_at = 0, time.monotonic()

    def watched(make: MakeLinear) -> MakeLinear:
        def made(weight: Tensor, bias: Tensor | None, **options: Any) -> Linear:
            nonlocal done, reported_at
            layer = make(weight, bias, **options)
            done += weight.numel()
            if time.monotonic() >= reported_at + PROGRESS_INTERVAL_S:
                reported_at = time.monotonic()
                report(f"{quantised or 'weights'}: {done / total:.0%} of the model is laid out for this device")
            return layer

        return made

    linear, head, encoder_linear = map(watched, (kernels.linear, kernels.head, kernels.encoder_linear))
    return replace(kernels, linear=linear, head=head, encoder_linear=encoder_linear)


def kernels_for(
    config: DecoderConfig, dtype: torch.dtype, device: torch.device, quantised: Quantised | None, report: Report
) -> DecoderKernels:
    """What a model computes with on `device`."""
    if device.type == "cpu":
        return cpu_kernels(config, dtype, quantised, report)
    return gpu_kernels(config, dtype, device, report)


@contextmanager
def _timed(
    checkpoint: Checkpoint, kind: Quantised | torch.dtype, placement: Placement, report: Report
) -> Iterator[None]:
    """Report what was loaded, as what, where and how fast."""
    began = time.perf_counter()
    yield
    size, seconds = f"{checkpoint.files.size / 1e6:.1f} MB", f"{time.perf_counter() - began:.1f} s"
    devices = ", ".join(dict.fromkeys(map(str, placement.blocks)))
    report(f"loaded {checkpoint.model.id}: {size} in {seconds}, {str(kind).removeprefix('torch.')} on {devices}")


@contextmanager
def reading(checkpoint: Checkpoint, pinned: str, report: Report) -> Iterator[Iterator[Weight]]:
    """Give the logical weights of `checkpoint`, while its files are hashed beside, out of the same reading of the disk.

    On leaving, the hashes are reported and held against `pinned`. Raises `CheckpointError`.
    """
    with ThreadPoolExecutor(1, "checksums") as pool:
        hashing = pool.submit(compute_checksums, checkpoint.folder)
        with _progress_bar(checkpoint.files.size) as advance:
            yield read_weights(checkpoint.files, checkpoint.config, advance)
        checksums = hashing.result()
    report(f"{checksums.text}{checksums.digest}  (all of it, for TILEQ_MODEL_SHA256)")
    if pinned:
        verify(checksums, pinned)


def _place(checkpoint: Checkpoint, device: str, dtype: torch.dtype, quantised: Quantised | None) -> Placement:
    if not device.startswith("cuda"):
        return on_one_device(checkpoint.config, torch.device(device))
    sizes = block_sizes(checkpoint.config, weight_bytes(checkpoint.config, dtype, quantised))
    return plan(sizes, cuda_budgets(device))


def _fits(checkpoint: Checkpoint, device: str, dtype: torch.dtype, quantised: Quantised | None) -> bool:
    try:
        _place(checkpoint, device, dtype, quantised)
    except CheckpointError:
        return False
    return True


@contextmanager
def _progress_bar(total: int) -> Iterator[Callable[[int], None]]:
    """Give a function that advances the bar by bytes. Shown on a terminal only: in a log it would be noise."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with ProgressBar(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("loading weights", total=total)
        yield lambda size: bar.advance(task, size)
