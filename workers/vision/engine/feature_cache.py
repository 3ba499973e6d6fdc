"""Projected image features by the content of their tile, least recently used first to go, under a byte budget."""

from collections import OrderedDict

from torch import Tensor


class FeatureCache:
    """(tokens of a tile, hidden) tensors. Used by the engine's thread only."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._features: OrderedDict[bytes, Tensor] = OrderedDict()
        self.bytes = 0
        self.hits = self.misses = 0

    def get(self, key: bytes) -> Tensor | None:
        """The features of a tile, or None."""
        found = self._features.get(key)
        if found is not None:
            self.hits += 1
            self._features.move_to_end(key)
        return found

    def peek(self, key: bytes) -> Tensor | None:
        """The features of a tile, or None; counts no hit."""
        return self._features.get(key)

    def put(self, key: bytes, features: Tensor) -> None:
        """Keep the features of a tile that had to be computed while the budget allows."""
        self.misses += 1
        if key in self._features or features.nbytes > self._budget:
            return
        self._features[key] = features
        self.bytes += features.nbytes
        while self.bytes > self._budget:
            self.bytes -= self._features.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget all of them."""
        self._features.clear()
        self.bytes = 0
