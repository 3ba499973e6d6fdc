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

OUTPUT_FOLDER = Path(__file__).parent / "out"


def save(name: str, content: dict[str, Any]) -> None:
    """Write `content` to OUT/name so that a reader sees the old file or the new one."""
    OUTPUT_FOLDER.mkdir(exist_ok=True)
    temporary = OUTPUT_FOLDER / f".{name}.draft"
    torch.save(content, temporary)
    temporary.replace(OUTPUT_FOLDER / name)


def load(name: str) -> dict[str, Any] | None:
    """Return what was saved as `name`, None if nothing was."""
    path = OUTPUT_FOLDER / name
    return torch.load(path, weights_only=False) if path.exists() else None  # our own file; holds optimiser states


def log(**entry: Any) -> None:
    """Append one line to log.jsonl and print it."""
    OUTPUT_FOLDER.mkdir(exist_ok=True)
    line = json.dumps({"at": time.strftime("%m-%d %H:%M:%S"), **entry}, ensure_ascii=False)
    with (OUTPUT_FOLDER / "log.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def write_pid() -> None:
    """Leave the process id where whoever wants to pause training looks for it."""
    OUTPUT_FOLDER.mkdir(exist_ok=True)
    (OUTPUT_FOLDER / "train.pid").write_text(f"{os.getpid()}\n")


def require_finite(loss: float) -> None:
    """Refuse a loss that is no number, before it spoils the weights and the state."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss}; start again: training goes on from the last state")


class CheckpointTimer:
    """Says when to save: every so often, and at once when asked to end (SIGTERM, SIGINT)."""

    def __init__(self, interval_s: float = 120.0) -> None:
        self.interval_s, self.saved, self.stop_requested = interval_s, time.monotonic(), False
        signal.signal(signal.SIGTERM, self._request_stop)
        signal.signal(signal.SIGINT, self._request_stop)

    def _request_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stop_requested = True

    def is_due(self, *, stop_requested: bool) -> bool:
        """Say whether to save now."""
        if stop_requested or time.monotonic() - self.saved > self.interval_s:
            self.saved = time.monotonic()
            return True
        return False
