"""Pictures are what their seed and their questions say."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from infra.demo_model import seeds
from infra.demo_model.class_names import CHARACTERS, COLOURS, COLOURS_ZH, SHAPES, SHAPES_ZH
from infra.demo_model.conversations import about_one, random_drawing, repeated_shapes_scene
from infra.demo_model.dense_targets import dense_targets
from infra.demo_model.questions import Question, ask_count, ask_positions, ask_shapes
from infra.demo_model.render import Rng
from infra.demo_model.scenes import (
    MIN_CENTRE_DISTANCE_PX,
    PAGE_SIZE_PX,
    TILE_PX,
    Scene,
    number_scene,
    page_scene,
    print_scene,
    shapes_scene,
)


def test_training_and_evaluation_draw_from_different_streams() -> None:
    streams = [seeds.train(3, 4), seeds.check(3, 4), seeds.evaluate(3, 4), seeds.bundle(3, 4)]
    drawn = [tuple(rng.integers(0, 2**32, 4)) for rng in streams]
    assert len(set(drawn)) == len(streams)


def test_no_key_of_training_reaches_a_stream_of_the_evaluation() -> None:
    assert len({seeds.TRAIN, seeds.CHECK, seeds.EVALUATE, seeds.BUNDLE}) == 4
    assert seeds.train(7, 0).bit_generator.seed_seq.entropy == [seeds.TRAIN, 7, 0]  # type: ignore[attr-defined]
    assert seeds.evaluate(7, 0).bit_generator.seed_seq.entropy == [seeds.EVALUATE, 7, 0]  # type: ignore[attr-defined]


def test_the_same_stream_draws_the_same_picture() -> None:
    first, second = (random_drawing(seeds.check(11)) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    assert first.shapes == second.shapes
    assert first.number == second.number


@pytest.mark.parametrize("n", range(12))
def test_sides_of_shapes_are_never_in_doubt(n: int) -> None:
    shapes = shapes_scene(seeds.check(1, n)).shapes
    for i, one in enumerate(shapes):
        for other in shapes[:i]:
            assert abs(one.x - other.x) >= MIN_CENTRE_DISTANCE_PX
            assert abs(one.y - other.y) >= MIN_CENTRE_DISTANCE_PX


@pytest.mark.parametrize("n", range(12))
def test_a_page_has_three_to_six_fields_and_none_straddles_a_cut(n: int) -> None:
    page = page_scene(seeds.check(2, n))
    assert page.image.shape == (PAGE_SIZE_PX[1], PAGE_SIZE_PX[0], 3)
    assert 3 <= len(page.fields) <= 6
    for glyph in page.glyphs:
        x0, y0, x1, y1 = glyph.box
        assert x0 // TILE_PX == (x1 - 1) // TILE_PX
        assert y0 // TILE_PX == (y1 - 1) // TILE_PX


@pytest.mark.parametrize("n", range(12))
def test_every_digit_is_a_target_of_exactly_one_token(n: int) -> None:
    for scene in (number_scene(seeds.check(3, n), 288, 96), print_scene(seeds.check(4, n), 448, 448, 4)):
        targets = dense_targets(scene)
        digits = [g for g in scene.glyphs if g.index >= 0]
        assert int((targets.digits > 0).sum()) == len(digits)
        for glyph in digits:
            x0, y0, x1, y1 = glyph.box
            marked = targets.digits[int((y0 + y1) / 2 // 32), int((x0 + x1) / 2 // 32), glyph.index]
            assert CHARACTERS[marked - 1] == glyph.char


def thrice(scenes: list[Scene]) -> int:
    """How many of `scenes` have three shapes of a kind or of a colour."""
    counts = [[Counter(s.kind for s in scene.shapes), Counter(s.colour for s in scene.shapes)] for scene in scenes]
    return sum(max(*kinds.values(), *colours.values()) >= 3 for kinds, colours in counts)


def test_shapes_of_a_crowd_have_a_kind_or_a_colour_in_common() -> None:
    repeated_share, others = (
        [draw_scene(seeds.check(8, n)) for n in range(60)] for draw_scene in (repeated_shapes_scene, shapes_scene)
    )
    assert all(2 <= len(scene.shapes) <= 5 for scene in repeated_share)
    assert thrice(repeated_share) > 1.5 * thrice(others) > 0


@pytest.mark.parametrize("ask_one", [ask_shapes, ask_count])
@pytest.mark.parametrize("n", range(40))
def test_answers_about_shapes_follow_from_the_picture(n: int, ask_one: Callable[[Rng, Scene, bool], Question]) -> None:
    rng = seeds.check(5, n)
    scene, zh = shapes_scene(rng), bool(n % 2)
    question = ask_one(rng, scene, zh)
    kinds, colours = (SHAPES_ZH, COLOURS_ZH) if zh else (SHAPES, COLOURS)
    fits = [
        s
        for s in scene.shapes
        if all(w not in question.text or w == kinds[s.kind] for w in kinds)
        and all(w not in question.text or w == colours[s.colour] for w in colours)
    ]
    if question.answer.isdigit():
        assert int(question.answer) == len(fits)
    else:
        assert [question.answer] == [kinds[s.kind] if question.answer in kinds else colours[s.colour] for s in fits]


def test_a_caption_names_every_shape_from_left_to_right() -> None:
    scene = shapes_scene(seeds.check(6))
    captions = {ask_positions(seeds.check(6, n), scene, False).answer for n in range(40)}
    ordered = sorted(scene.shapes, key=lambda s: s.x)
    assert ", ".join(f"{COLOURS[s.colour]} {SHAPES[s.kind]}" for s in ordered) in captions


def test_a_conversation_ends_with_the_question_that_is_open() -> None:
    conversation = about_one(seeds.check(7), random_drawing(seeds.check(7)), 2)
    assert [m.role for m in conversation.messages] == ["user", "assistant", "user"]
    assert conversation.answer
