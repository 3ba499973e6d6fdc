"""The training state on disk, from which training resumes after an interruption; and when to save it."""

import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch

OUTPUT_FOLDER = Path(__file__).parent / "out"
STATE_FILE = "state.pt"
SAVE_INTERVAL_S = 120.0


def save(state: dict[str, Any]) -> None:
    """Replace the saved state; a reader sees the old file or the new one, whole."""
    OUTPUT_FOLDER.mkdir(exist_ok=True)
    temporary = OUTPUT_FOLDER / f".{STATE_FILE}.draft"
    torch.save(state, temporary)
    temporary.replace(OUTPUT_FOLDER / STATE_FILE)


def load() -> dict[str, Any] | None:
    """Return the saved state, None if there is none."""
    path = OUTPUT_FOLDER / STATE_FILE
    # pickled optimiser states, written by this module: no file from elsewhere is read
    return torch.load(path, weights_only=False) if path.exists() else None  # nosec B614


def write_pid() -> None:
    """Write this process's id to train.pid, for pausing with SIGSTOP."""
    OUTPUT_FOLDER.mkdir(exist_ok=True)
    (OUTPUT_FOLDER / "train.pid").write_text(f"{os.getpid()}\n")


class SaveTimer:
    """Decides when to save: at a fixed interval, and at once after SIGTERM or SIGINT, which it handles."""

    def __init__(self, interval_s: float = SAVE_INTERVAL_S) -> None:
        self.interval_s, self.saved_at, self.stop_requested = interval_s, time.monotonic(), False
        signal.signal(signal.SIGTERM, self._request_stop)
        signal.signal(signal.SIGINT, self._request_stop)

    def _request_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stop_requested = True

    def is_due(self, *, stop_requested: bool) -> bool:
        """Return whether to save now; if so, the next interval begins."""
        if stop_requested or time.monotonic() - self.saved_at > self.interval_s:
            self.saved_at = time.monotonic()
            return True
        return False
