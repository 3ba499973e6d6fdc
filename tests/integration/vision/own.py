"""Cases of our own, in the shape of the original's, so that a clone without them holds the same line.

    python -m tests.integration.vision.own     writes tests/fixtures/vision/own.json anew

The figures were written when the same code agreed with every case of the original; `test_own.py` compares.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from shared.conversation import IMAGE, Message
from shared.settings.roles import Settings
from tests.encoded import encoded
from tests.integration.vision import cases
from tests.random_checkpoint import write_random
from workers.vision.checkpoint.checkpoint import open_checkpoint
from workers.vision.engine.base import Done, EngineRequest, Sampling
from workers.vision.engine.factory import make_engine
from workers.vision.images.decoder_pool import DecoderPool
from workers.vision.model.image_features import features
from workers.vision.model.pixels import normalise

EngineName = Literal["resident", "transformers"]
FILE = Path(__file__).parents[2] / "fixtures" / "vision" / "own.json"

TOWER_6B = {"norm_type": "rms_norm", "qkv_bias": False, "qk_normalization": True, "num_hidden_layers": 4}
LLAMA = {"architectures": ["LlamaForCausalLM"], "rope_scaling": None, "rope_theta": 10000.0}
WHOLE = {"dynamic_image_size": False, "use_thumbnail": False, "ps_version": "v1"}

#: One for each released model: what makes it differ.
VARIANTS: dict[str, dict[str, Any]] = {
    "mini": {"vision": {"qk_normalization": False, "patch_size": 14}},
    "v1_5": {"vision": TOWER_6B},
    "v1_2": {"vision": TOWER_6B, "decoder": LLAMA, "top": {**WHOLE, "template": "Hermes-2"}},
    "v1_1": {"vision": TOWER_6B, "decoder": LLAMA, "top": {**WHOLE, "template": "internvl_zh", "select_layer": -4}},
    "demo": {},
}
TEXTS = (
    "Describe the image in detail.",
    "请详细描述图片",
    "  two  spaces\n\n",
    "n't 's . ?",
    "<|im_end|><IMG_CONTEXT></s>",
    "😀",
)
SIZES = ((640, 480, 6), (97, 61, 12), (300, 1000, 40), (448, 448, 6))


def drawn(width: int, height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Waves and noise, the same on every machine: integers alone."""
    rng = np.random.default_rng(width * 100_003 + height)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([(x * 3 + y) % 256, (x // 7 * 40 + y * 2) % 256, (x * y // 50) % 256], axis=-1)
    return np.clip(waves + rng.integers(-9, 10, waves.shape), 0, 255).astype(np.uint8)


def sha256(array: np.ndarray[Any, Any]) -> str:
    """Of the bytes, row by row."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def tiles(decoders: DecoderPool) -> Iterator[dict[str, Any]]:
    """Grids and hashes of whole images."""
    for width, height, limit in SIZES:
        tiled = decoders.tile(encoded(Image.fromarray(drawn(width, height))), limit, thumbnail=True)
        yield {
            "size": [width, height, limit],
            "grid": list(tiled.grid),
            "uint8": sha256(tiled.tiles),
            "normalised": sha256(normalise(torch.from_numpy(tiled.tiles)).numpy()),
        }


def variant(name: str, folder: Path, decoders: DecoderPool, engine: EngineName = "transformers") -> dict[str, Any]:
    """What the checkpoint `name` computes: ids, features, and a conversation of two rounds on two images."""
    write_random(folder, 5, **VARIANTS[name])
    settings = Settings(engine=engine, model=str(folder), device="cpu", dtype="float32")
    served = make_engine(settings, lambda _: None)
    images = [
        decoders.tile(
            encoded(Image.fromarray(drawn(width, height))), min(4, served.model.tiles[1]), served.model.thumbnail
        )
        for width, height in ((500, 400), (120, 300))
    ]
    rounds = [
        Message(role="user", content=f"Image-1: {IMAGE}\nImage-2: {IMAGE}\nWhat differs? 有何不同"),
        Message(role="assistant", content="The colour."),
        Message(role="user", content="Which one is red?"),
    ]
    prompt = served.prompt(rounds, [len(tiled.tiles) for tiled in images])
    request = EngineRequest(name, prompt, cases.stacked(images), Sampling(max_new_tokens=24))
    *_, done = served.engine.submit(request)
    served.engine.close()
    assert isinstance(done, Done)
    assert served.tokenizer is not None
    return {
        "prompt": prompt.text,
        "prompt_ids": hashlib.sha256(str(prompt.ids).encode()).hexdigest(),
        "image_tokens": prompt.image_tokens,
        "answer": done.text,
        "features": _features(folder),
        "text_ids": [served.tokenizer.encode_text(text) for text in TEXTS],
    }


@torch.inference_mode()
def _features(folder: Path) -> list[float]:
    checkpoint = open_checkpoint(folder)
    model = cases.stock_model(folder)
    pixels = torch.from_numpy(np.random.default_rng(9).standard_normal((1, 3, 448, 448), dtype=np.float32))
    found = features(model, checkpoint.config, pixels)[0]
    # A token off the diagonal tells rows from columns.
    return [round(float(value), 6) for value in torch.cat([found[0, :3], found[3, :3], found[-1, :3]])]


def main() -> None:
    """Write the file."""
    with cases.decoder_pool() as decoders, TemporaryDirectory() as folder:
        found = {
            "tiles": list(tiles(decoders)),
            "variants": {name: variant(name, Path(folder) / name, decoders) for name in VARIANTS},
        }
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
