"""The stock model behind the engine's interface: one request at a time, exact, the oracle of the other engines.

    submit ──> queue ──> one thread: vision ─> prefill ─> a step for each token ─> Done

The thread owns the device. After every layer it reports progress and drops a cancelled request, after every token it
reports text.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from shared.tokenization.tokenizer import Tokenizer
from workers.vision.checkpoint.config import Config
from workers.vision.engine import logits
from workers.vision.engine.base import (
    DEFAULT_TOP_K,
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
from workers.vision.engine.step_allowance import StepAllowance
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
    def device(self) -> torch.device:
        """Where the prompt's embeddings are computed."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """In which the model computes."""
        dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return dtype


class TransformersEngine:
    """See `Engine`. Requests run in order; a waiting one is cancelled at once, the running one within a layer."""

    slots = 1

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._lock = threading.Lock()
        self._handles: dict[str, RequestHandle] = {}
        self._waiting: queue.SimpleQueue[RequestHandle | None] = queue.SimpleQueue()
        self._current: RequestHandle | None = None
        self._finished = self._tokens = 0
        self._busy_since: float | None = None
        self._closed = False
        on_cpu = loaded.device.type == "cpu"
        self._allowance = StepAllowance(
            loaded.config,
            seconds_per_operation(loaded.dtype, loaded.device),
            layers_per_step=1 if on_cpu else loaded.config.vision.layers + loaded.config.decoder.layers,
        )
        _call_after_each_layer(loaded.model, self._layer_done)
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
        """Make the request raise `Cancelled`."""
        with self._lock:
            handle = self._handles.get(request_id)
        if handle:
            handle.cancel()

    def stats(self) -> EngineStats:
        """The figures of this moment."""
        with self._lock:
            running = int(self._current is not None)
            return EngineStats(
                running=running,
                waiting=len(self._handles) - running,
                finished=self._finished,
                generated_tokens=self._tokens,
                busy_since=self._busy_since,
                step_allowance=self._allowance.seconds,
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
                self._current = handle
            outcome = self._outcome(handle)
            with self._lock:  # before the reader hears of it, so that an ended request is in no figure
                self._current, self._busy_since = None, None
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
        available = loaded.config.context - len(request.prompt.ids)
        if available < 1:
            raise ContextExceeded(
                f"the prompt has {len(request.prompt.ids)} tokens and the context of the model holds "
                f"{loaded.config.context}; send fewer tiles or less text"
            )
        self._step_begins()
        embeddings = self._embed(handle)
        handle.stage("prefill")
        self._allowance.prefill(embeddings.shape[1] * request.sampling.num_beams)
        callback = _TokenCallback(handle, loaded, self._token_done)
        config = _generation_config(request.sampling, min(available, request.sampling.max_new_tokens), callback.end)
        with _global_seed(request.sampling, loaded.device):
            output = loaded.model.generate(
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device),
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([callback]),
                logits_processor=logits.processors(request, loaded.dtype, embeddings.device),
            )
        handle.check()
        callback.finish(output[0])
        return Done(
            text=callback.text,
            finish_reason="stop" if callback.stopped else "length",
            prompt_tokens=len(request.prompt.ids),
            image_tokens=request.prompt.image_tokens,
            cached_tokens=0,
            completion_tokens=callback.count,
            timings=handle.timer.stop(),
        )

    def _embed(self, handle: RequestHandle) -> Tensor:
        request, (model, config) = handle.request, (self._loaded.model, self._loaded.config)
        found: list[Tensor] = []
        if len(request.tiles):
            handle.stage("vision")
            self._allowance.vision(min(MAX_BATCH_TILES, len(request.tiles)))
            tiles = torch.from_numpy(np.require(request.tiles, requirements=["C", "W"]))
            for batch in feature_batches(model, config, tiles):
                found.append(batch)
                self._step_begins()
        ids = torch.tensor([request.prompt.ids], device=self._loaded.device)
        return embed(model, ids, self._loaded.tokenizer.token_id(IMAGE_CONTEXT), found)

    def _layer_done(self) -> None:
        """A layer has been computed, or on a GPU asked for. Raises `Cancelled`."""
        if self._current is None:  # the model is used by others too, who compare it
            return
        if self._busy_since is not None:
            self._allowance.layer_done(time.monotonic() - self._busy_since)
        self._step_begins()
        self._current.check()

    def _token_done(self) -> None:
        self._allowance.decode()
        self._step_begins()

    def _step_begins(self) -> None:
        """Note the moment, for the watchdog."""
        with self._lock:
            self._busy_since = time.monotonic()


