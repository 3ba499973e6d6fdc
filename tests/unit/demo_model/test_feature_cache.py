"""Pages and drawings from the cache are like those that are drawn whole."""

from infra.demo_model import seeds
from infra.demo_model.feature_cache import FeatureCache, TileCounts, add_tiles, compose_page
from infra.demo_model.model import ChatModel


def test_a_page_composed_of_tiles_has_the_fields_of_a_page(model: ChatModel) -> None:
    cache = FeatureCache()
    for step in range(2):
        add_tiles(cache, model, seeds.check(40, step), TileCounts(4, 7, 1, 1))
    page, chosen = compose_page(cache, seeds.check(41))
    assert len(chosen) == 7
    assert 3 <= len(page.fields) <= 6
    assert sum(len(t.scene.fields) for t in chosen[:6]) == len(page.fields)


def test_new_drawings_repeat_shapes_as_often_as_asked(model: ChatModel) -> None:
    independent, repeated = FeatureCache(), FeatureCache()
    add_tiles(independent, model, seeds.check(42), TileCounts(9, 0, 0, 0))
    add_tiles(repeated, model, seeds.check(42), TileCounts(9, 0, 0, 0), repeated_share=1.0)
    assert any(t.scene.number for t in independent.drawings)
    assert not any(t.scene.number for t in repeated.drawings)


def test_a_cached_tile_holds_no_pixels(model: ChatModel) -> None:
    cache = FeatureCache()
    add_tiles(cache, model, seeds.check(43), TileCounts(1, 1, 1, 1))
    for queue in (cache.drawings, cache.print_tiles, cache.blank_tiles, cache.thumbnails):
        assert queue[0].scene.image.size == 0
        assert queue[0].scene.image.base is None
