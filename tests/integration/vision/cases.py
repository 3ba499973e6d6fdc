"""The cases of `TILEQ_PARITY`, their images and checkpoints, made by the folder's own scripts."""

import importlib.util
import json
import os
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shared.images import ImageLimits, ImageMode
from tests.encoded import encoded
from workers.vision.checkpoint.config import read_config
from workers.vision.checkpoint.weight_files import find_weight_files
from workers.vision.images.decoder_pool import DecoderOptions, DecoderPool, TiledImage
from workers.vision.model.hf_model import StockModel, assemble
from workers.vision.model.placement import on_one_device
from workers.vision.model.weights import read_weights

ROOT = Path(__file__).parents[3]
FOLDER = Path(os.environ.get("TILEQ_PARITY") or ROOT.parent / "shared" / "parity")

#: Beside a test that needs the folder: it is skipped, with the reason, only where the folder is not.
needs_folder = [
    pytest.mark.parity,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the cases of the original are not at {FOLDER} (TILEQ_PARITY)"),
]


def read(name: str) -> Any:
    """`cases/NAME.json`; something empty where the folder is absent, so that tests can be collected and skipped."""
    path = FOLDER / "cases" / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {"cases": [], "grids": [], "pixels": [], "decoded": []}


@cache
def script(name: str) -> ModuleType:
    """`NAME.py` of the folder."""
    spec = importlib.util.spec_from_file_location(f"parity_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkpoint(folder: Path, variant: str, seed: int) -> Path:
    """Write the checkpoint, with the released tokenizer beside it."""
    target = folder / f"{variant}-{seed}"
    if not target.is_dir():
        script("checkpoints").write(variant, target, seed)
        for path in (FOLDER / "tokenizer").iterdir():
            shutil.copyfile(path, target / path.name)
    return target


def image_file(width: int, height: int, seed: int) -> bytes:
    """A PNG of the image that the folder's script draws."""
    return encoded(Image.fromarray(script("images").picture(width, height, seed)))


def decoder_pool(
    mode: ImageMode = "natural", max_pixels: int = 50_000_000, processes: int = 1, **options: Any
) -> DecoderPool:
    """A pool of decoder processes."""
    limits = ImageLimits(max_pixels, max_side=32_768, max_missing_rows=0.1, mode=mode)
    return DecoderPool(processes, DecoderOptions(limits, **({"timeout_s": 60} | options)))


def stock_model(folder: Path, dtype: torch.dtype = torch.float32) -> StockModel:
    """The stock model of the checkpoint in `folder`, on the CPU."""
    config = read_config(folder)
    weights = read_weights(find_weight_files(folder), config)
    return assemble(config, weights, dtype, on_one_device(config, torch.device("cpu")))


def stacked(images: Sequence[TiledImage]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The tiles of all images, in order."""
    return np.concatenate([np.zeros((0, 448, 448, 3), np.uint8), *(image.tiles for image in images)])
