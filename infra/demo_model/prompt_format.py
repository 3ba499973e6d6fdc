"""The prompt format of the demo checkpoint: the template of InternLM2 chat models, with a short system message."""

from pathlib import Path

from infra.demo_model.model import ModelConfig
from shared.tokenization.tokenizer import load_tokenizer
from workers.vision.prompts import TEMPLATES, PromptFormat

SYSTEM_MESSAGE = "tileq"


def load_prompt_format(folder: Path) -> PromptFormat:
    """Return the prompt format with the tokenizer of `folder`."""
    return PromptFormat(
        load_tokenizer(folder), TEMPLATES["internlm2-chat"], SYSTEM_MESSAGE, ModelConfig().tokens_per_tile
    )
