"""Random streams: training, its self-checks, the evaluation and the bundled images never share one.

The first word of every seed says what the stream is for, so no key of training and no seed of the evaluation can lead
to the same stream.
"""

import numpy as np

TRAIN = 1
EVALUATE = 2
CHECK = 3  # samples by which training measures itself
BUNDLE = 4  # images shipped with the command


def train(*key: int) -> np.random.Generator:
    """Return the training stream of `key`: phase, step or purpose, batch, rank."""
    return np.random.default_rng([TRAIN, *key])


def check(*key: int) -> np.random.Generator:
    """Return the stream `key` of training's own measurements and of tests."""
    return np.random.default_rng([CHECK, *key])


def evaluate(seed: int, *key: int) -> np.random.Generator:
    """Return the stream `key` of the evaluation with `seed`."""
    return np.random.default_rng([EVALUATE, seed, *key])


def bundle(*key: int) -> np.random.Generator:
    """Return the stream `key` of the bundled images."""
    return np.random.default_rng([BUNDLE, *key])
