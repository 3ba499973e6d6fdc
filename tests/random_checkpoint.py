"""Writes small untrained checkpoints in the released layout.

The same seed gives the same bytes on every machine. What such a model says is noise; how it is loaded, prompted and
run is what a released one takes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.tokenization.sentencepiece import Kind, Piece, Vocabulary, write_vocabulary
from workers.vision.checkpoint.config import read_config
from workers.vision.checkpoint.weight_map import ReleasedTensor, released_tensors

ADDED = ("<|im_end|>", "<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>")
CONTROL = ("<unk>", "<s>", "</s>")
WORDS = "the and is of in to that what image describe picture colour this it on for how many red blue green"

VISION: dict[str, Any] = {
    "architectures": ["InternVisionModel"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 448,
    "patch_size": 16,
    "norm_type": "layer_norm",
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "qk_normalization": True,
    "hidden_act": "gelu",
}
DECODER: dict[str, Any] = {
    "architectures": ["InternLM2ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 0,  # that of the tokenizer
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000,
    "rope_scaling": {"type": "dynamic", "factor": 3.0},
    "bias": False,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
CONFIG: dict[str, Any] = {
    "_name_or_path": "tileq-demo",
    "architectures": ["InternVLChatModel"],
    "model_type": "internvl_chat",
    "torch_dtype": "float32",
    "template": "internlm2-chat",
    "ps_version": "v2",
    "select_layer": -1,
    "downsample_ratio": 0.5,
    "force_image_size": 448,
    "dynamic_image_size": True,
    "use_thumbnail": True,
    "tie_word_embeddings": False,
}


def write_random(
    folder: Path,
    seed: int = 0,
    *,
    vision: Mapping[str, Any] | None = None,
    decoder: Mapping[str, Any] | None = None,
    top: Mapping[str, Any] | None = None,
    dtype: str = "float32",
) -> Path:
    """Write a checkpoint to `folder`; the mappings change fields of the small default. `dtype`: float32 or float16."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = vocabulary()
    (folder / "tokenizer.model").write_bytes(write_vocabulary(pieces))
    (folder / "tokenizer_config.json").write_text(_json(tokenizer_config(len(pieces.pieces))))
    llm = DECODER | {"vocab_size": len(pieces.pieces) + len(ADDED)} | dict(decoder or {})
    config = CONFIG | {"torch_dtype": dtype, "vision_config": VISION | dict(vision or {}), "llm_config": llm}
    (folder / "config.json").write_text(_json(config | dict(top or {})))
    rng = np.random.default_rng(seed)
    _save({tensor.key: _draw(rng, tensor).astype(dtype) for tensor in released_tensors(read_config(folder))}, folder)
    return folder


def vocabulary() -> Vocabulary:
    """ASCII, a few words, and bytes for everything else."""
    characters = ["▁", *map(chr, range(33, 127)), "\n"]
    merged: list[str] = []
    for word in WORDS.split():  # each is reached by merging one more letter, so every step has to be a piece
        merged += [f"▁{word}"[:end] for end in range(2, len(word) + 2)]
    texts = list(dict.fromkeys(merged)) + characters
    return Vocabulary(
        (
            *(Piece(text, 0.0, Kind.UNKNOWN if text == "<unk>" else Kind.CONTROL) for text in CONTROL),
            *(Piece(f"<0x{byte:02X}>", 0.0, Kind.BYTE) for byte in range(256)),
            *(Piece(text, -float(rank), Kind.NORMAL) for rank, text in enumerate(texts)),
        ),
        dummy_prefix=False,
    )


def tokenizer_config(first: int) -> dict[str, Any]:
    """The tokenizer_config.json whose added tokens begin at id `first`."""
    tokens = {**dict(enumerate(CONTROL)), **{first + place: token for place, token in enumerate(ADDED)}}
    return {
        "tokenizer_class": "InternLM2Tokenizer",
        "add_bos_token": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "</s>",
        "added_tokens_decoder": {str(token): {"content": text, "special": True} for token, text in tokens.items()},
    }


def _draw(rng: np.random.Generator, tensor: ReleasedTensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Values of a size that keeps signals alive through the layers, so that different pictures read differently."""
    drawn = rng.standard_normal(tensor.shape, dtype=np.float32)
    if tensor.key.endswith((".ls1", ".ls2")):
        return np.float32(0.5) + drawn * np.float32(0.1)
    if len(tensor.shape) == 1:
        centre = 1 if tensor.key.endswith("weight") else 0
        return np.float32(centre) + drawn * np.float32(0.1)
    if "embedding" in tensor.key and "patch" not in tensor.key:
        return drawn
    return drawn * np.float32(1.5 / float(np.prod(tensor.shape[1:])) ** 0.5)


def _save(tensors: dict[str, np.ndarray[Any, np.dtype[np.float32]]], folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
