"""The length of a prompt: by a bound that no tokenizer exceeds, and exactly where the bound would refuse."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import structlog

from services.intake.clients.storage import Storage
from services.intake.ttl_cache import TtlCache
from shared.conversation import IMAGE, Message, split_at_images
from shared.errors import ObjectMissing, PromptTooLong, StorageUnavailable
from shared.models import Model, model_id_of
from shared.requests import Request
from shared.settings.roles import IntakeSettings
from shared.storage import tokenizer_key
from shared.tokenization.tokenizer import Tokenizer, TokenizerError, load_tokenizer

SYSTEM_TOKENS = 80  #: of any checkpoint's own system message and what surrounds it, and of the beginning of the answer
TURN_TOKENS = 16  #: that a template puts around one text
IMAGE_BLOCK_TOKENS = 4  #: around one block of image tokens, the texts beside it tokenised apart included
MAX_BYTES_PER_TOKEN = 64  #: a text of more than this for each free token is too long without counting
CACHE_TTL_S = 30.0  #: after which a tokenizer that was missing is looked for again
log = structlog.get_logger(__name__)


class PromptLengthCheck:
    """Counts the tokens of prompts."""

    def __init__(self, storage: Storage, settings: IntakeSettings) -> None:
        self._storage = storage
        self._settings = settings
        self._tokenizers: dict[str, Tokenizer] = {}
        self._looked_up: TtlCache[str, Tokenizer | None] = TtlCache(CACHE_TTL_S)

    async def refuse_too_long(self, request: Request, model: Model) -> None:
        """Raise `PromptTooLong` unless at least one new token fits after the prompt."""
        texts = [message.content for message in request.messages]
        fixed = overhead(request, model)
        budget = model.context - 1 - fixed
        bytes = sum(len(text.encode()) for text in texts) - len(IMAGE) * len(request.groups)
        if bytes <= budget:
            return
        if bytes <= MAX_BYTES_PER_TOKEN * max(budget, 0):
            tokenizer = await self._tokenizer(model.id)
            if tokenizer and await asyncio.to_thread(_count, tokenizer, request.messages) <= budget:
                return
            how = "" if tokenizer else " by a safe bound (its tokenizer is not available here)"
        else:
            how = ""
        free = f"{max(budget, 0)} for {bytes} bytes of text"
        raise PromptTooLong(
            f"images and text do not fit into the {model.context} tokens of {model.id}{how}: the images and the "
            f"template take {fixed}, which leaves {free}; shorten the text or lower `tiles`"
        )

    async def _tokenizer(self, model: str) -> Tokenizer | None:
        if model not in self._tokenizers:
            found = await self._looked_up.load(model, lambda: self._load(model))
            if found is None:
                return None
            self._tokenizers[model] = found
        return self._tokenizers[model]

    async def _load(self, model: str) -> Tokenizer | None:
        try:
            if model == model_id_of(self._settings) and Path(self._settings.model or "-").is_dir():
                return await asyncio.to_thread(load_tokenizer, self._settings.model)
            text = await self._storage.get(tokenizer_key(model))
            return await asyncio.to_thread(Tokenizer.from_json, text.decode())
        except ObjectMissing:
            return None
        except (TokenizerError, StorageUnavailable, UnicodeDecodeError) as error:
            log.warning("tokenizer can't be read, prompts are counted by a bound", model=model, error=str(error))
            return None


def overhead(request: Request, model: Model) -> int:
    """Return the tokens of `request` that are not its texts, or a few more."""
    image_tokens = model.tokens_per_tile * sum(image.tiles for image in request.images)
    return SYSTEM_TOKENS + TURN_TOKENS * len(request.messages) + IMAGE_BLOCK_TOKENS * len(request.groups) + image_tokens


def _count(tokenizer: Tokenizer, messages: Sequence[Message]) -> int:
    return sum(tokenizer.count(part) for message in messages for part in _parts(message))


def _parts(message: Message) -> list[str]:
    return split_at_images(message.content) if message.role == "user" else [message.content]
