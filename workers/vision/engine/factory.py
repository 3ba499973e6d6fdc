"""The engine that the settings ask for, and what a worker needs to know of the model behind it.

torch is imported only for an engine that computes: a worker with the echo engine starts without it.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shared.conversation import Message
from shared.models import BY_ID, DEMO_MODEL_ID, Model
from shared.s3_storage import S3Storage
from shared.settings.roles import VisionWorkerSettings
from shared.tiling import TILE
from shared.tokenization.tokenizer import Tokenizer
from workers.vision.checkpoint.cache import Report
from workers.vision.checkpoint.checkpoint import Checkpoint, open_checkpoint
from workers.vision.checkpoint.fetch import locate
from workers.vision.engine.base import Engine
from workers.vision.engine.echo import EchoEngine
from workers.vision.json_mask import JsonMasks
from workers.vision.prompts import TEMPLATES, Prompt, PromptFormat, build, plain

BUNDLED = Path(__file__).parents[1] / "demo"


@dataclass(frozen=True)
class ServedModel:
    """A model ready to answer."""

    engine: Engine
    model: Model
    side: int  #: of a tile, pixels
    prompt_format: PromptFormat | None  #: None for an engine without a checkpoint
    masks: JsonMasks | None = None  #: of JSON schemas; None for an engine without a checkpoint

    @property
    def tokenizer(self) -> Tokenizer | None:
        """For exact counts in intake; None without a checkpoint."""
        return self.prompt_format.tokenizer if self.prompt_format else None

    def prompt(self, messages: Sequence[Message], tiles_per_image: Sequence[int]) -> Prompt:
        """The prompt as this model takes it. Raises `ConversationError`."""
        if self.prompt_format:
            return build(messages, tiles_per_image, self.prompt_format)
        return plain(messages, tiles_per_image, self.model.tokens_per_tile)


def make_engine(settings: VisionWorkerSettings, report: Report | None = None) -> ServedModel:
    """Find, check and load what the settings name. Raises `CheckpointError`, before which nothing was consumed."""
    if settings.engine == "echo":
        base = BY_ID.get(settings.model_id or DEMO_MODEL_ID, BY_ID[DEMO_MODEL_ID])
        return ServedModel(EchoEngine(settings.echo_delay), _renamed(base, settings), TILE, None)
    say = report or _to_stderr
    checkpoint = find_checkpoint(settings, say)
    engine = _computing(checkpoint, settings, say)
    stop = TEMPLATES[checkpoint.config.template].stop
    say(f"system message: {checkpoint.system.text!r}, from {checkpoint.system.origin}")
    return ServedModel(
        engine,
        _renamed(checkpoint.model, settings),
        checkpoint.config.vision.image,
        checkpoint.prompt_format,
        JsonMasks(checkpoint.tokenizer, checkpoint.config.decoder.vocab, checkpoint.tokenizer.token_id(stop)),
    )


def find_checkpoint(settings: VisionWorkerSettings, report: Report) -> Checkpoint:
    """The checkpoint that the settings name, or the bundled one. Raises `CheckpointError`."""
    if not settings.model:
        return open_checkpoint(BUNDLED, DEMO_MODEL_ID, settings.system_message)
    client = S3Storage(settings).client if settings.model.startswith("s3://") else None
    return open_checkpoint(locate(settings.model, client, report=report), settings.model, settings.system_message)


def _computing(checkpoint: Checkpoint, settings: VisionWorkerSettings, report: Report) -> Engine:
    from workers.vision.engine.assembly import resident_engine  # noqa: PLC0415
    from workers.vision.model.device import choose_device  # noqa: PLC0415
    from workers.vision.model.loader import LoadOptions, load, load_packed  # noqa: PLC0415 - brings torch

    quantised = None if settings.quantise == "none" else settings.quantise
    options = LoadOptions(settings.device, settings.dtype, quantised, settings.model_sha256)
    if settings.engine == "resident" and quantised and choose_device(settings.device) != "cpu":
        report(f"{quantised} on a GPU is bitsandbytes' and runs in the transformers engine, one job at a time")
    elif settings.engine == "resident":
        model = load_packed(checkpoint, options, report)
        return resident_engine(
            model,
            checkpoint.config,
            checkpoint.tokenizer,
            slots=settings.slots,
            kv_bytes=settings.kv_cache_bytes,
            report=report,
        )
    from workers.vision.engine.transformers import Loaded, TransformersEngine  # noqa: PLC0415  # 180 MB beside torch

    return TransformersEngine(Loaded(load(checkpoint, options, report), checkpoint.config, checkpoint.tokenizer))


def _renamed(model: Model, settings: VisionWorkerSettings) -> Model:
    return replace(model, id=settings.model_id) if settings.model_id else model


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201 - seen where a worker is started by hand
