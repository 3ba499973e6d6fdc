"""What training needs to go on after any interruption: one file, replaced whole."""

import json
import math
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch

OUT = Path(__file__).parent / "out"


def save(name: str, content: dict[str, Any]) -> None:
    """Write `content` to OUT/name so that a reader sees the old file or the new one."""
    OUT.mkdir(exist_ok=True)
    draft = OUT / f".{name}.draft"
    torch.save(content, draft)
    draft.replace(OUT / name)


def load(name: str) -> dict[str, Any] | None:
    """Return what was saved as `name`, None if nothing was."""
    path = OUT / name
    return torch.load(path, weights_only=False) if path.exists() else None  # our own file; holds optimiser states


def log(**entry: Any) -> None:
    """Append one line to log.jsonl and print it."""
    OUT.mkdir(exist_ok=True)
    line = json.dumps({"at": time.strftime("%m-%d %H:%M:%S"), **entry}, ensure_ascii=False)
    with (OUT / "log.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def write_pid() -> None:
    """Leave the process id where whoever wants to pause training looks for it."""
    OUT.mkdir(exist_ok=True)
    (OUT / "train.pid").write_text(f"{os.getpid()}\n")


def sound(loss: float) -> None:
    """Refuse a loss that is no number, before it spoils the weights and the state."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss}; start again: training goes on from the last state")


class Clock:
    """Says when to save: every so often, and at once when asked to end (SIGTERM, SIGINT)."""

    def __init__(self, every: float = 120.0) -> None:
        self.every, self.saved, self.ending = every, time.monotonic(), False
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)

    def _end(self, _signal: int, _frame: FrameType | None) -> None:
        self.ending = True

    def due(self, *, ending: bool) -> bool:
        """Say whether to save now."""
        if ending or time.monotonic() - self.saved > self.every:
            self.saved = time.monotonic()
            return True
        return False
