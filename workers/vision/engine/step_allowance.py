"""What a forward pass costs, so that a slow device is not taken for a hanging one.

A watchdog allows `HANG_FACTOR` times what the pass in progress should take: its operations at the speed of a matrix
product that was measured at the start, in the resident engine at the speed of the steps before.
"""

from workers.vision.checkpoint.config import Config

HANG_FACTOR = 10.0  #: times slower than measured before a step counts as hanging


def decoder_operations(config: Config, tokens: int) -> float:
    """Multiplications and additions of all layers of the decoder over `tokens` of one prompt."""
    decoder = config.decoder
    projections = 2 * decoder.hidden**2 + 2 * decoder.hidden * decoder.kv_heads * decoder.head
    weights = projections + 3 * decoder.hidden * decoder.inner
    return decoder.layers * (2.0 * tokens * weights + 4.0 * tokens**2 * decoder.hidden)


def vision_operations(config: Config, tiles: int) -> float:
    """Multiplications and additions of all layers of the tower over `tiles`."""
    vision = config.vision
    tokens = vision.grid**2 + 1
    weights = 4 * vision.hidden**2 + 2 * vision.hidden * vision.inner
    return config.used_layers * tiles * (2.0 * tokens * weights + 4.0 * tokens**2 * vision.hidden)
