"""How long an engine step may take on this device, so that a slow device is not taken for a hanging one.

A step is what passes between two signs of progress: on a CPU one layer over all tokens of a prefill, on a GPU, which is
asked for all layers ahead, the whole forward pass. The allowance is `HANG_FACTOR` times the step's operations at the
measured speed: of one matrix product at the start, and then of the layers as they are computed, since attention,
memory and other processes make them slower than products.
"""

from workers.vision.checkpoint.config import Config

HANG_FACTOR = 10.0  #: times slower than measured before a step counts as hanging
SMOOTHING = 0.1  #: weight of the newest layer in the measured speed


class StepAllowance:
    """The allowance of the steps of one engine."""

    def __init__(self, config: Config, seconds_per_operation: float, layers_per_step: int) -> None:
        self._config = config
        self._measured = self._seconds_per_operation = seconds_per_operation
        self._layers = layers_per_step
        self._operations = 0.0

    def prefill(self, tokens: int) -> None:
        """A forward pass over `tokens` of the decoder begins, those of all beams together."""
        self._operations = decoder_layer_operations(self._config, tokens)

    def vision(self, tiles: int) -> None:
        """A forward pass over `tiles` of the tower begins."""
        self._operations = vision_layer_operations(self._config, tiles)

    def layer_done(self, seconds: float) -> None:
        """A layer took `seconds`. One that was faster than the product was asked for ahead and tells nothing."""
        if self._operations:
            newest = max(self._measured, seconds / self._operations)
            self._seconds_per_operation += SMOOTHING * (newest - self._seconds_per_operation)

    def decode(self) -> None:
        """Single tokens follow."""
        self._operations = 0.0

    @property
    def seconds(self) -> float:
        """Seconds that the step in progress may take."""
        return HANG_FACTOR * self._layers * self._operations * self._seconds_per_operation


def decoder_layer_operations(config: Config, tokens: int) -> float:
    """Return the multiplications and additions of one decoder layer over `tokens`."""
    decoder = config.decoder
    projections = 2 * decoder.hidden**2 + 2 * decoder.hidden * decoder.kv_heads * decoder.head
    weights = projections + 3 * decoder.hidden * decoder.inner
    return 2.0 * tokens * weights + 4.0 * tokens**2 * decoder.hidden


def vision_layer_operations(config: Config, tiles: int) -> float:
    """Return the multiplications and additions of one layer of the tower over `tiles`."""
    vision = config.vision
    tokens = vision.grid**2 + 1
    weights = 4 * vision.hidden**2 + 2 * vision.hidden * vision.inner
    return tiles * (2.0 * tokens * weights + 4.0 * tokens**2 * vision.hidden)
