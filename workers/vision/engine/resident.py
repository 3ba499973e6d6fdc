"""The resident engine: many requests in one batch, a token of each running answer a step. Its step is `core`'s."""

from workers.vision.engine.core import EngineCore, Parts
from workers.vision.engine.engine_thread import EngineThread
from workers.vision.engine.sequence import Sequence


class ResidentEngine(EngineThread[Sequence]):
    """See `Engine`."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        parts.runner.after_each_layer(self._progress)
        super().__init__(EngineCore(parts, self._leave, self._progress), parts.slots)
