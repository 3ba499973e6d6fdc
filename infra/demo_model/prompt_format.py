"""How the demo checkpoint is spoken to: the project's own prompts, with a short system message."""

from pathlib import Path

from infra.demo_model.model import ModelConfig
from shared.tokenization.tokenizer import load_tokenizer
from workers.vision.prompts import TEMPLATES, PromptFormat

SYSTEM_MESSAGE = "tileq"


def load_prompt_format(folder: Path) -> PromptFormat:
    """Return the prompt format of the checkpoint whose tokenizer lies in `folder`."""
    return PromptFormat(load_tokenizer(folder), TEMPLATES["internlm2-chat"], SYSTEM_MESSAGE, ModelConfig().tokens)
