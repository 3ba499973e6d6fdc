"""Where randomness comes from: training and evaluation draw from streams that cannot meet.

The first word of every seed says what the numbers are for, so no step of training, whatever its number, and no
seed given to the evaluation can share a stream.
"""

import numpy as np

TRAIN = 1
EVALUATE = 2
CHECK = 3  # the small samples that training logs about itself
BUNDLE = 4  # the pictures shipped with the command


def train(*key: int) -> np.random.Generator:
    """Return the stream of one piece of training, named by `key` (phase, step, kind)."""
    return np.random.default_rng([TRAIN, *key])


def check(*key: int) -> np.random.Generator:
    """Return the stream of the samples by which training watches itself."""
    return np.random.default_rng([CHECK, *key])


def evaluate(seed: int, *key: int) -> np.random.Generator:
    """Return the stream of one part of the evaluation with `seed`."""
    return np.random.default_rng([EVALUATE, seed, *key])


def bundle(*key: int) -> np.random.Generator:
    """Return the stream of the bundled pictures."""
    return np.random.default_rng([BUNDLE, *key])
