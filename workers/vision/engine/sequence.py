"""A request inside the resident engine: its tokens, the pages that hold their keys and values, what it has said."""

import hashlib
import random
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from shared.tokenization.tokenizer import Tokenizer
from workers.vision.checkpoint.config import Config
from workers.vision.engine.base import EngineRequest, StageName
from workers.vision.engine.beam_search import BeamSearch
from workers.vision.engine.detokenize import IncrementalDetokenizer, detokenizer_of
from workers.vision.engine.errors import ContextExceeded
from workers.vision.engine.handle import RequestHandle
from workers.vision.engine.sampler import Row
from workers.vision.engine.tile_spans import TileSpans, tile_spans
from workers.vision.model.packed_batch import PAGE_TOKENS
from workers.vision.prompts import TEMPLATES

NO_SLOT = -1
STAGES: tuple[StageName, ...] = ("vision", "prefill", "decode")


@dataclass(eq=False)
class Branch:
    """One continuation of a prompt. A sequence has one; in beam search it has several, which share pages."""

    tokens: list[int]  #: prompt and answer
    pages: list[int] = field(default_factory=list)
    computed: int = 0  #: tokens whose keys and values are in `pages`, or will be once the device has come so far
    unread: bool = False  #: one more token is chosen; only the device knows it yet

    @property
    def length(self) -> int:
        """Tokens, the unread one included."""
        return len(self.tokens) + self.unread

    @property
    def missing(self) -> int:
        """Tokens that are still to be computed."""
        return self.length - self.computed


class Sequence:
    """Where a request stands. Made by the caller's thread, then touched by the engine's only."""

    def __init__(
        self,
        handle: RequestHandle,
        tiles: TileSpans,
        text: IncrementalDetokenizer,
        limit: int,
        arrival: int,
        *,
        beams: BeamSearch | None = None,
    ) -> None:
        request = handle.request
        self.handle = handle
        self.tiles = tiles
        self.text = text
        self.limit = limit  #: of new tokens
        self.order = (request.priority, arrival)  #: the smallest is served first
        self.prompt_length = len(request.prompt.ids)
        self.branches = [Branch(list(request.prompt.ids))]
        self.features: dict[int, Tensor] = {}  #: of the tiles that prefill still needs, by tile
        self.cached_tokens = 0
        self.count = 0  #: tokens generated
        self.admitted = False  #: at least once
        self.ended = False
        self.slot = NO_SLOT  #: in what the device keeps of running sequences
        self.opened = False  #: its page table is in its slot
        self.random = random.Random(request.sampling.seed)
        self.beams = beams
        self._stage = 0
        self._published = 0
        self._digests: list[bytes] = []

    @property
    def request(self) -> EngineRequest:
        """What was asked."""
        return self.handle.request

    @property
    def branch(self) -> Branch:
        """The only continuation, or the best one."""
        return self.branches[0]

    @property
    def prefilling(self) -> bool:
        """More than the newest token is still to be computed."""
        return self.branch.missing > 1 or not (self.count or self.branch.unread)

    @property
    def complete(self) -> bool:
        """The last token that it may have is chosen, if not yet read."""
        return self.count + self.branch.unread >= self.limit

    def answer(self, branch: Branch) -> list[int]:
        """Ids generated on a branch."""
        return branch.tokens[self.prompt_length :]

    def row(self, branch: Branch) -> Row:
        """What the choice of the branch's next token depends on."""
        return Row(self.request, self.answer(branch), self.random)

    def say(self, token: int) -> None:
        """Count a token and hand out the text that it makes final."""
        self.count += 1
        self.handle.delta(self.text.push(token), self.count)

    def enter(self, stage: StageName) -> None:
        """Report a stage once, however often the sequence comes by it."""
        if STAGES.index(stage) >= self._stage:
            self._stage = STAGES.index(stage) + 1
            self.handle.stage(stage)

    def digests(self, pages: int) -> list[bytes]:
        """Digests of the first `pages` full pages, each over all that came before it.

        A digest covers token ids, the content of every tile that has tokens in the page, and the request's salt.
        """
        tokens = self.branch.tokens
        while len(self._digests) < pages:
            start = len(self._digests) * PAGE_TOKENS
            before = self._digests[-1] if self._digests else self.request.cache_salt.encode()
            ids = np.asarray(tokens[start : start + PAGE_TOKENS], dtype=np.int64).tobytes()
            content = hashlib.sha256(before + ids + self.tiles.content(start, start + PAGE_TOKENS))
            self._digests.append(content.digest())
        return self._digests[:pages]

    def publishable(self, computed: int) -> list[tuple[int, bytes]]:
        """Pages that became full since the last call, with their digests; `computed` tokens are on the device."""
        if len(self.branches) > 1:
            return []
        start, self._published = self._published, computed // PAGE_TOKENS
        digests = self.digests(self._published)
        return list(zip(self.branch.pages[start : self._published], digests[start:], strict=True))

    def unpublished(self) -> list[bytes]:
        """Digests of the pages that are full once the device has come so far."""
        full = self.branch.computed // PAGE_TOKENS
        return self.digests(full)[self._published :] if full > self._published and len(self.branches) == 1 else []

    def needed_tiles(self) -> list[int]:
        """Tiles that have tokens which are still to be computed and whose features are not here."""
        return [tile for tile in self.tiles.after(self.branch.computed) if tile not in self.features]

    def restart(self) -> None:
        """Forget all that was computed, and keep what was said. Beams have said nothing and begin anew."""
        if self.beams:
            self.beams.restart()
            self.branches, self.count = [Branch(list(self.request.prompt.ids))], 0
        self.branch.pages, self.branch.computed, self._published = [], 0, 0
        self.features.clear()


def make_sequence(handle: RequestHandle, arrival: int, config: Config, tokenizer: Tokenizer, cache: int) -> Sequence:
    """The sequence of a request beside a cache of so many tokens. Raises `ContextExceeded`."""
    request, sampling, prompt = handle.request, handle.request.sampling, len(handle.request.prompt.ids)
    capacity = min(config.context, cache // sampling.num_beams - 1)
    if prompt >= capacity:
        holder = "context of the model" if capacity == config.context else "key-value cache"
        raise ContextExceeded(f"the prompt has {prompt} tokens and the {holder} holds {capacity}; send fewer tiles")
    separator = TEMPLATES[config.template].stop
    limit = min(capacity - prompt, sampling.max_new_tokens)
    beams = BeamSearch(sampling, tokenizer.token_id(separator), limit) if sampling.num_beams > 1 else None
    spans = tile_spans(request, config.tokens_per_tile)
    return Sequence(handle, spans, detokenizer_of(request, tokenizer, separator), limit, arrival, beams=beams)
