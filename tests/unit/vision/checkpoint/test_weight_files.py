"""Weight files that do not hold what the config promises are refused before anything is loaded."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.random_checkpoint import write_random
from workers.vision.checkpoint.checkpoint import open_checkpoint
from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.checkpoint.weight_files import INDEX_FILE, SINGLE_FILE

WQKV = "language_model.model.layers.0.attention.wqkv.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_random(tmp_path / "tileq-demo")


def shard(folder: Path) -> dict[str, str]:
    """Spread the weights over two files; returns the index."""
    weights = load_file(folder / SINGLE_FILE)
    (folder / SINGLE_FILE).unlink()
    places: dict[str, str] = {}
    for number in (0, 1):
        name = f"model-0000{number + 1}-of-00002.safetensors"
        part = {key: value for place, (key, value) in enumerate(sorted(weights.items())) if place % 2 == number}
        save_file(part, folder / name)
        places |= dict.fromkeys(part, name)
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return places


def test_shards_open_like_one_file(folder: Path) -> None:
    whole = open_checkpoint(folder).files.size
    shard(folder)
    assert open_checkpoint(folder).files.size == whole


def test_a_missing_shard_is_named(folder: Path) -> None:
    places = shard(folder)
    lost = places[WQKV]
    (folder / lost).unlink()
    with pytest.raises(CheckpointError, match=f"{lost}: shard is missing; {INDEX_FILE} expects"):
        open_checkpoint(folder)


def test_a_weight_that_its_shard_lacks_is_named(folder: Path) -> None:
    places = shard(folder)
    other = next(name for name in places.values() if name != places[WQKV])
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": places | {WQKV: other}}))
    with pytest.raises(CheckpointError, match=f"{other}: {WQKV} is missing"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "pytorch_model.bin"])
def test_an_index_that_leaves_the_folder_is_refused(folder: Path, name: str) -> None:
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": {WQKV: name}}))
    with pytest.raises(CheckpointError, match=r"no \.safetensors file of this folder"):
        open_checkpoint(folder)


@pytest.mark.parametrize("content", ["{}", "[", '{"weight_map": 1}', '{"weight_map": {"a": 1}}'])
def test_a_broken_index_is_named(folder: Path, content: str) -> None:
    (folder / INDEX_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=INDEX_FILE):
        open_checkpoint(folder)


def test_a_wrong_shape_is_named_with_both(folder: Path) -> None:
    weights = load_file(folder / SINGLE_FILE)
    weights[WQKV] = np.zeros((3, 64), np.float32)
    save_file(weights, folder / SINGLE_FILE)
    with pytest.raises(CheckpointError, match=rf"{WQKV} has shape \[3, 64\]; config.json promises \[128, 64\]"):
        open_checkpoint(folder)


def test_a_missing_and_a_strange_weight_are_named(folder: Path) -> None:
    weights = load_file(folder / SINGLE_FILE)
    taken = weights.pop(WQKV)
    save_file(weights, folder / SINGLE_FILE)
    with pytest.raises(CheckpointError, match=rf"weight {WQKV} \[128, 64\] is missing"):
        open_checkpoint(folder)
    save_file(weights | {WQKV: taken, "language_model.lora.weight": taken}, folder / SINGLE_FILE)
    with pytest.raises(CheckpointError, match=r"language_model.lora.weight is not a weight of the model"):
        open_checkpoint(folder)
    save_file(weights | {WQKV: taken, "language_model.model.rotary_emb.inv_freq": taken}, folder / SINGLE_FILE)
    assert open_checkpoint(folder).model.id == "tileq-demo"


def test_whole_numbers_are_no_weights(folder: Path) -> None:
    weights = load_file(folder / SINGLE_FILE)
    save_file(weights | {WQKV: weights[WQKV].astype(np.int8)}, folder / SINGLE_FILE)
    with pytest.raises(CheckpointError, match=f"{WQKV} is I8; supported"):
        open_checkpoint(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, 20_000, -1])
def test_a_file_cut_off_anywhere_is_named(folder: Path, keep: int) -> None:
    path = folder / SINGLE_FILE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model.safetensors: .*cut off"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
        b'{"a": ' + b"[" * 20_000,
    ],
)
def test_a_broken_header_is_named(folder: Path, header: bytes) -> None:
    (folder / SINGLE_FILE).write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(CheckpointError, match=r"model.safetensors: its safetensors header is broken"):
        open_checkpoint(folder)


def test_pickles_are_refused_with_the_way_out(folder: Path) -> None:
    (folder / SINGLE_FILE).rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: a pickle, .*save_file"):
        open_checkpoint(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / SINGLE_FILE).unlink()
    with pytest.raises(CheckpointError, match=f"neither {SINGLE_FILE} nor {INDEX_FILE}"):
        open_checkpoint(folder)
