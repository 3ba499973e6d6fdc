"""The echo engine keeps every promise of the interface."""

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from shared.conversation import Message
from workers.vision.engine.base import Delta, Done, EngineRequest, Sampling, Stage
from workers.vision.engine.echo import EchoEngine
from workers.vision.engine.errors import Cancelled
from workers.vision.prompts import plain


def request(text: str = "What is this?", tiles: int = 0, **sampling: Any) -> EngineRequest:
    prompt = plain([Message(role="user", content=text)], [tiles] if tiles else [], 256)
    return EngineRequest("job", prompt, np.zeros((tiles, 448, 448, 3), np.uint8), Sampling(**sampling))


def test_it_says_what_it_was_asked() -> None:
    events = list(EchoEngine().submit(request(tiles=1)))
    done = events[-1]
    assert isinstance(done, Done)
    assert done.text == "echo: What is this?" == "".join(event.text for event in events if isinstance(event, Delta))
    assert [event.name for event in events if isinstance(event, Stage)] == ["vision", "prefill", "decode"]
    assert (done.finish_reason, done.image_tokens, done.completion_tokens) == ("stop", 256, 4)


def test_it_stops_at_the_limit() -> None:
    *_, done = EchoEngine().submit(request(max_new_tokens=2))
    assert isinstance(done, Done)
    assert (done.text, done.finish_reason, done.completion_tokens) == ("echo: What", "length", 2)


def test_it_leaves_when_cancelled() -> None:
    engine = EchoEngine(seconds_per_token=30)
    threading.Timer(0.05, engine.cancel, ["job"]).start()
    with pytest.raises(Cancelled):
        list(engine.submit(request()))
    assert engine.stats().running == 0


def test_a_worker_with_it_needs_no_torch() -> None:
    program = (
        "import sys; from shared.settings.roles import Settings; import workers.vision.images.decoder_pool; "
        "from workers.vision.engine.factory import make_engine; make_engine(Settings(engine='echo')); "
        "print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
