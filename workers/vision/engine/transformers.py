"""The stock model behind the engine's interface: one request a step, exact, the oracle of the other engines.

    step: vision ─> prefill ─> a token ─> a token … ─> Done

After every layer the engine reports progress and drops a cancelled request, after every token it reports text.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import StoppingCriteriaList

from shared.tokenization.tokenizer import Tokenizer
from workers.vision.checkpoint.config import Config
from workers.vision.engine.base import Done
from workers.vision.engine.engine_thread import EngineThread, Outcome
from workers.vision.engine.errors import Cancelled, ContextExceeded, DeadlineExceeded
from workers.vision.engine.handle import RequestHandle
from workers.vision.engine.stats import EngineStats
from workers.vision.engine.step_allowance import HANG_FACTOR, decoder_operations, vision_operations
from workers.vision.engine.stock_generation import TokenCallback, generation_config, global_seed, logits_processors
from workers.vision.engine.torch_errors import translate
from workers.vision.model.device import seconds_per_operation
from workers.vision.model.hf_model import StockModel
from workers.vision.model.image_features import MAX_BATCH_TILES, embed, feature_batches
from workers.vision.prompts import IMAGE_CONTEXT, TEMPLATES


@dataclass(frozen=True)
class Loaded:
    """A model on its device, with what belongs to it."""

    model: StockModel
    config: Config
    tokenizer: Tokenizer

    @property
    def embedding(self) -> Tensor:
        """The weight that tells device and dtype of the decoder's begin."""
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight


class TransformersEngine(EngineThread[RequestHandle]):
    """See `Engine`. Requests run in order."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(StockCore(loaded, self._leave, self._progress), slots=1)


class StockCore:
    """See `Core`."""

    def __init__(
        self, loaded: Loaded, leave: Callable[[RequestHandle, Outcome], None], progress: Callable[[], None]
    ) -> None:
        self._loaded, self._leave, self._progress = loaded, leave, progress
        self._waiting: deque[RequestHandle] = deque()
        self._current: RequestHandle | None = None
        self._finished = self._tokens = 0
        self._operation_s = seconds_per_operation(loaded.embedding.dtype, loaded.embedding.device)
        self._expected_s = 0.0  # of the forward pass in progress; 0 of one over single tokens
        _call_after_each_layer(loaded.model, self._layer_done)

    @property
    def busy(self) -> bool:
        """A request waits."""
        return bool(self._waiting)

    def prepare(self, handle: RequestHandle, _arrival: int) -> RequestHandle:
        """The request as it is. Raises `ContextExceeded`."""
        if self._room(handle) < 1:
            raise ContextExceeded(
                f"the prompt has {len(handle.request.prompt.ids)} tokens and the context of the model holds "
                f"{self._loaded.config.context}; send fewer tiles or less text"
            )
        return handle

    def add(self, handle: RequestHandle) -> None:
        """Queue a request."""
        self._waiting.append(handle)

    def drop_unwanted(self, *, everything: bool = False) -> None:
        """End the cancelled requests, or all of them, and those whose deadline has passed."""
        waiting, self._waiting = self._waiting, deque()
        for handle in waiting:
            if everything or handle.cancelled:
                self._leave(handle, Cancelled())
            elif handle.late:
                self._leave(handle, DeadlineExceeded())
            else:
                self._waiting.append(handle)

    def step(self) -> None:
        """Answer the request that waits longest."""
        if not self._waiting:
            return
        self._current = handle = self._waiting.popleft()
        outcome: Outcome
        try:
            outcome = self._answer(handle)
            self._finished += 1
            self._tokens += outcome.completion_tokens
        except Exception as error:
            outcome = translate(error)
        self._current = None
        self._leave(handle, outcome)

    def stats(self) -> EngineStats:
        """What the core itself knows of this moment."""
        return EngineStats(
            running=int(self._current is not None),
            finished=self._finished,
            generated_tokens=self._tokens,
            step_allowance=HANG_FACTOR * self._expected_s,
        )

    def _room(self, handle: RequestHandle) -> int:
        return self._loaded.config.context - len(handle.request.prompt.ids)

    @torch.inference_mode()
    def _answer(self, handle: RequestHandle) -> Done:
        request, loaded, sampling = handle.request, self._loaded, handle.request.sampling
        embeddings = self._embed(handle)
        handle.stage("prefill")
        self._expect(decoder_operations(loaded.config, embeddings.shape[1] * sampling.num_beams))
        stop = TEMPLATES[loaded.config.template].stop
        callback = TokenCallback(handle, loaded.tokenizer, stop, self._token_done)
        most = min(self._room(handle), sampling.max_new_tokens)
        with global_seed(sampling, embeddings.device):
            output = loaded.model.generate(
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device),
                generation_config=generation_config(sampling, most, loaded.tokenizer.token_id(stop)),
                stopping_criteria=StoppingCriteriaList([callback]),
                logits_processor=logits_processors(request, embeddings.dtype),
            )
        handle.check()
        callback.finish(output[0])
        return handle.done(callback.text.text, stopped=callback.text.stopped, completion_tokens=callback.count)

    def _embed(self, handle: RequestHandle) -> Tensor:
        request, loaded = handle.request, self._loaded
        found: list[Tensor] = []
        if len(request.tiles):
            handle.stage("vision")
            self._expect(vision_operations(loaded.config, min(MAX_BATCH_TILES, len(request.tiles))))
            tiles = torch.from_numpy(np.require(request.tiles, requirements=["C", "W"]))
            found += feature_batches(loaded.model, loaded.config, tiles)
        ids = torch.tensor([request.prompt.ids], device=loaded.embedding.device)
        return embed(loaded.model, ids, loaded.tokenizer.token_id(IMAGE_CONTEXT), found)

    def _expect(self, operations: float) -> None:
        """A forward pass begins."""
        self._expected_s = operations * self._operation_s
        self._progress()

    def _layer_done(self) -> None:
        """A layer has been computed, or on a GPU asked for. Raises `Cancelled`."""
        if self._current is not None:  # else the model is used by others, who compare it
            self._progress()
            self._current.check()

    def _token_done(self) -> None:
        self._expect(0)


def _call_after_each_layer(model: StockModel, callback: Callable[[], None]) -> None:
    """Call `callback` after each layer of tower and decoder."""

    def hook(*_: object) -> None:
        callback()

    for layers in (module for module in model.modules() if isinstance(module, nn.ModuleList)):
        for layer in layers:
            layer.register_forward_hook(hook)
