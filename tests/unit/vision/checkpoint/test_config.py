"""What config.json promises is read field by field; what is missing or wrong is named."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.random_checkpoint import CONFIG, DECODER, VISION
from workers.vision.checkpoint.config import read_config
from workers.vision.checkpoint.fields import CheckpointError

GOOD = CONFIG | {"vision_config": VISION, "llm_config": DECODER | {"vocab_size": 400}}


def written(folder: Path, config: Any) -> Path:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with one field set, or taken out if `value` is `...`."""
    config = copy.deepcopy(GOOD)
    *outer, name = path.split(".")
    place = config
    for step in outer:
        place = place[step]
    if value is ...:
        del place[name]
    else:
        place[name] = value
    return config


def test_tokens_of_a_tile_come_from_the_patches(tmp_path: Path) -> None:
    assert read_config(written(tmp_path, GOOD)).tokens_per_tile == 196
    assert read_config(written(tmp_path, changed("vision_config.patch_size", 14))).tokens_per_tile == 256


def test_a_system_message_of_the_config_is_read(tmp_path: Path) -> None:
    assert read_config(written(tmp_path, GOOD)).system == ""
    assert read_config(written(tmp_path, changed("system_message", "Be kind."))).system == "Be kind."


def test_dynamic_rope_is_plain_within_the_context(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, GOOD))
    assert (config.decoder.rope_factor, config.context) == (1.0, 32768)
    linear = changed("llm_config.rope_scaling", {"type": "linear", "factor": 2.0})
    assert read_config(written(tmp_path, linear)).decoder.rope_factor == 2.0


@pytest.mark.parametrize(("select", "used"), [(-1, 2), (-2, 1), (1, 1), (2, 2)])
def test_the_selected_layer_is_the_last_one_used(tmp_path: Path, select: int, used: int) -> None:
    assert read_config(written(tmp_path, changed("select_layer", select))).used_layers == used


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("architectures", ["LlamaForCausalLM"], "architectures is 'LlamaForCausalLM'; supported: InternVLChatModel"),
        ("architectures", ..., "architectures is missing"),
        ("llm_config", ..., "llm_config is missing; an object is needed"),
        ("llm_config", [], "llm_config is .*, not an object"),
        ("llm_config.architectures", ["Phi3ForCausalLM"], "llm_config.architectures is 'Phi3ForCausalLM'"),
        ("llm_config.hidden_size", ..., "llm_config.hidden_size is missing; a whole number is needed"),
        ("llm_config.hidden_size", "64", "llm_config.hidden_size is '64', not a whole number"),
        ("llm_config.hidden_size", 0, "llm_config.hidden_size is 0"),
        ("llm_config.hidden_size", True, "llm_config.hidden_size is True"),
        ("llm_config.num_attention_heads", 5, "llm_config.num_attention_heads of 5"),
        ("llm_config.tie_word_embeddings", True, "llm_config.tie_word_embeddings is True"),
        ("llm_config.hidden_act", "gelu", "llm_config.hidden_act is 'gelu'; supported: 'silu'"),
        ("llm_config.rope_scaling", {"type": "yarn", "factor": 2.0}, "llm_config.rope_scaling.type is 'yarn'"),
        ("llm_config.rms_norm_eps", float("nan"), "llm_config.rms_norm_eps"),
        ("tie_word_embeddings", True, "tie_word_embeddings is True"),
        ("template", "vicuna", "template is 'vicuna'; supported: 'internlm2-chat', 'Hermes-2', 'internvl_zh'"),
        ("template", ..., "template is missing"),
        ("ps_version", "v3", "ps_version is 'v3'; supported: 'v1', 'v2'"),
        ("select_layer", 0, "select_layer is 0"),
        ("select_layer", -3, "select_layer is -3"),
        ("downsample_ratio", 0.25, "downsample_ratio is 0.25"),
        ("force_image_size", 224, "force_image_size is 224, but vision_config.image_size is 448"),
        ("vision_config.patch_size", 15, "vision_config.patch_size of 15 does not divide"),
        ("vision_config.patch_size", 64, "downsample_ratio of 0.5 does not divide 7 patches"),
        ("vision_config.norm_type", "batch", "vision_config.norm_type is 'batch'"),
        ("vision_config.num_attention_heads", 7, "vision_config.hidden_size of 64"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, path: str, value: Any, says: str) -> None:
    with pytest.raises(CheckpointError, match=f"config.json: {says}"):
        read_config(written(tmp_path, changed(path, value)))


@pytest.mark.parametrize(("content", "says"), [("{", "not readable as JSON"), ("[]", "not a JSON object")])
def test_a_file_that_is_no_object_is_named(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        read_config(written(tmp_path, content))


def test_a_folder_without_config_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config.json: not there"):
        read_config(tmp_path)
