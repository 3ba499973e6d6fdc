"""Image features under a byte budget."""

import torch

from workers.vision.engine.feature_cache import FeatureCache

FEATURES = torch.zeros(4, 8)  # 128 bytes


def test_the_least_recently_used_goes_first() -> None:
    cache = FeatureCache(3 * FEATURES.nbytes)
    for key in (b"a", b"b", b"c"):
        cache.put(key, FEATURES)
    assert cache.get(b"a") is not None
    cache.put(b"d", FEATURES)
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None
    assert cache.bytes == 3 * FEATURES.nbytes


def test_what_is_larger_than_the_budget_is_not_kept() -> None:
    cache = FeatureCache(FEATURES.nbytes - 1)
    cache.put(b"a", FEATURES)
    assert (cache.get(b"a"), cache.bytes) == (None, 0)


def test_hits_and_computed_tiles_are_counted() -> None:
    cache = FeatureCache(1 << 20)
    assert cache.get(b"a") is None
    cache.put(b"a", FEATURES)
    cache.get(b"a")
    assert (cache.hits, cache.misses) == (1, 1)
