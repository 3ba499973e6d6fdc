"""Config, tokenizer and weight files must fit one another; nothing in the folder is executed."""

import json
from pathlib import Path

import pytest

from tests.random_checkpoint import write_random
from workers.vision.checkpoint.checkpoint import open_checkpoint
from workers.vision.checkpoint.fields import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_random(tmp_path / "tileq-demo")


def test_a_whole_checkpoint_opens(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert checkpoint.model.id == "tileq-demo"
    assert checkpoint.model.tokens_per_tile == 196
    assert checkpoint.model.parameters * 4 == checkpoint.files.size


def test_the_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["llm_config"]["vocab_size"] = 92553
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"the tokenizer is another model.s: .*vocab_size is 92553"):
        open_checkpoint(folder)


def test_a_tokenizer_without_image_tokens_is_refused(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text().replace("<IMG_CONTEXT>", "<other>"))
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json: added_tokens_decoder has no <IMG_CONTEXT>"):
        open_checkpoint(folder)


def test_code_in_the_folder_is_not_run(folder: Path) -> None:
    for name in ("modeling_internvl_chat.py", "config.py", "__init__.py"):
        (folder / name).write_text("raise SystemExit('executed')")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_internvl_chat.InternVLChatModel"}
    (folder / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(folder).model.id == "tileq-demo"
