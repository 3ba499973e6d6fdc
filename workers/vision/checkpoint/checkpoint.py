"""A checkpoint whose config, tokenizer and weight files agree with one another. No weight is loaded yet."""

from dataclasses import dataclass, replace
from pathlib import Path

from shared.models import BY_ID, DYNAMIC_TILES, SINGLE_TILE, Model, find_model
from shared.tokenization.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from workers.vision.checkpoint.config import Config, read_config
from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.checkpoint.system_message import SystemMessage, is_internvl2, system_message_of
from workers.vision.checkpoint.weight_files import WeightFiles, check_weights, find_weight_files
from workers.vision.checkpoint.weight_map import count_parameters, released_tensors
from workers.vision.prompts import IMAGE_CONTEXT, IMAGE_END, IMAGE_START, TEMPLATES, PromptFormat

#: A vocabulary may be padded to a round number; further apart than this, the tokenizer is another model's.
MAX_VOCABULARY_PADDING = 1024


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds."""

    folder: Path
    config: Config
    tokenizer: Tokenizer
    files: WeightFiles
    model: Model  #: the registry's entry, with the figures of these files
    system: SystemMessage

    @property
    def prompt_format(self) -> PromptFormat:
        """How this model's prompts are written."""
        config = self.config
        return PromptFormat(self.tokenizer, TEMPLATES[config.template], self.system.text, config.tokens_per_tile)


def open_checkpoint(folder: Path, source: str = "", system_message: str = "") -> Checkpoint:
    """Read and check all but the weights' values. Raises `CheckpointError`.

    `source` is how the user named it, `system_message` replaces the one that it was trained with.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    config = read_config(folder)
    tokenizer = read_tokenizer(folder, config)
    files = find_weight_files(folder)
    check_weights(files, released_tensors(config), folder)
    source = source or str(folder)
    system = system_message_of(folder, config, source, system_message)
    return Checkpoint(folder, config, tokenizer, files, describe(config, source), system)


def read_tokenizer(folder: Path, config: Config) -> Tokenizer:
    """Load the tokenizer and hold it against the model. Raises `CheckpointError`."""
    try:
        tokenizer = load_tokenizer(folder)
        for token in (IMAGE_START, IMAGE_CONTEXT, IMAGE_END, TEMPLATES[config.template].stop):
            tokenizer.token_id(token)
    except TokenizerError as error:
        raise CheckpointError(f"{error}; template {config.template} in {folder / 'config.json'} needs it") from error
    vocab = config.decoder.vocab
    if not vocab - MAX_VOCABULARY_PADDING <= tokenizer.size <= vocab:
        raise CheckpointError(
            f"{folder}: the tokenizer is another model's: it has ids up to {tokenizer.size - 1}, "
            f"config.json: llm_config.vocab_size is {vocab}"
        )
    return tokenizer


def describe(config: Config, source: str) -> Model:
    """The registry's entry of these files, by name or else by shape; an unknown checkpoint gets one of its own."""
    named = next((name for name in (source, config.name) if is_internvl2(name)), "")
    known = None if named else find_model(config.name) or find_model(source) or _of_shape(config)
    title = Path((named or source).split("@", 1)[0]).name or "model"
    base = known or replace(BY_ID["tileq-demo"], id=title.lower(), title=title, languages=())
    return replace(
        base,
        parameters=count_parameters(config),
        context=config.context,
        tiles=DYNAMIC_TILES if config.tiles else SINGLE_TILE,
        thumbnail=config.tiles and config.thumbnail,
        tokens_per_tile=config.tokens_per_tile,
        template=config.template,
    )


def _of_shape(config: Config) -> Model | None:
    """V1.2 and V1.2-Plus share one shape; unnamed files are taken for V1.2."""
    shapes = {
        ("internlm2-chat", 2048): "mini-internvl-chat-v1.5",
        ("internlm2-chat", 6144): "internvl-chat-v1.5",
        ("Hermes-2", 7168): "internvl-chat-v1.2",
        ("internvl_zh", 5120): "internvl-chat-v1.1",
    }
    found = shapes.get((config.template, config.decoder.hidden))
    return BY_ID[found] if found else None
