"""Models of real sizes with random weights, made in memory: speed depends on shapes, not on what they say.

All but the sizes, and the tokenizer, is the bundled demo checkpoint's.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor

from shared.tokenization.tokenizer import Tokenizer, load_tokenizer
from workers.vision.checkpoint.cache import Report
from workers.vision.checkpoint.config import Config, Quantised, read_config
from workers.vision.checkpoint.weight_map import WHOLE, weight_shapes
from workers.vision.engine.assembly import resident_engine
from workers.vision.engine.base import Engine
from workers.vision.engine.factory import BUNDLED
from workers.vision.engine.transformers import Loaded, TransformersEngine
from workers.vision.model.fused import fuse
from workers.vision.model.hf_model import assemble
from workers.vision.model.loader import kernels_for
from workers.vision.model.placement import on_one_device
from workers.vision.model.vision_language_model import VisionLanguageModel, build_model
from workers.vision.model.weights import Weight

Kind = Literal["resident", "transformers"]
NOISE = 1 << 24  # numbers drawn; larger weights repeat them

Sizes = dict[str, dict[str, Any]]  #: fields of config.json

#: Mini-InternVL-Chat-V1.5, 2.2 B parameters.
MINI: Sizes = {
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
        "qk_normalization": False,
    },
    "llm_config": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "vocab_size": 92553,
    },
}
#: For a run of a few seconds, which says nothing about speed.
SMALL: Sizes = {
    "vision_config": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
    "llm_config": {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2},
}


def shapes(sizes: Sizes) -> tuple[Config, Tokenizer]:
    """The configuration of `sizes` and a small tokenizer, whose ids are a few of the vocabulary's."""
    config = json.loads((BUNDLED / "config.json").read_text())
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copy(BUNDLED / file, folder)
        sized = {part: config[part] | values for part, values in sizes.items()}
        (folder / "config.json").write_text(json.dumps(config | sized))
        return read_config(folder), load_tokenizer(folder)


def make_engine(  # noqa: PLR0917 - what is made, of what, where
    kind: Kind,
    sizes: Sizes,
    device: torch.device,
    dtype: torch.dtype,
    quantised: Quantised | None = None,
    report: Report = print,
) -> Engine:
    """An engine over random weights, the same for every kind."""
    if kind == "resident":
        return resident_engine(*make_model(sizes, device, dtype, quantised, report), report=report)
    config, tokenizer = shapes(sizes)
    placement = on_one_device(config, device)
    return TransformersEngine(Loaded(assemble(config, weights(config), dtype, placement), config, tokenizer))


def make_model(
    sizes: Sizes,
    device: torch.device,
    dtype: torch.dtype,
    quantised: Quantised | None = None,
    report: Report = print,
) -> tuple[VisionLanguageModel, Config, Tokenizer]:
    """The packed model of `sizes`, and what an engine needs beside it."""
    config, tokenizer = shapes(sizes)
    fused = fuse(weights(config), config, dtype, on_one_device(config, device))
    kernels = kernels_for(config.decoder, dtype, device, quantised, report)
    return build_model(config, fused, kernels), config, tokenizer


def weights(config: Config) -> Iterator[Weight]:
    """Every logical weight, small numbers around 0 or, for norms, around 1."""
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(0), dtype=torch.bfloat16).mul_(0.02)
    for name, shape in weight_shapes(config).items():
        yield Weight(name, shape, _drawn(noise, name, shape), WHOLE, lambda: None)


def _drawn(noise: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    count = torch.Size(shape).numel()
    drawn = noise.repeat(-(-count // NOISE))[:count].view(shape)
    return 1 + drawn if name.endswith("norm.weight") else drawn
