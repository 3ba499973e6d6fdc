"""From tiles to an answer: the request to the engine, and what its events and errors mean for the job."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import structlog

from shared.errors import Permanent, Transient
from shared.requests import Request
from workers.vision.affinity import PrefixSharing
from workers.vision.attempt import Attempt, AttemptAborted
from workers.vision.deltas import DeltaBuffer
from workers.vision.engine.base import Delta, Done, Engine, EngineRequest, Sampling, Stage, TokenMask
from workers.vision.engine.errors import (
    Cancelled,
    ContextExceeded,
    DeadlineExceeded,
    EngineError,
    EngineFailed,
    NonFiniteLogits,
    OutOfMemory,
)
from workers.vision.engine.factory import ServedModel
from workers.vision.images.decoder_pool import TiledImage
from workers.vision.json_mask import JsonMask
from workers.vision.watchdog import exit_now

log = structlog.get_logger(__name__)


def build_request(
    served: ServedModel,
    attempt: Attempt,
    request: Request,
    tiled: Sequence[TiledImage],
    sharing: PrefixSharing = "tenant",
) -> EngineRequest:
    """Write the prompt with as many image tokens as there are tiles, and join the tiles in its order.

    Under "tenant" only prompts of one tenant share keys and values: a tenant that shared with others would learn from
    the time to the first token, and from `cached_tokens`, which images they ask about.
    """
    counts = iter([len(image.tiles) for image in tiled])
    groups = request.groups or (1,) * len(tiled)
    tiles_per_block = [sum(next(counts) for _ in range(images)) for images in groups]
    prompt = served.prompt(request.messages, tiles_per_block)
    attempt.progress.update(tiles=sum(tiles_per_block), prompt_tokens=len(prompt.ids))
    tiles = [image.tiles for image in tiled] or [np.empty((0, served.side, served.side, 3), np.uint8)]
    sampling = Sampling(**request.generation.model_dump(exclude={"json_schema"}))
    return EngineRequest(
        attempt.key,
        prompt,
        tiles[0] if len(tiles) == 1 else np.concatenate(tiles),
        sampling,
        priority=attempt.job.priority,
        cache_salt=attempt.job.tenant if sharing == "tenant" else "",
        deadline=attempt.deadline,
        token_mask=_mask(served, request.generation.json_schema),
    )


def _mask(served: ServedModel, schema: dict[str, Any] | None) -> JsonMask | None:
    if schema is None:
        return None
    if served.masks is None:
        raise Permanent("json_schema_failed", "this engine writes no JSON")
    try:
        return served.masks.mask(schema)
    except ValueError as error:
        raise Permanent("json_schema_failed", f"the schema can't be enforced: {error}") from error


def run(engine: Engine, attempt: Attempt, request: EngineRequest, text: DeltaBuffer) -> Done:
    """Follow the engine's events to the answer; text goes to `text` as it comes.

    Raises `AttemptAborted`, `Permanent` or `Transient`. A failed engine ends the process.
    """
    with translate_errors(engine, attempt):
        attempt.check()
        for event in engine.submit(request):
            attempt.check()
            match event:
                case Stage(name):
                    attempt.progress["stage"] = name
                case Delta(delta, count):
                    attempt.timings.setdefault("first_token", attempt.age)
                    attempt.progress["completion_tokens"] = count
                    text.add(delta)
                case Done():
                    _refuse_if_cut(request.token_mask)
                    return event
        raise EngineError("the engine's events ended without an answer")


def _refuse_if_cut(mask: TokenMask | None) -> None:
    """Raise if the answer left its schema's grammar: it must not pass for JSON."""
    if isinstance(mask, JsonMask) and mask.failure:
        raise Permanent("json_schema_failed", f"the answer could not be held to the schema: {mask.failure}")


@contextmanager
def translate_errors(engine: Engine, attempt: Attempt) -> Iterator[None]:
    """Raise what an engine's error means for the job. `EngineFailed` ends the process: its leases expire."""
    try:
        yield
    except AttemptAborted:
        engine.cancel(attempt.key)
        raise
    except Cancelled as error:
        attempt.check()
        raise Transient("internal", "the worker's engine stopped before the job was answered") from error
    except DeadlineExceeded as error:
        attempt.abort("deadline_exceeded")
        raise AttemptAborted("deadline_exceeded") from error
    except OutOfMemory as error:
        message = "the device ran out of memory for this job beside the others; lower `tiles`, or submit it again later"
        raise Transient("out_of_memory", message) from error
    except ContextExceeded as error:
        raise Permanent("prompt_too_long", str(error)) from error
    except NonFiniteLogits as error:
        raise Permanent("non_finite_logits", str(error)) from error
    except EngineFailed as error:
        log.critical("engine failed, this worker exits", error=str(error), exc_info=True)
        exit_now()
        raise
