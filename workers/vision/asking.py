"""From tiles to an answer: what the engine is asked, and what its events and errors mean for the job."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import structlog

from shared.errors import Permanent, Transient
from shared.requests import Request
from workers.vision.deltas import Stream
from workers.vision.engine.base import (
    Cancelled,
    ContextExceeded,
    Delta,
    Done,
    Engine,
    EngineError,
    EngineFailed,
    EngineRequest,
    NonFiniteLogits,
    OutOfMemory,
    Sampling,
    Stage,
)
from workers.vision.engine.factory import Served
from workers.vision.hands import Dropped, Held
from workers.vision.sandbox import Tiled
from workers.vision.watchdog import end_now

log = structlog.get_logger(__name__)


def question(served: Served, held: Held, request: Request, tiled: Sequence[Tiled]) -> EngineRequest:
    """Write the prompt, as many image tokens in it as there are tiles."""
    counts = iter([len(one.tiles) for one in tiled])
    groups = request.groups or (1,) * len(tiled)
    per_place = [sum(next(counts) for _ in range(images)) for images in groups]
    prompt = served.prompt(request.messages, per_place)
    held.progress.update(tiles=sum(per_place), prompt_tokens=len(prompt.ids))
    tiles = [one.tiles for one in tiled] or [np.empty((0, served.side, served.side, 3), np.uint8)]
    sampling = Sampling(**request.generation.model_dump())
    return EngineRequest(held.key, prompt, tiles[0] if len(tiles) == 1 else np.concatenate(tiles), sampling)


def ask(engine: Engine, held: Held, asked: EngineRequest, stream: Stream) -> Done:
    """Follow the engine to the answer; text goes to `stream` as it comes."""
    with _understood(engine, held):
        held.check()
        for event in engine.submit(asked):
            held.check()
            match event:
                case Stage(name):
                    held.progress["stage"] = name
                case Delta(text, count):
                    held.timings.setdefault("first_token", held.age)
                    held.progress["completion_tokens"] = count
                    stream.add(text)
                case Done():
                    return event
        raise EngineError("the engine's events ended without an answer")


@contextmanager
def _understood(engine: Engine, held: Held) -> Iterator[None]:
    """Say what an engine's error means for the job. A dead engine ends the process: leases give its jobs to others."""
    try:
        yield
    except Dropped:
        engine.cancel(held.key)
        raise
    except Cancelled as error:
        held.check()
        raise Transient("internal", "the engine let go of the job") from error
    except OutOfMemory as error:
        raise Transient("out_of_memory", "the device had no memory for this job beside its neighbours") from error
    except ContextExceeded as error:
        raise Permanent("prompt_too_long", str(error)) from error
    except NonFiniteLogits as error:
        raise Permanent("non_finite_logits", str(error)) from error
    except EngineFailed as error:
        log.critical("the engine is dead, this worker ends", error=str(error), exc_info=True)
        end_now()
        raise
