"""Numbers on their way to a device and back, in such a way that the host waits only where it says so.

A copy from or to pinned memory is queued like a kernel; torch reuses the memory once the copy is over. On a CPU nothing
is copied and nothing waited for.
"""

import time
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor


class Mark:
    """Where the queue of a device ends now: on a GPU an event on its current stream; a CPU has come here already."""

    def __init__(self, device: torch.device) -> None:
        self._at = time.perf_counter()
        self._event: Any = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        """Block until the device has come here."""
        if self._event:
            self._event.synchronize()

    def since(self, earlier: Self) -> float:
        """Seconds from `earlier` to here, once both have passed."""
        if self._event:
            return float(earlier._event.elapsed_time(self._event)) / 1000
        return self._at - earlier._at


def to_device(values: Sequence[object], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Queue an upload of nested lists of numbers."""
    return torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def staging(shape: Sequence[int], device: torch.device) -> Tensor:
    """uint8 memory of the host from which an upload to `device` can be queued."""
    return torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")


class Readback:
    """Integers that are being copied to the host."""

    def __init__(self, values: Tensor) -> None:
        """Queue the copy of `values` (N,) int64."""
        self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
        self._values.copy_(values, non_blocking=True)
        self._ready = Mark(values.device)

    def read(self) -> list[int]:
        """Wait for them."""
        self._ready.wait()
        found: list[int] = self._values.tolist()
        return found
