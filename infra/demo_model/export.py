"""Export the trained model in the layout of InternVL-Chat: `python -m infra.demo_model.export [--to FOLDER]`.

The averaged weights of the training state become config.json, model.safetensors (float16), the tokenizer's two files
and the model card. If the target is the bundled folder, the dense heads, which only training needs, are written to
heads.safetensors beside this module.
"""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from infra.demo_model import decoder_trainer, training_checkpoint, vocabulary
from infra.demo_model.model import ModelConfig
from infra.demo_model.prompt_format import SYSTEM_MESSAGE

BUNDLED = Path(__file__).parents[2] / "workers" / "vision" / "demo"
CARD = Path(__file__).parent / "card.md"
HEADS = Path(__file__).parent / "heads.safetensors"
MODEL_PREFIX, HEADS_PREFIX = "0.", "1."  # of the keys of a decoder phase's weights


def config_json(config: ModelConfig, vocabulary_size: int) -> dict[str, Any]:
    """Return config.json in the schema of InternVL-Chat."""
    return {
        "_name_or_path": "tileq-demo",
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "torch_dtype": "float16",
        "template": "internlm2-chat",
        "system_message": SYSTEM_MESSAGE,
        "ps_version": "v2",
        "select_layer": -1,
        "downsample_ratio": 0.5,
        "force_image_size": config.patch * config.grid,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 12,
        "pad2square": False,
        "tie_word_embeddings": False,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "vision_config": vision_config_json(config),
        "llm_config": decoder_config_json(config, vocabulary_size),
    }


def vision_config_json(config: ModelConfig) -> dict[str, Any]:
    """Return the part of config.json about InternViT."""
    return {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",
        "hidden_size": config.vision_width,
        "intermediate_size": config.vision_inner,
        "num_hidden_layers": config.vision_layers,
        "num_attention_heads": config.vision_heads,
        "image_size": config.patch * config.grid,
        "patch_size": config.patch,
        "num_channels": 3,
        "norm_type": "layer_norm",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "qk_normalization": True,
        "hidden_act": "gelu",
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "drop_path_rate": 0.0,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "use_flash_attn": False,
    }


def decoder_config_json(config: ModelConfig, vocabulary_size: int) -> dict[str, Any]:
    """Return the part of config.json about InternLM2."""
    return {
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "hidden_size": config.width,
        "intermediate_size": config.inner,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "vocab_size": vocabulary_size,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "bias": False,
        "hidden_act": "silu",
        "attn_implementation": "eager",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "tie_word_embeddings": False,
    }


def export_checkpoint(saved: dict[str, Any], folder: Path) -> None:
    """Write the averaged weights of `saved`, the state of a decoder phase, to `folder`."""
    vocabulary_size = vocabulary.write(folder)
    (folder / "config.json").write_text(json.dumps(config_json(ModelConfig(), vocabulary_size), indent=2) + "\n")
    save_file(
        half_weights(saved, MODEL_PREFIX),
        folder / "model.safetensors",
        metadata={
            "format": "pt",
            "phase": str(saved["phase"]),
            "step": str(saved["step"]),
            "sizes": json.dumps(asdict(ModelConfig())),
        },
    )
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it readable for its owner only
    shutil.copyfile(CARD, folder / "README.md")
    if folder == BUNDLED:
        save_file(half_weights(saved, HEADS_PREFIX), HEADS)
        HEADS.chmod(0o644)


def half_weights(saved: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    """Return the averaged weights under `prefix` in float16, the prefix cut off their keys."""
    average = saved["average"].items()
    return {key.removeprefix(prefix): value.half().contiguous() for key, value in average if key.startswith(prefix)}


def bundled_training_state() -> dict[str, Any] | None:
    """Return a training state of the bundled weights, their phase ended; None if a file of them is missing."""
    if not (BUNDLED / "model.safetensors").exists() or not HEADS.exists():
        return None
    with safe_open(BUNDLED / "model.safetensors", "pt") as file:
        phase = int(file.metadata()["phase"])
    average = float_weights(BUNDLED / "model.safetensors", MODEL_PREFIX) | float_weights(HEADS, HEADS_PREFIX)
    return {"phase": phase, "step": 0, "average": average, "ended": True}


def float_weights(path: Path, prefix: str) -> dict[str, Tensor]:
    """Return the weights of a safetensors file in float32, `prefix` before their keys."""
    return {f"{prefix}{key}": value.float() for key, value in load_file(path).items()}


def main() -> None:
    """Export the saved training state."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--to", type=Path, default=BUNDLED)
    folder, saved = parser.parse_args().to, training_checkpoint.load()
    if saved is None or saved["phase"] < decoder_trainer.PHASES[0].number:
        raise SystemExit("no decoder phase has begun, so no model can answer yet; run infra.demo_model.train")
    export_checkpoint(saved, folder)
    print(f"phase {saved['phase']}, step {saved['step']} -> {folder}")


if __name__ == "__main__":
    main()