class _TokenCallback(StoppingCriteria):
    """Called by `generate` after every token: reports text, and says when to stop."""

    def __init__(self, handle: RequestHandle, loaded: Loaded, token_done: Callable[[], None]) -> None:
        stop = TEMPLATES[loaded.config.template].stop
        self._handle = handle
        self._token_done = token_done
        self._beams = handle.request.sampling.num_beams > 1
        exact = handle.request.token_mask is not None
        stops = () if exact else (stop, *handle.request.sampling.stop)  # a grammar's answer ends by its token alone
        self._detokenizer = IncrementalDetokenizer(loaded.tokenizer, stops, exact)
        self.end = loaded.tokenizer.token_id(stop)
        self.count = 0
        self.stopped = False

    @property
    def text(self) -> str:
        """The text so far."""
        return self._detokenizer.text

    def __call__(self, input_ids: Tensor, _scores: Any, **_: Any) -> Any:
        """Take the newest token. Beams change until the end, so their text comes at once, with `finish`."""
        self._token_done()
        if not self.count:
            self._handle.stage("decode")
        if self._beams:
            self.count = input_ids.shape[1]
        elif not self.stopped:  # on a GPU the loop may run a step ahead of our word, and takes it back later
            self._take(int(input_ids[0, -1]))
        return torch.full((len(input_ids),), self._handle.cancelled or self.stopped, device=input_ids.device)

    def finish(self, output: Tensor) -> None:
        """Report the text that is left of `output` (N,)."""
        if self._beams:
            self.count = 0
            for token in output.tolist():
                self._take(token)
                if self.stopped:
                    break
        self._handle.delta(self._detokenizer.finish(), self.count)

    def _take(self, token: int) -> None:
        self.count += 1
        if token == self.end:
            self.stopped = True
            return
        self._handle.delta(self._detokenizer.push(token), self.count)
        self.stopped = self._detokenizer.stopped


def _generation_config(sampling: Sampling, max_new_tokens: int, end: int) -> GenerationConfig:
    make: Any = GenerationConfig
    options: dict[str, Any] = {"do_sample": False}  # a single sequence is drawn by its last processor, see `logits`
    if sampling.num_beams > 1 and not sampling.greedy:
        options = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
            "top_k": DEFAULT_TOP_K if sampling.top_k is None else sampling.top_k,
        }
    config: GenerationConfig = make(
        max_new_tokens=max_new_tokens, num_beams=sampling.num_beams, eos_token_id=end, pad_token_id=end, **options
    )
    return config


@contextmanager
def _global_seed(sampling: Sampling, device: torch.device) -> Iterator[None]:
    """Seed the global generator for as long as beams are drawn: stock beam search draws from no other."""
    if sampling.num_beams == 1 or sampling.greedy:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if sampling.seed is None:
            torch.seed()
        else:
            torch.manual_seed(sampling.seed)
        yield


def _call_after_each_layer(model: StockModel, callback: Callable[[], None]) -> None:
    """Call `callback` after each layer of tower and decoder."""

    def hook(*_: object) -> None:
        callback()

    for layers in (module for module in model.modules() if isinstance(module, nn.ModuleList)):
        for layer in layers:
            layer.register_forward_hook(hook)
