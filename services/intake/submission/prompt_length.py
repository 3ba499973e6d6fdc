"""How long a prompt is: by a bound that no tokenizer exceeds, and exactly where the bound would refuse."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from services.intake.clients.storage import Storage
from shared.conversation import IMAGE, Message
from shared.errors import ObjectMissing, PromptTooLong, StorageUnavailable
from shared.models import Model, model_id_of
from shared.objects import tokenizer_key
from shared.requests import Request
from shared.settings import Settings
from shared.tokenizer import Tokenizer, TokenizerError, load_tokenizer

SYSTEM = 80  #: tokens of the longest system message and what surrounds it, the beginning of the answer included
ROUND = 16  #: tokens that a template puts around one text
BLOCK = 4  #: tokens around one block of image tokens, the texts beside it tokenised apart included
LONGEST = 64  #: bytes of one token; a text of more than this many per free token is too long without counting
LOOK_AGAIN = 30.0  #: seconds after which a tokenizer that was not there is looked for again
log = structlog.get_logger(__name__)


class Tokens:
    """Counts prompts."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._settings = settings
        self._tokenizers: dict[str, Tokenizer] = {}
        self._missing: dict[str, float] = {}

    async def refuse_too_long(self, request: Request, model: Model) -> None:
        """Raise `PromptTooLong` unless at least one new token fits behind the prompt."""
        texts = [message.content for message in request.messages]
        fixed = around(request, model)
        room = model.context - 1 - fixed
        bytes = sum(len(text.encode()) for text in texts) - len(IMAGE) * len(request.groups)
        if bytes <= room:
            return
        if bytes <= LONGEST * max(room, 0):
            tokenizer = await self._tokenizer(model.id)
            if tokenizer and await asyncio.to_thread(_count, tokenizer, request.messages) <= room:
                return
            how = "" if tokenizer else " by a safe bound (its tokenizer is not at hand)"
        else:
            how = ""
        raise PromptTooLong(
            f"images and text do not fit into the {model.context} tokens of {model.id}{how}: the images and the form "
            f"take {fixed}, which leaves {max(room, 0)} for {bytes} bytes of text; shorten it, or lower `tiles`"
        )

    async def _tokenizer(self, model: str) -> Tokenizer | None:
        found = self._tokenizers.get(model)
        if found is None and time.monotonic() >= self._missing.get(model, 0.0):
            found = await self._load(model)
            if found is None:
                self._missing[model] = time.monotonic() + LOOK_AGAIN
            else:
                self._tokenizers[model] = found
        return found

    async def _load(self, model: str) -> Tokenizer | None:
        try:
            if model == model_id_of(self._settings) and Path(self._settings.model or "-").is_dir():
                return await asyncio.to_thread(load_tokenizer, self._settings.model)
            text = await self._storage.get(tokenizer_key(model))
            return await asyncio.to_thread(Tokenizer.from_json, text.decode())
        except ObjectMissing:
            return None
        except (TokenizerError, StorageUnavailable, UnicodeDecodeError) as error:
            log.warning("tokenizer not used, prompts are counted by a bound", model=model, error=str(error))
            return None


def around(request: Request, model: Model) -> int:
    """Return the tokens of `request` that are not its texts, or a few more."""
    image_tokens = model.tokens_per_tile * sum(image.tiles for image in request.images)
    return SYSTEM + ROUND * len(request.messages) + BLOCK * len(request.groups) + image_tokens


def _count(tokenizer: Tokenizer, messages: Sequence[Message]) -> int:
    return sum(tokenizer.count(part) for message in messages for part in _parts(message))


def _parts(message: Message) -> list[str]:
    return message.content.split(IMAGE) if message.role == "user" else [message.content]
