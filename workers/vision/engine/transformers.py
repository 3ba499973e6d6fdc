"""The stock model behind the engine's interface: one request at a time, exact, the oracle of the other engines.

    submit ──> queue ──> one thread: vision ─> prefill ─> a step for each token ─> Done

The thread owns the device. Between two steps it hands out text and looks whether the request is still wanted.
"""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.logits_process import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from shared.tokenization.tokenizer import Tokenizer
from workers.vision.checkpoint.config import Config
from workers.vision.engine.base import (
    ContextExceeded,
    Done,
    EngineClosed,
    EngineRequest,
    EngineStats,
    Event,
    Sampling,
)
from workers.vision.engine.detokenize import IncrementalDetokenizer
from workers.vision.engine.handle import RequestHandle
from workers.vision.engine.torch_errors import translate
from workers.vision.model.hf_model import StockModel
from workers.vision.model.image_features import embed, feature_batches
from workers.vision.prompts import IMAGE_CONTEXT, TEMPLATES

TOP_K = 50  # what generation under the card's code falls back to when it samples


@dataclass(frozen=True)
class Loaded:
    """A model on its device, with what belongs to it."""

    model: StockModel
    config: Config
    tokenizer: Tokenizer


class TransformersEngine:
    """See `Engine`. Requests wait in order; waiting ones are cancelled at once, the running one within a step."""

    slots = 1

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._lock = threading.Lock()
        self._handles: dict[str, RequestHandle] = {}
        self._waiting: queue.SimpleQueue[RequestHandle | None] = queue.SimpleQueue()
        self._running = self._finished = self._tokens = 0
        self._busy_since: float | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: EngineRequest) -> Iterator[Event]:
        """Queue the request at once; its events come as they are read."""
        handle = RequestHandle(request)
        with self._lock:
            if self._closed:
                raise EngineClosed
            self._handles[request.id] = handle
            self._waiting.put(handle)
        return handle.events()

    def cancel(self, request_id: str) -> None:
        """Make the request leave."""
        with self._lock:
            handle = self._handles.get(request_id)
        if handle:
            handle.cancel()

    def stats(self) -> EngineStats:
        """The figures of this moment."""
        with self._lock:
            return EngineStats(
                running=self._running,
                waiting=len(self._handles) - self._running,
                finished=self._finished,
                generated_tokens=self._tokens,
                busy_since=self._busy_since,
                memory_bytes=torch.cuda.memory_allocated() if torch.cuda.is_available() else None,
            )

    def close(self) -> None:
        """Cancel everything and end the thread."""
        with self._lock:
            self._closed = True
            handles = list(self._handles.values())
        for handle in handles:
            handle.cancel()
        self._waiting.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while handle := self._waiting.get():
            with self._lock:
                self._running = 1
            outcome = self._outcome(handle)
            with self._lock:  # before the reader hears of it, so that an ended request is in no figure
                self._running, self._busy_since = 0, None
                # An id given twice: the later one stays cancellable.
                if self._handles.get(handle.request.id) is handle:
                    del self._handles[handle.request.id]
                if isinstance(outcome, Done):
                    self._finished += 1
                    self._tokens += outcome.completion_tokens
            handle.end(outcome)

    def _outcome(self, handle: RequestHandle) -> Done | Exception:
        try:
            handle.check()
            return self._answer(handle)
        except Exception as error:
            return translate(error)

    @torch.inference_mode()
    def _answer(self, handle: RequestHandle) -> Done:
        request, loaded = handle.request, self._loaded
        room = loaded.config.context - len(request.prompt.ids)
        if room < 1:
            raise ContextExceeded(
                f"the prompt has {len(request.prompt.ids)} tokens and the context of the model holds "
                f"{loaded.config.context}; send fewer tiles or less text"
            )
        self._step()
        embeddings = self._embed(handle)
        handle.stage("prefill")
        follower = _Follower(self, handle, loaded)
        output = loaded.model.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device),
            generation_config=_generation(request.sampling, min(room, request.sampling.max_new_tokens), follower.end),
            stopping_criteria=StoppingCriteriaList([follower]),
            logits_processor=_penalty(request.sampling),
        )
        handle.check()
        follower.finish(output[0])
        return Done(
            text=follower.text,
            finish_reason="stop" if follower.stopped else "length",
            prompt_tokens=len(request.prompt.ids),
            image_tokens=request.prompt.image_tokens,
            cached_tokens=0,
            completion_tokens=follower.count,
            timings=handle.timer.stop(),
        )

    def _embed(self, handle: RequestHandle) -> Tensor:
        request, (model, config) = handle.request, (self._loaded.model, self._loaded.config)
        found: list[Tensor] = []
        if len(request.tiles):
            handle.stage("vision")
            for batch in feature_batches(
                model, config, torch.from_numpy(np.require(request.tiles, requirements=["C", "W"]))
            ):
                found.append(batch)
                handle.check()
                self._step()
        ids = torch.tensor([request.prompt.ids], device=model.get_input_embeddings().weight.device)
        return embed(model, ids, self._loaded.tokenizer.token_id(IMAGE_CONTEXT), found)

    def _step(self) -> None:
        """A step begins: a watchdog that finds this moment too long ago knows that the device hangs."""
        with self._lock:
            self._busy_since = time.monotonic()


