"""From a checkpoint that makes sense to a model on its devices, with a line of progress."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from workers.vision.checkpoint.config import Quantised
from workers.vision.checkpoint.manifest import make_manifest, verify
from workers.vision.checkpoint.native import StockModel
from workers.vision.checkpoint.opened import Checkpoint
from workers.vision.checkpoint.placement import Placement, block_sizes, connect, cuda_rooms, plan
from workers.vision.checkpoint.quantise import Quantiser
from workers.vision.checkpoint.source import Report
from workers.vision.checkpoint.weights import load_model, loaded_bytes
from workers.vision.engine.device import choose_device, choose_dtype


@dataclass(frozen=True)
class Wish:
    """How a model is to be loaded."""

    device: str = "auto"
    dtype: str = "auto"
    quantised: Quantised | None = None
    pinned: str = ""  #: sha256 of the checkpoint, or the path of a manifest


def load(checkpoint: Checkpoint, wish: Wish, report: Report) -> StockModel:
    """Load it; its files are hashed beside, out of the same reading of the disk. Raises `CheckpointError`."""
    device = choose_device(wish.device)
    dtype = choose_dtype(wish.dtype, device)
    placement = _place(checkpoint, device, dtype, wish.quantised)
    quantiser = Quantiser(wish.quantised, dtype) if wish.quantised else None
    began = time.perf_counter()
    with ThreadPoolExecutor(1, "manifest") as beside:
        hashing = beside.submit(make_manifest, checkpoint.folder)
        with _bar() as bar:
            task = bar.add_task("loading weights", total=checkpoint.files.size)
            model = load_model(
                checkpoint.folder,
                checkpoint.config,
                dtype,
                placement,
                quantiser=quantiser,
                progress=lambda size: bar.advance(task, size),
            )
        manifest = hashing.result()
    report(f"{manifest.text}{manifest.digest}  (all of it, for TILEQ_MODEL_SHA256)")
    if wish.pinned:
        verify(manifest, wish.pinned)
    if placement.split:
        connect(model, placement)
    size, seconds = f"{checkpoint.files.size / 1e6:.1f} MB", f"{time.perf_counter() - began:.1f} s"
    kind, where = (
        wish.quantised or str(dtype).removeprefix("torch."),
        ", ".join(dict.fromkeys(map(str, placement.blocks))),
    )
    report(f"loaded {checkpoint.model.id}: {size} in {seconds}, {kind} on {where}")
    return model


def _place(checkpoint: Checkpoint, device: str, dtype: torch.dtype, quantised: Quantised | None) -> Placement:
    blocks = checkpoint.config.decoder.layers + 2
    if not device.startswith("cuda"):
        return Placement((torch.device(device),) * blocks)
    sizes = block_sizes(checkpoint.config, loaded_bytes(checkpoint.config, dtype, quantised))
    return plan(sizes, cuda_rooms(device))


def _bar() -> Progress:
    """On a terminal only: in a log it would be noise."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
