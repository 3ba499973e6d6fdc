"""Write the checkpoint in the original layout: `python -m infra.demo_model.export [--to FOLDER]`.

The averaged weights of training's state become config.json, model.safetensors (float16), the tokenizer's two files and
the model card. The dense heads, which answering does not need and further training does, go to heads.safetensors beside
the training code when the target is the bundled folder.
"""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from infra.demo_model import training_checkpoint, vocabulary
from infra.demo_model.model import ModelConfig
from infra.demo_model.prompt_format import SYSTEM_MESSAGE

BUNDLED = Path(__file__).parents[2] / "workers" / "vision" / "demo"
CARD = Path(__file__).parent / "card.md"
HEADS = Path(__file__).parent / "heads.safetensors"


def config_json(config: ModelConfig, vocabulary_size: int) -> dict[str, Any]:
    """Return config.json, in the original schema."""
    vision = {
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
    decoder = {
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
        "vision_config": vision,
        "llm_config": decoder,
    }


def export_checkpoint(saved: dict[str, Any], folder: Path) -> None:
    """Write the averaged weights of `saved` (a phase that has a decoder) to `folder`."""
    vocabulary_size = vocabulary.write(folder)
    weights = {k[2:]: v.half().contiguous() for k, v in saved["average"].items() if k.startswith("0.")}
    (folder / "config.json").write_text(json.dumps(config_json(ModelConfig(), vocabulary_size), indent=2) + "\n")
    save_file(
        weights,
        folder / "model.safetensors",
        metadata={
            "format": "pt",
            "phase": str(saved["phase"]),
            "step": str(saved["step"]),
            "sizes": json.dumps(asdict(ModelConfig())),
        },
    )
    shutil.copyfile(CARD, folder / "README.md")
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone
    if folder == BUNDLED:
        save_file({k[2:]: v.half().contiguous() for k, v in saved["average"].items() if k.startswith("1.")}, HEADS)
        HEADS.chmod(0o644)


def bundled_training_state() -> dict[str, Any] | None:
    """Return what training can go on from when its state is gone: the bundled weights, their phase taken for ended."""
    if not (BUNDLED / "model.safetensors").exists() or not HEADS.exists():
        return None
    with safe_open(BUNDLED / "model.safetensors", "pt") as file:
        phase = int(file.metadata()["phase"])
        average = {f"0.{key}": file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 - no mapping
    with safe_open(HEADS, "pt") as file:
        average |= {f"1.{key}": file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    return {"phase": phase, "step": 0, "average": average, "ended": True}


def main() -> None:
    """Export training's state."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--to", type=Path, default=BUNDLED)
    folder, saved = parser.parse_args().to, training_checkpoint.load("state.pt")
    if saved is None or saved["phase"] < 3:
        raise SystemExit("training has not reached the decoder yet: there is nothing that answers")
    export_checkpoint(saved, folder)
    print(f"phase {saved['phase']}, step {saved['step']} -> {folder}")


if __name__ == "__main__":
    main()
