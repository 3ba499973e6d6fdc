"""Every released tensor is made of logical weights, whose names and rows are the same for every release."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.random_checkpoint import write_random
from workers.vision.checkpoint.config import Config, read_config
from workers.vision.checkpoint.weight_map import LogicalWeight, released_tensors, weight_shapes

LLAMA = {"architectures": ["LlamaForCausalLM"], "rope_scaling": None}
HEAD = 16  #: width of a head of the random checkpoints: 4 query heads on 2 kv heads


def config(folder: Path, **changes: Any) -> Config:
    return read_config(write_random(folder, **changes))


def weight(config: Config, name: str) -> tuple[str, LogicalWeight]:
    """The key of the released tensor that holds `name`, and the logical weight."""
    ((key, found),) = [
        (tensor.key, part) for tensor in released_tensors(config) for part in tensor.weights if part.name == name
    ]
    return key, found


def rows(config: Config, name: str) -> list[int]:
    """Rows of the released tensor that the logical weight takes, by the definition of `Slice`."""
    key, found = weight(config, name)
    (count,) = [tensor.shape[0] for tensor in released_tensors(config) if tensor.key == key]
    cut = found.slice
    grouped = np.arange(count).reshape(cut.groups, cut.blocks, -1)
    return [int(row) for row in grouped[:, cut.start : cut.stop].reshape(-1)]


def test_both_decoders_have_the_same_logical_weights(tmp_path: Path) -> None:
    internlm2 = weight_shapes(config(tmp_path / "internlm2"))
    assert internlm2 == weight_shapes(config(tmp_path / "llama", decoder=LLAMA))
    assert internlm2["decoder.layers.1.attention.q.weight"] == (64, 64)
    assert internlm2["decoder.layers.1.attention.k.weight"] == (32, 64)


def test_every_row_of_a_released_tensor_is_in_one_logical_weight(tmp_path: Path) -> None:
    made = config(tmp_path, decoder={"bias": True})
    for tensor in released_tensors(made):
        taken = [row for part in tensor.weights for row in rows(made, part.name)]
        assert sorted(taken) == list(range(tensor.shape[0])), tensor.key
        assert sum(part.shape[0] for part in tensor.weights) == tensor.shape[0]


def test_queries_keys_and_values_of_internlm2_lie_by_kv_head(tmp_path: Path) -> None:
    made, layer = config(tmp_path), "decoder.layers.0.attention"

    def heads(*numbers: int) -> list[int]:
        return [head * HEAD + row for head in numbers for row in range(HEAD)]

    assert rows(made, f"{layer}.q.weight") == heads(0, 1, 4, 5)
    assert rows(made, f"{layer}.k.weight") == heads(2, 6)
    assert rows(made, f"{layer}.v.weight") == heads(3, 7)


def test_queries_keys_and_values_of_the_tower_follow_one_another(tmp_path: Path) -> None:
    made = config(tmp_path)
    for place, part in enumerate("qkv"):
        assert rows(made, f"vision.layers.0.attention.{part}.bias") == list(range(64 * place, 64 * (place + 1)))


@pytest.mark.parametrize(("select", "used"), [(-1, 2), (-2, 1)])
def test_idle_layers_are_released_but_not_loaded(tmp_path: Path, select: int, used: int) -> None:
    made = config(tmp_path, top={"select_layer": select})
    layers = {name.split(".")[2] for name in weight_shapes(made) if name.startswith("vision.layers.")}
    assert layers == {str(layer) for layer in range(used)}
    assert any(tensor.key.startswith("vision_model.encoder.layers.1.") for tensor in released_tensors(made))
