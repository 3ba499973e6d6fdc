"""A computation recorded once and replayed: on a GPU a CUDA graph, which launches hundreds of kernels as one.

What is recorded reads and writes static buffers only, has no shape that depends on data and waits for nothing. Where
there is no GPU, a replay calls the function again and copies into the same outputs: tests see there what a graph does.
"""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP_CALLS = 2  # compile kernels and make libraries allocate what they keep; neither can be recorded


class GraphPool:
    """Memory that graphs share: the outputs of one are valid until the next replay of any."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.handle = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self.outputs: list[Tensor] = []  #: of all graphs on a CPU


class Graph:
    """One recorded function."""

    def __init__(self, function: Callable[[], tuple[Tensor, ...]], pool: GraphPool) -> None:
        """Run and record `function`."""
        self._function, self._pool = function, pool
        self._recorded: torch.cuda.CUDAGraph | None = None
        if pool.device.type == "cuda":
            self._record()
        else:
            self._outputs = tuple(output.clone() for output in function())
            pool.outputs += self._outputs

    def replay(self) -> tuple[Tensor, ...]:
        """Compute anew from what the static buffers hold now; the outputs are the same tensors each time."""
        if self._recorded:
            self._recorded.replay()
        else:
            for output in self._pool.outputs:
                output.fill_(torch.nan if output.is_floating_point() else -1)
            for output, computed in zip(self._outputs, self._function(), strict=True):
                output.copy_(computed)
        return self._outputs

    def _record(self) -> None:
        stream = torch.cuda.Stream(self._pool.device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(self._pool.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                self._function()
        current.wait_stream(stream)
        self._recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._recorded, pool=self._pool.handle, stream=stream, capture_error_mode="thread_local"):
            self._outputs = self._function()
