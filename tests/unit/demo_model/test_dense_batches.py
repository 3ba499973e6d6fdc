"""Dropping blank tokens keeps all that an image shows."""

import numpy as np

from infra.demo_model import seeds
from infra.demo_model.dense_batches import BatchSpec, draw_batch


def test_only_blank_tokens_are_dropped() -> None:
    whole, sparse = (draw_batch(BatchSpec("tile", 14, 14, 3, kept_tokens=kept), seeds.check(50)) for kept in (0, 120))
    assert sparse.kept_tokens is not None
    assert sparse.tokens.shape[1] == 120
    assert (sparse.patches > 0).sum() == (whole.patches > 0).sum()
    assert (sparse.tokens > 0).sum() == (whole.tokens > 0).sum()
    assert np.array_equal(sparse.tokens, np.take_along_axis(whole.tokens, sparse.kept_tokens[:, :, None], 1))