class _Follower(StoppingCriteria):
    """Called after every step of `generate`: hands out text, and says when to stop."""

    def __init__(self, engine: TransformersEngine, handle: RequestHandle, loaded: Loaded) -> None:
        stop = TEMPLATES[loaded.config.template].stop
        self._engine = engine
        self._handle = handle
        self._beams = handle.request.sampling.num_beams > 1
        self._stream = IncrementalDetokenizer(loaded.tokenizer, (stop, *handle.request.sampling.stop))
        self.end = loaded.tokenizer.token_id(stop)
        self.count = 0
        self.stopped = False

    @property
    def text(self) -> str:
        """The text so far."""
        return self._stream.text

    def __call__(self, input_ids: Tensor, _scores: Any, **_: Any) -> Any:
        """Look at the newest token. Beams change until the end, so their text comes at once, with `finish`."""
        self._engine._step()
        if not self.count:
            self._handle.stage("decode")
        if self._beams:
            self.count = input_ids.shape[1]
        elif not self.stopped:  # on a GPU the loop may run a step ahead of our word, and takes it back later
            self._take(int(input_ids[0, -1]))
        return torch.full((len(input_ids),), self._handle.cancelled or self.stopped, device=input_ids.device)

    def finish(self, output: Tensor) -> None:
        """The loop has ended with `output`: hand out what is left."""
        if self._beams:
            self.count = 0
            for token in output.tolist():
                self._take(token)
                if self.stopped:
                    break
        self._handle.delta(self._stream.finish(), self.count)

    def _take(self, token: int) -> None:
        self.count += 1
        if token == self.end:
            self.stopped = True
            return
        self._handle.delta(self._stream.push(token), self.count)
        self.stopped = self._stream.stopped


def _generation(sampling: Sampling, max_new_tokens: int, end: int) -> GenerationConfig:
    make: Any = GenerationConfig
    options: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        if sampling.seed is None:
            torch.seed()
        else:
            torch.manual_seed(sampling.seed)
        options = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
            "top_k": TOP_K if sampling.top_k is None else sampling.top_k,
        }
    config: GenerationConfig = make(
        max_new_tokens=max_new_tokens, num_beams=sampling.num_beams, eos_token_id=end, pad_token_id=end, **options
    )
    return config


def _penalty(sampling: Sampling) -> LogitsProcessorList:
    """Given by hand: through the configuration it would come with a warning that it leaves the prompt alone."""
    penalty = sampling.repetition_penalty
    return LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty)] if penalty not in (None, 1.0) else [])
