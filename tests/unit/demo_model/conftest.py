"""A tokenizer and a small, untrained model for the tests of this folder."""

from pathlib import Path

import pytest
import torch

from infra.demo_model import dense_trainer, vocabulary
from infra.demo_model.model import ChatModel, ModelConfig


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    return ModelConfig(vision_layers=2, layers=2)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tokenizer's files."""
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    vocabulary.write(folder)
    return folder


@pytest.fixture(scope="session")
def model(config: ModelConfig) -> ChatModel:
    torch.manual_seed(0)
    small = ChatModel(config, vocabulary.size())
    dense_trainer.initialise_model(small)
    return small
